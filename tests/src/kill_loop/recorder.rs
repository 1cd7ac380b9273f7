//! Several connections that write numbered rows, and what each of them was promised. Goes on through every kill.
//!
//! A commit counts as acknowledged only if COMMIT returned and the server sent no warning meanwhile: a wait for the archive
//! that was cancelled also returns, with a warning. Each transaction is known by its xid and the timeline it was written on, so
//! that the repository alone says whether its commit record is there.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::plan::Mode;
use crate::cluster::{Cluster, query_one};
use crate::wait::{DEADLINE, Pace, within};

pub const TABLE: &str = "create table kill_loop (n bigint primary key, connection int not null, filler text not null)";
/// In synchronous mode each waits for a PUT with every commit.
const CONNECTIONS: u32 = 8;
/// Between two transactions of a connection.
const EVERY: Duration = Duration::from_millis(20);
const RECONNECT_EVERY: Duration = Duration::from_millis(30);
const ROLLBACK_ONE_IN: i64 = 16;
/// Rows between a change from little WAL, which tails must ship, to much, which fills segments, and back.
const PHASE: i64 = 1000;
/// In a phase of much WAL, these write 64 KiB at once,
const LARGE_ONE_IN: i64 = 12;
/// and these end the segment.
const SWITCH_ONE_IN: i64 = 300;

/// One transaction whose commit was sent.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    pub n: i64,
    /// As in WAL: the low 32 bits.
    pub xid: u32,
    pub timeline: u32,
    pub mode: Mode,
    pub acknowledged_at: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Target {
    client: Config,
    timeline: u32,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<Target>,
    synchronous: AtomicBool,
    stop: AtomicBool,
    next: AtomicI64,
    commits: Mutex<Vec<Commit>>,
    acknowledged: watch::Sender<Acknowledged>,
    warned: AtomicU64,
}

/// How many commits were acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acknowledged {
    pub all: u64,
    pub synchronous: u64,
}

/// The running connections; dropping it ends them.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

impl Recorder {
    /// Begins to write into [`TABLE`], which must be there.
    pub fn start(cluster: &Cluster, timeline: u32) -> Self {
        let target = Target {
            client: cluster.client_config("postgres"),
            timeline,
        };
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            synchronous: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            next: AtomicI64::new(1),
            commits: Mutex::new(Vec::new()),
            acknowledged: watch::Sender::new(Acknowledged::default()),
            warned: AtomicU64::new(0),
        });
        let mut workers = JoinSet::new();
        for connection in 0..CONNECTIONS {
            workers.spawn(run(Arc::clone(&shared), connection));
        }
        Self { shared, workers }
    }

    /// What further transactions wait for.
    pub fn set_mode(&self, mode: Mode) {
        let synchronous = mode == Mode::Synchronous;
        self.shared.synchronous.store(synchronous, Ordering::SeqCst);
    }

    /// The cluster goes on elsewhere, on another timeline. The one before must be gone.
    pub fn retarget(&self, cluster: &Cluster, timeline: u32) {
        *self.shared.target.lock().unwrap() = Target {
            client: cluster.client_config("postgres"),
            timeline,
        };
    }

    pub fn commits(&self) -> Vec<Commit> {
        self.shared.commits.lock().unwrap().clone()
    }

    pub fn acknowledged(&self) -> Acknowledged {
        *self.shared.acknowledged.borrow()
    }

    /// Commits that came back with a warning.
    pub fn warned(&self) -> u64 {
        self.shared.warned.load(Ordering::SeqCst)
    }

    /// Waits for the next commit to be acknowledged.
    pub async fn wait_for_commit(&self) -> Result<()> {
        let mut count = self.shared.acknowledged.subscribe();
        let before = count.borrow_and_update().all;
        let reached = count.wait_for(|count| count.all > before);
        within("a commit", DEADLINE, reached).await??;
        Ok(())
    }

    /// Ends all connections after their current transaction.
    pub async fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let all = async {
            while let Some(ended) = self.workers.join_next().await {
                ended.context("a connection of the recorder panicked")?;
            }
            anyhow::Ok(())
        };
        within("the recorder to stop", DEADLINE, all).await?
    }
}

