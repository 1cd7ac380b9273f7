//! The fault store: an S3 server inside the test, over plain HTTP on a loopback port, that does what it is told, also the wrong
//! thing.
//!
//! It keeps objects in memory and speaks the part of S3 that the repository uses, strictly: conditional PUT, checksums, ranges,
//! paged listings. Signatures are not checked, but a request without one is refused. On top of that:
//! - [`Faults`] says what goes wrong with which requests, and can be changed at any time;
//! - [`RequestLog`] knows every request, and for each PUT the instant at which its object became durable: a witness that does
//!   not depend on what the agent believes.
//!
//! What has happened stays happened: a request that was received is carried out even if its client has gone.

mod answer;
mod body;
mod fault;
mod faults;
mod log;
mod objects;
mod request;
mod serve;
mod text;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use fault::{Fault, Method, Rule};
pub use faults::Faults;
pub use log::{End, Entry, RequestLog};
pub use objects::{Object, Objects};

use crate::s3_server::S3Server;

const ACCESS_KEY_ID: &str = "faultaccesskey";
const SECRET_ACCESS_KEY: &str = "faultsecretkey123";

/// What all connections share.
#[derive(Debug)]
struct Store {
    objects: Objects,
    faults: Faults,
    log: Arc<RequestLog>,
}

/// A running server. Dropping it ends it; [`FaultS3::die`] and [`FaultS3::revive`] are an outage.
#[derive(Debug)]
pub struct FaultS3 {
    store: Arc<Store>,
    port: u16,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: Option<JoinHandle<()>>,
}

impl FaultS3 {
    /// An empty server without faults and without buckets.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut server = Self {
            store: Arc::new(Store {
                objects: Objects::default(),
                faults: Faults::new(),
                log: Arc::default(),
            }),
            port: listener.local_addr()?.port(),
            connections: Arc::default(),
            accepting: None,
        };
        server.accept(listener);
        Ok(server)
    }

    pub fn faults(&self) -> &Faults {
        &self.store.faults
    }

    pub fn log(&self) -> &RequestLog {
        &self.store.log
    }

    pub fn objects(&self) -> &Objects {
        &self.store.objects
    }

    /// Nobody listens any more, and open connections break. What is stored stays.
    pub async fn die(&mut self) -> Result<()> {
        let accepting = self.accepting.take().context("the fault store is dead already")?;
        accepting.abort();
        let _ = accepting.await;
        self.break_connections().await;
        Ok(())
    }

    /// Listens again, on the same port.
    pub async fn revive(&mut self) -> Result<()> {
        ensure!(self.accepting.is_none(), "the fault store is alive");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
        self.accept(listener);
        Ok(())
    }

    /// Breaks all open connections, also those whose request was swallowed. New ones are welcome.
    pub async fn break_connections(&self) {
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
        connections.shutdown().await;
    }

    fn accept(&mut self, listener: TcpListener) {
        let (store, connections) = (Arc::clone(&self.store), Arc::clone(&self.connections));
        self.accepting = Some(tokio::spawn(async move {
            loop {
                // An error is of the one connection that could not be accepted.
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let store = Arc::clone(&store);
                let service = service_fn(move |request| serve::serve(Arc::clone(&store), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let mut connections = connections.lock().unwrap();
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    // An error is a connection that broke, on purpose or because its client went away.
                    let _ = connection.await;
                });
            }
        }));
    }
}

impl Drop for FaultS3 {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.connections.lock().unwrap().abort_all();
    }
}

impl S3Server for FaultS3 {
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn access_key_id(&self) -> &str {
        ACCESS_KEY_ID
    }

    fn secret_access_key(&self) -> &str {
        SECRET_ACCESS_KEY
    }

    async fn create_bucket(&self, name: &str) -> Result<()> {
        ensure!((3..=63).contains(&name.len()), "a bucket's name has 3 to 63 characters");
        self.store.objects.create_bucket(name);
        Ok(())
    }
}
