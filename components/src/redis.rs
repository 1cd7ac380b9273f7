//! Redis and Valkey: captured as a replica would be filled, so that nothing is needed on their host.
//!
//! One file, `dump.rdb`, comes by the replication protocol (`transfer`), is looked through while it passes (`rdb`), and is what a server loads
//! when it starts. Nothing is written on this side before it is in the repository. A file that ends early or whose checksum is wrong fails
//! the capture, and nothing of it is listed.
//!
//! Sentinels, where there are any, say which servers there are (`sentinel`); a replica in step is preferred, and the next one is tried where one
//! refuses. Once a file has begun to come, there is no second try: the sink holds its bytes.
//!
//! A restore is held against its facts twice: the file by itself, and with a server that is started on it (`trial`).

mod crc64;
mod dial;
mod facts;
mod grammar;
mod info;
mod kept;
mod length;
mod link;
mod payload;
mod rdb;
mod refusal;
mod resp;
mod sentinel;
mod summary;
mod transfer;
mod trial;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use store::pipeline::Clock;
use tokio::time::Instant;

use crate::{Captured, Component, ComponentError, Lanes, Look, Sink};
pub use dial::{Address, Dial, Plain, Stream, Tls};
use info::Info;
use link::Link;
pub use link::{Login, Waits};
use rdb::Rdb;
pub use sentinel::Sentinels;
use summary::Summary;
use transfer::Transfer;
use trial::Trial;

/// The one file of a backup.
pub const FILE: &str = "dump.rdb";
/// Databases of a server whose configuration says nothing else.
const DATABASES_MIN: u64 = 16;
/// More than a server can be configured for in earnest.
const DATABASES_MAX: u64 = 1 << 16;
/// How often it is asked whether a snapshot for somebody else has ended.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of a restored file that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Servers {
    /// At one server.
    One(Address),
    /// Sentinels know.
    Sentinels(Sentinels),
}

/// A Redis or Valkey server, or a master with its replicas.
#[derive(Clone)]
pub struct Redis {
    /// Where it is.
    pub servers: Servers,
    /// Who we are to it.
    pub login: Option<Login>,
    /// How it is reached.
    pub dial: Arc<dyn Dial>,
    /// How long we wait.
    pub waits: Waits,
    /// A replica in step is preferred; no: the master, since any replica may lag.
    pub spares_master: bool,
    /// A `redis-server` or `valkey-server` that loads what was restored; none: the file alone is looked at.
    pub program: Option<PathBuf>,
    /// Where it may have a directory for itself while it does.
    pub scratch: PathBuf,
    /// The time.
    pub now_us: Clock,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Component for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn look(&self) -> Result<Look, ComponentError> {
        let mut failed = None;
        for server in self.candidates().await? {
            match self.look_at(&server).await {
                Ok(look) => return Ok(look),
                Err(error) => failed = Some(passed_over(&server, error)),
            }
        }
        Err(failed.unwrap_or_else(no_server))
    }

    async fn capture(&self, sink: &mut Sink) -> Result<Captured, ComponentError> {
        let (info, mut transfer) = self.begin().await?;
        let begun_us = (self.now_us)();
        let summary = sink.hand(|lanes| receive(&mut transfer, lanes)).await?;
        warn_of(&summary);
        let mut facts = facts::of_file(&summary);
        facts.extend(facts::of_server(&info, &summary, &transfer.replication));
        if info.get("cluster_enabled") == "1" {
            facts.insert("cluster_node".into(), "one node of a cluster".into());
            tracing::warn!("this is one node of a cluster: the keys of the others are not captured with it");
        }
        tracing::info!(bytes = summary.bytes, "captured redis");
        // The snapshot may have begun for somebody else before we came: then the file says so.
        let created_us = summary.created_s.map(|seconds| seconds.saturating_mul(1_000_000));
        Ok(Captured {
            version: info.version(),
            facts,
            as_of_us: Some(created_us.map_or(begun_us, |created| created.min(begun_us))),
            standing: Vec::new(),
        })
    }

    async fn compare(
        &self,
        captured: &BTreeMap<String, String>,
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError> {
        compare(captured, restored, self.program.as_deref(), &self.scratch, self.waits).await
    }
}

impl Redis {
    /// Where it can be tried, the best first.
    async fn candidates(&self) -> Result<Vec<Address>, ComponentError> {
        match &self.servers {
            Servers::One(server) => Ok(vec![server.clone()]),
            Servers::Sentinels(sentinels) => {
                let mut servers = sentinel::servers(&*self.dial, sentinels, self.waits).await?;
                if !self.spares_master {
                    servers.drain(..servers.len().saturating_sub(1));
                }
                Ok(servers)
            }
        }
    }

    async fn connect(&self, server: &Address) -> Result<(Info, Link), ComponentError> {
        let mut link = Link::open(&*self.dial, server, self.login.as_ref(), self.waits).await?;
        let info = link.info().await?;
        match info.get("loading") {
            "1" => Err(refusal::refused(
                server,
                "to be captured",
                "LOADING it loads its own data",
            )),
            _ => Ok((info, link)),
        }
    }

