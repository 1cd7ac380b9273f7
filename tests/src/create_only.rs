//! A bucket's policy for a server that does not know the condition `s3:if-none-match`: requests of one key that create an object without
//! `If-None-Match: *` are refused on their way. Everything else goes through as it is, signature and all.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::s3_server::S3Server;

/// Stands before a server. Dropping it ends it.
#[derive(Debug)]
pub struct CreateOnly {
    port: u16,
    key: (String, String),
    accepting: JoinHandle<()>,
}

impl CreateOnly {
    /// Before `server`, for the key that is given: id and secret.
    pub async fn before(server: &impl S3Server, key: (&str, &str)) -> Result<Self> {
        let endpoint = server.endpoint();
        let address: Arc<str> = endpoint.strip_prefix("http://").context("not http")?.into();
        let credential: Arc<str> = format!("Credential={}/", key.0).into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (address, credential) = (Arc::clone(&address), Arc::clone(&credential));
                let service = service_fn(move |request| {
                    let (address, credential) = (Arc::clone(&address), Arc::clone(&credential));
                    async move { answer(&address, &credential, request).await }
                });
                // An error is a connection that broke.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(CreateOnly {
            port,
            key: (key.0.to_owned(), key.1.to_owned()),
            accepting,
        })
    }
}

async fn answer(address: &str, credential: &str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    if is_theirs(credential, &request) && creates(&request) {
        let body = "<Error><Code>AccessDenied</Code><Message>without If-None-Match</Message></Error>";
        let mut refused = Response::new(Full::from(body));
        *refused.status_mut() = StatusCode::FORBIDDEN;
        return Ok(refused);
    }
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, Full::from(body)))
}

fn is_theirs(credential: &str, request: &Request<Incoming>) -> bool {
    let signed = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    signed.is_some_and(|signed| signed.contains(credential))
}

/// An object, in one piece, in parts, or as a copy of another; not what hangs on one that is there (its tags, its lock).
fn creates(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let is_object = request.uri().path().trim_start_matches('/').contains('/');
    let query = request.uri().query().unwrap_or_default();
    let is_in_parts = ["uploads", "uploadId="].iter().any(|part| query.contains(part));
    let is_whole = query.is_empty() || query.starts_with("x-id=");
    let is_new = headers.get("if-none-match").is_some_and(|value| value == "*");
    let is_copy = headers.contains_key("x-amz-copy-source");
    let writes = [Method::PUT, Method::POST].contains(request.method());
    is_object && writes && (is_in_parts || is_whole && (!is_new || is_copy))
}

impl Drop for CreateOnly {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl S3Server for CreateOnly {
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn access_key_id(&self) -> &str {
        &self.key.0
    }

    fn secret_access_key(&self) -> &str {
        &self.key.1
    }

    async fn create_bucket(&self, _: &str) -> Result<()> {
        anyhow::bail!("whoever may only create objects makes no bucket")
    }
}
