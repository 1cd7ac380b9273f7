//! HTTP for those who watch: `/metrics`, `/healthz`, `/readyz`, `/status`. Reads only; knows nothing that is secret.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::health::Report;
use crate::health::{Severity, metrics};
use crate::output;

/// Before an address that is taken is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Connections at once.
const CONNECTIONS_MAX: usize = 32;
/// A request that is not there after that does not come.
const HEADER_MAX: Duration = Duration::from_secs(10);
/// Judgements that are older are of an agent that hangs.
const STALE_US: i64 = 30_000_000;

/// Answers until it is dropped.
pub async fn serve(address: SocketAddr, cluster: String, report: watch::Receiver<Report>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(%error, %address, "cannot listen for those who watch; set [cluster.<name>.http] listen to another port, or \"off\"");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    tracing::info!(%address, "listening for /metrics, /healthz, /readyz, /status");
    let limit = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = std::sync::Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: a moment later there may be one.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (report, cluster) = (report.clone(), cluster.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(&request, &cluster, &report.borrow());
                async { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEADER_MAX)
                .keep_alive(false);
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, cluster: &str, report: &Report) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".into());
    }
    match request.uri().path() {
        "/metrics" => match metrics::page(cluster, &report.facts, &report.open) {
            Ok(page) => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        "/healthz" => healthz(report),
        "/readyz" => readyz(report),
        "/status" => json_answer(StatusCode::OK, &status(cluster, report)),
        "/" => text(
            StatusCode::OK,
            "text/plain",
            "seawall: /metrics /healthz /readyz /status\n".into(),
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain",
            "not here: /metrics /healthz /readyz /status\n".into(),
        ),
    }
}

/// Does the agent live? Whoever restarts it on a 503 does no harm.
fn healthz(report: &Report) -> Response<Full<Bytes>> {
    match output::now_us().saturating_sub(report.facts.now_us) < STALE_US {
        true => text(StatusCode::OK, "text/plain", "ok\n".into()),
        false => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "the agent hangs\n".into(),
        ),
    }
}

/// Is everything protected as it was promised? With the reasons if not.
fn readyz(report: &Report) -> Response<Full<Bytes>> {
    let pages: Vec<_> = report
        .open
        .iter()
        .filter(|open| open.severity == Severity::Page)
        .collect();
    let reasons: Vec<_> = pages
        .iter()
        .map(|open| json!({ "alarm": open.alarm.kind.name(), "subject": open.alarm.subject, "text": open.alarm.text, "hint": open.alarm.hint }))
        .collect();
    let ready = reasons.is_empty() && report.facts.daemon.streaming;
    let code = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json_answer(
        code,
        &json!({ "ready": ready, "streaming": report.facts.daemon.streaming, "reasons": reasons }),
    )
}

/// What is known.
pub fn status(cluster: &str, report: &Report) -> serde_json::Value {
    let facts = &report.facts;
    let mut value = serde_json::to_value(&facts.daemon).unwrap_or_default();
    let time = |us: Option<i64>| us.map(output::time_us);
    let newest = facts.repository.newest.as_ref();
    value["cluster"] = cluster.into();
    value["alarms"] = serde_json::to_value(&report.open).unwrap_or_default();
    value["jobs"] = serde_json::to_value(&facts.jobs).unwrap_or_default();
    value["copies"] = serde_json::to_value(&facts.copies).unwrap_or_default();
    value["backups"] = facts.repository.backups.into();
    value["last_backup"] = newest.map(|backup| backup.id.clone()).into();
    value["last_backup_finished"] = time(newest.map(|backup| backup.finished_us)).into();
    value["last_verified"] = time(facts.repository.verified_us).into();
    value["last_proven"] = time(facts.repository.proven_us).into();
    value["holes"] = facts.repository.holes.clone().into();
    value
}

fn json_answer(code: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    text(code, "application/json", format!("{value:#}\n"))
}

fn text(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
