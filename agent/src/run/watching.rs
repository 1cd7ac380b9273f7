//! Looks at the server from time to time while it is streamed from, and acts: WAL that piles up, commits that wait for us, a shutdown.
//!
//! A session of its own for each look, because a session that stays would keep `pg_ctl stop -m smart` waiting; only who may have to
//! degrade keeps one, because with waiting commits there may be none left to be had.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg::conninfo::ConnectOptions;
use pg::replication::ReplicationSession;
use tokio::sync::watch;
use tokio_postgres::Client;
use wal::receive::{Orders, StreamStatus};

use super::ledger::{Event, Ledger};
use super::retained::{self, Fill, Level};
use super::server::{Look, look};
use super::state::Supervision;
use super::synchronous::{self, Decision, Degraded, Stall};
use crate::open::Context;
use crate::status::state_file;
use crate::{disk, output, sql};

/// Between two looks: usually, and while commits wait for us.
const EVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// Commits may wait for us again when no more WAL than this is to be archived: a second's work.
const CAUGHT_UP_BYTES: u64 = 16 << 20;
/// Sooner where the disk of `pg_wal` would be full soon: this many looks fit into the time that is left, none of them sooner than that.
const LOOKS_UNTIL_FULL: u32 = 8;
const EVERY_LEAST: Duration = Duration::from_millis(200);
/// A look that takes longer tells nothing.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// What was seen, for `status`.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// WAL that the server keeps for us.
    pub retained_bytes: u64,
    /// When the disk of `pg_wal` is full at the present rate, if it can be seen.
    pub full_in: Option<Duration>,
    /// Commits may wait for us.
    pub synchronous: bool,
    /// We took ourselves out of `synchronous_standby_names`.
    pub degraded: bool,
    /// `remote_apply` while commits may wait for us.
    pub remote_apply: bool,
}

/// What the task works with.
pub struct Watching {
    /// Configuration.
    pub context: Arc<Context>,
    /// The server that is streamed from, once it is chosen.
    pub server: watch::Receiver<Option<ConnectOptions>>,
    /// The stream.
    pub status: watch::Receiver<StreamStatus>,
    /// The supervisor.
    pub supervision: watch::Receiver<Supervision>,
    /// What the stream is told.
    pub orders: watch::Sender<Orders>,
    /// Turns true when the slot must go.
    pub abandon: watch::Sender<bool>,
    /// For `status`.
    pub seen: watch::Sender<Seen>,
    /// For the record.
    pub ledger: Ledger,
}

struct Memory {
    client: Option<Client>,
    stall: Stall,
    fill: Fill,
    level: Level,
    file: PathBuf,
    degraded: Option<Degraded>,
    remote_apply: bool,
    wal_directory: Option<PathBuf>,
}

