//! Whoever is told of alarms: an HTTP server that keeps what it gets, and can be made to refuse. And the other way round: one GET.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait::wait_for;

/// What came in: the path, and the body.
pub type Received = (String, Value);

/// Listens on a loopback port. Dropping it ends it.
#[derive(Debug)]
pub struct Receiver {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    status: Arc<AtomicU16>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let status = Arc::new(AtomicU16::new(200));
        let (kept, answer) = (Arc::clone(&received), Arc::clone(&status));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                let service = service_fn(move |request| {
                    let (kept, status) = (Arc::clone(&kept), answer.load(Ordering::Relaxed));
                    async move { take(request, &kept, status).await }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Receiver {
            port,
            received,
            status,
            accepting,
        })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Answers with this from now on; only what is answered with 200 is kept.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Everything so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().map(|kept| kept.clone()).unwrap_or_default()
    }

    /// Waits for a message to `path` that is as wished, among those behind the first `skip`.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        skip: usize,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_for(what, deadline, async || {
            let received = self.received();
            let found = received.iter().skip(skip).find(|(_, body)| is_it(body));
            found.map(|(_, body)| body.clone())
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn take(request: Request<Incoming>, kept: &Mutex<Vec<Received>>, status: u16) -> Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    if status == 200
        && let Ok(mut kept) = kept.lock()
    {
        kept.push((path, serde_json::from_slice(&body).unwrap_or(Value::Null)));
    }
    let mut answer = Response::new(Full::from("as you wish\n"));
    *answer.status_mut() = StatusCode::from_u16(status)?;
    Ok(answer)
}

/// Asks a server on loopback for a page: status and body.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("no status")?, body.to_owned()))
}