async fn run(shared: Arc<Shared>, connection: u32) {
    let mut reconnect = Pace::every(RECONNECT_EVERY);
    while !shared.stop.load(Ordering::SeqCst) {
        reconnect.tick().await;
        let Ok(session) = Session::open(&shared, connection).await else {
            continue;
        };
        let mut pace = Pace::every(EVERY);
        while !shared.stop.load(Ordering::SeqCst) {
            pace.tick().await;
            if session.transaction().await.is_err() {
                break;
            }
        }
    }
}

struct Session<'a> {
    shared: &'a Shared,
    connection: u32,
    timeline: u32,
    client: Client,
    warnings: Arc<AtomicU64>,
}

impl<'a> Session<'a> {
    async fn open(shared: &'a Shared, connection: u32) -> Result<Self> {
        let Target { client, timeline } = shared.target.lock().unwrap().clone();
        let (client, warnings) = connect(&client).await?;
        Ok(Self {
            shared,
            connection,
            timeline,
            client,
            warnings,
        })
    }

    async fn transaction(&self) -> Result<()> {
        let (shared, connection) = (self.shared, self.connection);
        let n = shared.next.fetch_add(1, Ordering::SeqCst);
        let synchronous = shared.synchronous.load(Ordering::SeqCst);
        let (wait, mode) = match synchronous {
            true => ("on", Mode::Synchronous),
            false => ("local", Mode::Asynchronous),
        };
        let mut write = format!(
            "begin; set local synchronous_commit = {wait};
             insert into kill_loop values ({n}, {connection}, {});",
            filler("", n)
        );
        let is_much = n / PHASE % 2 == 1;
        if is_much && n % LARGE_ONE_IN == 0 {
            write.push_str(
                "do $$ begin perform pg_logical_emit_message(true, 'kill-loop', repeat('large', 13107)); end $$;",
            );
        }
        self.client.batch_execute(&write).await?;
        let xid = query_one(&self.client, "select pg_current_xact_id()::text::bigint & 4294967295").await?;
        if n % ROLLBACK_ONE_IN == 0 {
            return Ok(self.client.batch_execute("rollback").await?);
        }
        // Noted before it is sent: whatever happens from here on, the row may exist.
        let index = shared.note(Commit {
            n,
            xid: xid.parse()?,
            timeline: self.timeline,
            mode,
            acknowledged_at: None,
        });
        let warnings = self.warnings.load(Ordering::SeqCst);
        self.client.batch_execute("commit").await?;
        let acknowledged_at = Instant::now();
        if self.warnings.load(Ordering::SeqCst) != warnings {
            shared.warned.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        shared.commits.lock().unwrap()[index].acknowledged_at = Some(acknowledged_at);
        shared.acknowledged.send_modify(|count| {
            count.all += 1;
            count.synchronous += u64::from(synchronous);
        });
        if is_much && n % SWITCH_ONE_IN == 0 {
            self.client.batch_execute("select pg_switch_wal()").await?;
        }
        Ok(())
    }
}

impl Shared {
    fn note(&self, commit: Commit) -> usize {
        let mut commits = self.commits.lock().unwrap();
        commits.push(commit);
        commits.len() - 1
    }
}

/// What stands in a row beside its number, as SQL over the number.
fn filler(column: &str, n: i64) -> String {
    match column {
        "" => format!("repeat(md5('{n}'), 3)"),
        column => format!("repeat(md5({column}::text), 3)"),
    }
}

/// Rows of a restored cluster: the number, and whether the rest is what was written.
pub async fn rows(client: &Client) -> Result<Vec<(i64, bool)>> {
    let sql = format!("select n, filler = {} from kill_loop order by n", filler("n", 0));
    let rows = client.query(&sql, &[]).await?;
    ensure!(!rows.is_empty(), "there are no rows");
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A client whose warnings are counted: each is counted before what follows it is delivered.
async fn connect(config: &Config) -> Result<(Client, Arc<AtomicU64>)> {
    let (client, mut connection) = within("connecting", DEADLINE, config.connect(NoTls)).await??;
    let warnings = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&warnings);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message
                && notice.severity() == "WARNING"
            {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    Ok((client, warnings))
}