    /// Waits for the end of a snapshot that is made for somebody else: what it holds is older than our wish.
    async fn after_others(&self, mut info: Info, link: &mut Link) -> Result<Info, ComponentError> {
        let until = Instant::now() + self.waits.load_max;
        while info.is_saving_for_another() && Instant::now() < until {
            tokio::time::sleep(ASK_EVERY).await;
            info = link.info().await?;
        }
        match info.is_saving_for_another() {
            true => Err(refusal::silent(
                link.server(),
                "the end of a snapshot for another replica",
                self.waits.load_max.as_secs(),
            )),
            false => Ok(info),
        }
    }

    async fn look_at(&self, server: &Address) -> Result<Look, ComponentError> {
        let (info, mut link) = self.connect(server).await?;
        let notes = notes(server, &info);
        transfer::probe(&mut link).await?;
        Ok(Look {
            version: info.version(),
            notes,
        })
    }

    /// A transfer of the first server that grants one.
    async fn begin(&self) -> Result<(Info, Transfer), ComponentError> {
        let mut failed = None;
        for server in self.candidates().await? {
            let begun = async {
                let (info, mut link) = self.connect(&server).await?;
                let info = self.after_others(info, &mut link).await?;
                let transfer = Transfer::begin(link, &info).await?;
                Ok((info, transfer))
            };
            match begun.await {
                Ok(begun) => return Ok(begun),
                Err(error) => failed = Some(passed_over(&server, error)),
            }
        }
        Err(failed.unwrap_or_else(no_server))
    }
}

/// Holds a restored file against its facts, and with a server that is started on it below `scratch`; what differs.
///
/// # Errors
/// The file cannot be read, or the server not be started.
pub async fn compare(
    captured: &BTreeMap<String, String>,
    restored: &Path,
    program: Option<&Path>,
    scratch: &Path,
    waits: Waits,
) -> Result<Vec<String>, ComponentError> {
    let dump = restored.join(FILE);
    let read = dump.clone();
    let summary = tokio::task::spawn_blocking(move || read_whole(&read));
    let summary = summary.await.map_err(|_| ComponentError::Stopped)??;
    let mut differs = facts::differences(captured, &summary);
    match program {
        Some(program) => differs.extend(load(program, scratch, waits, &dump, &summary).await?),
        None => tracing::warn!("no server is named that could load what was restored: only the file was looked at"),
    }
    Ok(differs)
}

/// What a server lacks that has loaded the file.
async fn load(
    program: &Path,
    scratch: &Path,
    waits: Waits,
    dump: &Path,
    summary: &Summary,
) -> Result<Vec<String>, ComponentError> {
    let highest = summary.databases.keys().next_back().copied().unwrap_or(0);
    if highest >= DATABASES_MAX {
        return Ok(vec![format!("db{highest}: no server has so many databases")]);
    }
    let mut trial = Trial::start(program, scratch, dump, DATABASES_MIN.max(highest + 1))?;
    let info = trial.loaded(waits).await;
    trial.end().await;
    Ok(facts::missing(summary, &info?))
}

/// Hands the file over as it comes; what it says of itself.
async fn receive(transfer: &mut Transfer, lanes: Lanes) -> Result<Summary, ComponentError> {
    let mut lane = lanes.open(FILE).await?;
    let mut rdb = Rdb::new();
    while let Some(bytes) = transfer.next().await? {
        rdb.feed(&bytes).map_err(|error| transfer.damaged(error))?;
        lane.send(bytes).await?;
    }
    let summary = rdb.finish().map_err(|error| transfer.damaged(error))?;
    lane.finish();
    Ok(summary)
}

/// What could not be looked at.
fn warn_of(summary: &Summary) {
    if let Some(unknown) = summary.unknown {
        tracing::warn!(
            unknown,
            rdb_version = summary.version,
            "keys were not counted: the file has a type that is not known here"
        );
    }
    if !summary.is_summed {
        tracing::warn!("the server writes no checksum (\"rdbchecksum\"): what it sent cannot be verified");
    }
}

fn passed_over(server: &Address, error: ComponentError) -> ComponentError {
    tracing::warn!(server = %server, error = %error, "a server was passed over");
    error
}

fn no_server() -> ComponentError {
    ComponentError::refused("no server is known", "Name a server, or sentinels that know one.")
}

/// What somebody who reads a report wants to know.
fn notes(server: &Address, info: &Info) -> Vec<String> {
    let keys: u64 = info.databases().values().map(|keys| keys.keys).sum();
    let mut notes = vec![
        format!(
            "{server} is a {}",
            if info.get("role") == "master" {
                "master"
            } else {
                "replica"
            }
        ),
        format!("it holds {keys} keys in {} of memory", info.get("used_memory_human")),
    ];
    if info.get("cluster_enabled") == "1" {
        notes.push("it is one node of a cluster: the keys of the others are not captured with it".into());
    }
    notes
}

/// Reads a file as it came.
fn read_whole(path: &Path) -> Result<Summary, ComponentError> {
    let mut file = std::fs::File::open(path).map_err(ComponentError::io("open", path))?;
    let (mut rdb, mut buffer) = (Rdb::new(), vec![0; READ_BYTES]);
    let damaged = |error| ComponentError::System {
        what: format!("\"{}\"", path.display()),
        detail: format!("{error}"),
        hint: "Restore it again, into an empty directory.".into(),
    };
    loop {
        let read = file.read(&mut buffer).map_err(ComponentError::io("read", path))?;
        match buffer.get(..read) {
            Some(bytes) if read > 0 => rdb.feed(bytes).map_err(damaged)?,
            _ => return rdb.finish().map_err(damaged),
        }
    }
}