impl Watching {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let file = synchronous::file(&state_file(&self.context));
        let mut memory = Memory {
            client: None,
            stall: Stall::new(Instant::now()),
            fill: Fill::default(),
            level: Level::Fine,
            degraded: synchronous::remembered(&file),
            file,
            remote_apply: false,
            wal_directory: None,
        };
        loop {
            let is_synchronous = self.seen.borrow().synchronous || memory.degraded.is_some();
            let full_in = self.seen.borrow().full_in;
            tokio::time::sleep(until_next_look(is_synchronous, full_in)).await;
            let Some(server) = self.server.borrow().clone() else {
                continue;
            };
            match tokio::time::timeout(LOOK_MAX, self.look_once(&server, &mut memory)).await {
                Ok(Ok(look)) => {
                    self.orders
                        .send_if_modified(|orders| std::mem::take(&mut orders.server_stops));
                    self.act(&look, &mut memory).await;
                }
                Ok(Err(_)) | Err(_) => {
                    memory.client = None;
                    self.note_shutdown(&server).await;
                }
            }
        }
    }

    async fn look_once(&self, server: &ConnectOptions, memory: &mut Memory) -> anyhow::Result<Look> {
        let client = match memory.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => sql::connect(server).await?,
        };
        let look = look(&client, &self.context.cluster.wal.slot).await?;
        if memory.wal_directory.is_none()
            && let Ok(directory) = crate::preflight::show(&client, "data_directory").await
        {
            memory.wal_directory = Some(PathBuf::from(directory).join("pg_wal"));
        }
        if self.context.cluster.wal.degrade_after.is_some() || memory.degraded.is_some() {
            memory.client = Some(client);
        }
        Ok(look)
    }

    /// A server that takes no new session while it streams to us is shutting down, and waits until we have confirmed everything.
    async fn note_shutdown(&self, server: &ConnectOptions) {
        if self.supervision.borrow().error.is_some() || self.status.borrow().timeline == 0 {
            return;
        }
        let probe = tokio::time::timeout(LOOK_MAX, ReplicationSession::connect(server)).await;
        let refused = matches!(probe, Ok(Err(error)) if error.sqlstate() == Some("57P03"));
        if refused && !self.orders.borrow().server_stops {
            tracing::info!("the server is shutting down; archiving what is left");
            self.orders.send_modify(|orders| orders.server_stops = true);
        }
    }

    async fn act(&self, look: &Look, memory: &mut Memory) {
        let now = Instant::now();
        let bytes = look.retained_bytes();
        let free = memory.wal_directory.as_deref().and_then(|path| disk::space(path).ok());
        let free = free.map(|space| space.free_bytes);
        let full_in = memory.fill.full_in(now, look.flush.as_u64(), free);
        let level = retained::level(bytes, &self.context.cluster.wal.retained);
        retained::say(memory.level, level, bytes, full_in);
        if level == Level::Drop && memory.level < Level::Drop {
            self.abandon.send_replace(true);
        }
        memory.level = level;
        self.act_on_commits(look, memory, now).await;
        self.seen.send_replace(Seen {
            retained_bytes: bytes,
            full_in,
            synchronous: self.is_named(look),
            degraded: memory.degraded.is_some(),
            remote_apply: memory.remote_apply,
        });
    }

    fn name(&self) -> String {
        self.server
            .borrow()
            .as_ref()
            .map(|server| server.application_name.clone())
            .unwrap_or_default()
    }

    /// The server that is streamed from, as it is named in the file of a degraded one.
    fn place(&self) -> String {
        let server = self.server.borrow();
        server
            .as_ref()
            .map(|server| format!("{:?}", server.servers))
            .unwrap_or_default()
    }

    fn is_named(&self, look: &Look) -> bool {
        synchronous::is_named(look, &self.name())
    }

    async fn act_on_commits(&self, look: &Look, memory: &mut Memory, now: Instant) {
        let is_named = self.is_named(look);
        self.orders
            .send_if_modified(|orders| std::mem::replace(&mut orders.synchronous, is_named) != is_named);
        let remote_apply = look.remote_apply && is_named;
        if remote_apply && !memory.remote_apply {
            tracing::error!(
                "synchronous_commit is remote_apply and commits wait for us: they would wait for ever, because an archive never applies WAL. \
                 Set synchronous_commit to 'on' or take us out of synchronous_standby_names"
            );
        }
        memory.remote_apply = remote_apply;
        let archived = self.status.borrow().archived;
        let stalled = memory.stall.see(now, archived, look.flush);
        let is_streaming = self.supervision.borrow().error.is_none() && self.status.borrow().timeline > 0;
        let behind = look.flush.as_u64().saturating_sub(archived.as_u64());
        let is_whole = !self.orders.borrow().loss_is_open;
        let is_caught_up = is_streaming && is_whole && stalled.is_zero() && behind <= CAUGHT_UP_BYTES;
        let here = self.place();
        let limit = self.context.cluster.wal.degrade_after;
        let decision = synchronous::decide(
            look,
            &self.name(),
            limit,
            stalled,
            is_caught_up,
            memory.degraded.as_ref().filter(|degraded| degraded.server == here),
        );
        if let Err(error) = self.carry_out(decision, look, memory, stalled).await {
            memory.client = None;
            tracing::error!(error = %crate::exit::describe(&error), "synchronous_standby_names could not be changed; trying again");
        }
    }

    async fn carry_out(
        &self,
        decision: Decision,
        look: &Look,
        memory: &mut Memory,
        stalled: Duration,
    ) -> anyhow::Result<()> {
        if decision == Decision::Stay {
            return Ok(());
        }
        if decision == Decision::Forget {
            tracing::warn!(names = %look.standby_names, "synchronous_standby_names was changed by somebody else; leaving it");
            synchronous::forget(&memory.file);
            memory.degraded = None;
            return Ok(());
        }
        let Some(client) = memory.client.as_ref() else {
            anyhow::bail!("there is no session to change it with");
        };
        let here = self.place();
        let known = memory.degraded.clone().filter(|degraded| degraded.server == here);
        match (decision, known) {
            // It was written down before, and the server does not have it yet.
            (Decision::Degrade(_), Some(degraded)) => synchronous::set(client, Some(&degraded.set)).await?,
            (Decision::Degrade(without), None) => {
                if memory.degraded.is_some() {
                    tracing::warn!(path = %memory.file.display(), "another server is degraded still; what was written down of it is replaced");
                }
                let degraded =
                    synchronous::write_down(client, &memory.file, look, (without, here), output::now_us()).await?;
                memory.degraded = Some(degraded.clone());
                synchronous::set(client, Some(&degraded.set)).await?;
                tracing::error!(
                    stalled_s = stalled.as_secs(), before = %degraded.before, now = %degraded.set,
                    "the repository is away: commits no longer wait for it, and are at risk until it has caught up"
                );
                let detail = format!(
                    "synchronous_standby_names changed from '{}' to '{}' after {} s",
                    degraded.before,
                    degraded.set,
                    stalled.as_secs()
                );
                self.ledger.note(Event::Degraded, detail);
            }
            (Decision::Return, Some(degraded)) => {
                synchronous::come_back(client, &memory.file, &degraded).await?;
                tracing::info!(names = %degraded.before, "the archive has caught up: commits wait for it again");
                self.ledger.note(
                    Event::Synchronous,
                    format!("synchronous_standby_names is '{}' again", degraded.before),
                );
                memory.degraded = None;
            }
            _ => {}
        }
        Ok(())
    }
}

fn until_next_look(is_synchronous: bool, full_in: Option<Duration>) -> Duration {
    let usual = if is_synchronous { EVERY.1 } else { EVERY.0 };
    full_in.map_or(usual, |left| usual.min((left / LOOKS_UNTIL_FULL).max(EVERY_LEAST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_is_looked_at_more_often() {
        let after = |seconds| until_next_look(false, Some(Duration::from_secs(seconds)));
        assert_eq!(until_next_look(false, None), EVERY.0);
        assert_eq!([after(3600), after(8), after(0)], [EVERY.0, EVERY.1, EVERY_LEAST]);
        assert_eq!(until_next_look(true, Some(Duration::from_secs(3600))), EVERY.1);
    }
}
