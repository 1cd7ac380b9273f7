//! Requests to whoever is told: HTTP/1.1, over TLS where the URL says so.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// So much of an answer is read, to be repeated in an error.
const ANSWER_MAX: usize = 4096;
const ANSWER_SHOWN: usize = 200;

/// A client.
pub struct Client(Hyper<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Client {
    /// Trusts the certificates of a file, or else the system's.
    pub fn new(ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let trusting = |roots| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            let tls = tls.with_root_certificates(roots).with_no_client_auth();
            anyhow::Ok(HttpsConnectorBuilder::new().with_tls_config(tls))
        };
        let native = || {
            HttpsConnectorBuilder::new().with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
        };
        let builder = match ca_file {
            Some(path) => trusting(roots(path)?)?,
            // Without any certificates plain HTTP works all the same.
            None => match native() {
                Ok(builder) => builder,
                Err(_) => trusting(RootCertStore::empty())?,
            },
        };
        let connector = builder.https_or_http().enable_http1().build();
        Ok(Client(Hyper::builder(TokioExecutor::new()).build(connector)))
    }

    /// Sends JSON.
    pub async fn post(&self, url: &str, json: String) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header("content-type", "application/json")
            .header("user-agent", "seawall");
        self.ask(request.body(Full::from(json))).await
    }

    /// Asks for a page.
    pub async fn get(&self, url: &str) -> anyhow::Result<()> {
        let request = Request::builder().uri(url).header("user-agent", "seawall");
        self.ask(request.body(Full::default())).await
    }

    /// No message has the URL in it: it may be the secret.
    async fn ask(&self, request: Result<Request<Full<Bytes>>, hyper::http::Error>) -> anyhow::Result<()> {
        let request = request.map_err(|_| anyhow::anyhow!("the URL makes no sense"))?;
        let answer = self.0.request(request).await.context("cannot be reached")?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        let shown: String = text.unwrap_or_default().chars().take(ANSWER_SHOWN).collect();
        bail!("answers with {status}: {}", shown.trim());
    }
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let what = || format!("cannot read the certificates in \"{}\"", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).with_context(what)? {
        roots.add(certificate.with_context(what)?).with_context(what)?;
    }
    Ok(roots)
}
