//! What was seen: of the stream each second, of everything around it each time somebody looked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::copies::CopySeen;
use crate::drill::{Drilled, rto_s};
use crate::status::DaemonState;

/// Everything that alarms and metrics follow from.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Now, microseconds since 1970.
    pub now_us: i64,
    /// When this agent started.
    pub started_us: i64,
    /// The stream and what the server said beside it.
    pub daemon: DaemonState,
    /// How long WAL that came in has waited to be archived; 0 when that is as long as uploads take.
    pub behind_ms: u64,
    /// How far WAL in `pg_wal` has come: 0 fine, 1 warn, 2 page, 3 drop.
    pub retained_level: u8,
    /// The last look at the repository.
    pub repository: Repository,
    /// The last look at the server.
    pub server: Server,
    /// The last look at this host.
    pub host: Host,
    /// The copies of the repository.
    pub copies: Vec<CopySeen>,
    /// What the daemon does by itself.
    pub jobs: Vec<Job>,
    /// Who is told of alarms, and why that failed.
    pub channels: Vec<Channel>,
    /// Why a configuration that was to be read again was not taken.
    pub reload_error: Option<String>,
    /// How old the newest backup of a component may be, where that was said.
    pub component_ages: Vec<(String, Duration)>,
}

impl Facts {
    /// How long a restore to now would take, in seconds, as far as a drill has measured how fast that goes.
    pub fn rto_s(&self) -> Option<f64> {
        let newest = self.repository.newest.as_ref()?;
        let archived: pg::lsn::Lsn = self.daemon.archived_lsn.parse().ok()?;
        let wal = (pg::lsn::Lsn::new(newest.start_lsn), archived);
        rto_s(self.host.drill.as_ref()?, newest.logical_bytes, wal)
    }
}

/// What the repository says.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// When it was looked at last with success; 0: never.
    pub looked_us: i64,
    /// Why the last look failed.
    pub error: Option<String>,
    /// The last look failed because something stored is damaged.
    pub is_damaged: bool,
    /// Something at `keys/` cannot be read or is not signed.
    pub is_trust_in_doubt: bool,
    /// Complete backups.
    pub backups: u64,
    /// The newest of the lineage that is archived.
    pub newest: Option<Backup>,
    /// There are backups, all of other lineages.
    pub is_of_other_lineage: bool,
    /// Missing WAL of this lineage that no backup makes up for, each as `from to on timeline`.
    pub holes: Vec<String>,
    /// When stored bytes were compared last.
    pub verified_us: Option<i64>,
    /// Damaged objects in shares that no later look has found whole.
    pub damaged_objects: u64,
    /// When a restore was proven last.
    pub proven_us: Option<i64>,
    /// When the newest backup of each component was finished.
    pub components: BTreeMap<String, i64>,
}

/// A backup.
#[derive(Debug, Clone, Default)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// When it was finished.
    pub finished_us: i64,
    /// How long it took.
    pub seconds: f64,
    /// Where its WAL begins.
    pub start_lsn: u64,
    /// Bytes of its files.
    pub logical_bytes: u64,
    /// Bytes that it added.
    pub new_stored_bytes: u64,
    /// Pages that are corrupt in the database itself.
    pub corrupt_pages: u64,
}

/// What the server says.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// When it was asked last with success; 0: never.
    pub looked_us: i64,
    /// Why the last question failed.
    pub error: Option<String>,
    /// How far its WAL reached then.
    pub written_lsn: u64,
    /// Our slot: `None` unknown, else whether it is there.
    pub slot_is_there: Option<bool>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub slot_wal_status: Option<String>,
    /// Since when `archive_command` fails.
    pub archiver_failing_since: Option<String>,
    /// Settings and rights that are wrong: problem and hint; true when it cannot work like that.
    pub findings: Vec<(String, String, bool)>,
    /// Slots of ours that nobody uses.
    pub idle_slots: Vec<String>,
    /// Pages that failed the server's own check, and when one did last.
    pub checksum_failures: Option<(i64, i64)>,
    /// Its clock minus ours.
    pub clock_apart_ms: i64,
}

/// What this host says.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// File systems that must not fill.
    pub disks: Vec<Disk>,
    /// Why `host.key` cannot be read.
    pub key_error: Option<String>,
    /// Why the state cannot be written.
    pub state_error: Option<String>,
    /// A backup that is being taken: when it began.
    pub backup_started_us: Option<i64>,
    /// The last drill.
    pub drill: Option<Drilled>,
}

/// A file system.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// What lies there: `pg_wal`, `repository`, `state`.
    pub what: String,
    /// Bytes that can be used.
    pub total_bytes: u64,
    /// Bytes that are left.
    pub free_bytes: u64,
}

impl Disk {
    /// How full it is, of a hundred.
    pub fn used_percent(&self) -> f64 {
        match self.total_bytes {
            0 => 0.0,
            total => 100.0 * (1.0 - self.free_bytes as f64 / total as f64),
        }
    }
}

/// Something that the daemon does by itself, as it went last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Job {
    /// `backup`, `verify`, `prune`.
    pub name: String,
    /// When it began last; it runs as long as there is no end after that.
    pub started_us: Option<i64>,
    /// When it ended last, with whichever outcome.
    pub ended_us: Option<i64>,
    /// When it ended well last.
    pub succeeded_us: Option<i64>,
    /// Its last exit code; `None` when it was ended by a signal.
    pub exit_code: Option<i32>,
    /// What it said when it failed last.
    pub error: Option<String>,
    /// When it is due next.
    #[serde(default)]
    pub due_us: Option<i64>,
}

/// Somebody who is told.
#[derive(Debug, Clone, Default)]
pub struct Channel {
    /// Its name in the configuration.
    pub name: String,
    /// Messages that arrived.
    pub sent: u64,
    /// Since when messages do not arrive, and why.
    pub failing: Option<(i64, String)>,
}
