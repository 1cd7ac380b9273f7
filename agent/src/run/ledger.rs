//! What an operator will want to know later, kept in the repository: protection was given up, and came back.
//!
//! The store may be away just when something is to be said, so entries wait in memory until it is back. The log has them at once.

use std::sync::Arc;
use std::time::Duration;

use store::envelope::Kind;
use store::id::BackupId;
use store::object::ObjectName;
use store::records::LedgerEntry;
use store::repository::{NewObject, Writer};
use tokio::sync::{mpsc, watch};

use crate::open::host_name;
use crate::output;

/// Entries that wait for the store; more than that are in the log only.
const WAITING_MAX: usize = 1024;

/// The words of [`LedgerEntry::event`] (FORMAT 9).
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// We took ourselves out of `synchronous_standby_names`.
    Degraded,
    /// We are in it again.
    Synchronous,
    /// The slot was dropped so that the server's disk does not fill.
    SlotDropped,
    /// The slot was gone or invalidated and was made again.
    SlotMade,
    /// WAL is lost.
    Hole,
    /// A new lineage began.
    NewLineage,
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Event::Degraded => "degraded",
            Event::Synchronous => "synchronous",
            Event::SlotDropped => "slot-dropped",
            Event::SlotMade => "slot-made",
            Event::Hole => "hole",
            Event::NewLineage => "new-lineage",
        }
    }
}

/// A store that refuses, for a while or for good, is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a stop waits for entries that the store has not got yet.
const FINISH_MAX: Duration = Duration::from_secs(3);

/// Where entries go.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: mpsc::Sender<LedgerEntry>,
    waiting: Arc<watch::Sender<usize>>,
}

impl Ledger {
    /// Starts the task that writes.
    pub fn start(writer: Arc<Writer>) -> Self {
        let (sender, mut entries) = mpsc::channel::<LedgerEntry>(WAITING_MAX);
        let waiting = Arc::new(watch::Sender::new(0));
        let left = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(entry) = entries.recv().await {
                while let Err(error) = put(&writer, &entry).await {
                    tracing::warn!(%error, event = %entry.event, "an entry of the ledger could not be stored yet");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                left.send_modify(|waiting| *waiting -= 1);
            }
        });
        Ledger {
            entries: sender,
            waiting,
        }
    }

    /// Waits a moment for what the store has not got yet.
    pub async fn finish(&self) {
        let mut waiting = self.waiting.subscribe();
        let done = waiting.wait_for(|waiting| *waiting == 0);
        if tokio::time::timeout(FINISH_MAX, done).await.is_err() {
            tracing::warn!("what happened is in this log only: the store has not taken the last entries of the ledger");
        }
    }

    /// Notes an event; never waits.
    pub fn note(&self, event: Event, detail: impl Into<String>) {
        let entry = LedgerEntry {
            time_us: output::now_us(),
            host: host_name(),
            event: event.word().to_owned(),
            detail: detail.into(),
        };
        self.waiting.send_modify(|waiting| *waiting += 1);
        if self.entries.try_send(entry).is_err() {
            self.waiting.send_modify(|waiting| *waiting -= 1);
            tracing::warn!(event = event.word(), "the ledger is full; this is in the log only");
        }
    }
}

/// Stores an entry; gives its name.
pub async fn put(writer: &Writer, entry: &LedgerEntry) -> anyhow::Result<ObjectName> {
    // A ULID, like a backup's id: names sort by time. A new one for each attempt: half an object cannot be in the way.
    let id = BackupId::from_parts(
        u64::try_from(entry.time_us / 1000).unwrap_or(0),
        store::entropy::bytes()?,
    );
    let plain = minicbor::to_vec(entry)?;
    let name = writer.repository().layout().ledger(id)?;
    writer
        .put(&name, NewObject::metadata(Kind::Ledger, &plain, entry.time_us))
        .await?;
    Ok(name)
}
