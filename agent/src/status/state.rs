//! What the daemon says of itself, in a small file that it writes twice a second. A convenience: nothing is decided by it.

use std::path::PathBuf;

use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use serde::{Deserialize, Serialize};
use store::id::LineageId;
use store::verify::Watermark;

use crate::health::board::Open;
use crate::health::facts::Job;
use crate::open::Context;
use crate::output;

/// A state older than this means that no agent runs.
const STALE_US: i64 = 10_000_000;

/// What the daemon says of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DaemonState {
    /// Process id.
    pub pid: u32,
    /// When this was written, microseconds since 1970.
    pub written_us: i64,
    /// A stream is open.
    pub streaming: bool,
    /// Lineage that is archived.
    pub lineage: String,
    /// Timeline.
    pub timeline: u32,
    /// End of what came in.
    pub received_lsn: String,
    /// End of the contiguous archived prefix.
    pub archived_lsn: String,
    /// The server's end of WAL.
    pub server_lsn: String,
    /// Age of the oldest commit that is not archived, milliseconds.
    pub rpo_ms: u64,
    /// The server's WAL that is not archived.
    #[serde(default)]
    pub unarchived_bytes: u64,
    /// Time of the newest transaction that came in, microseconds since 1970; 0: none since the agent started.
    #[serde(default)]
    pub last_commit_us: i64,
    /// When the server said anything last; 0: never.
    #[serde(default)]
    pub contact_us: i64,
    /// The highest RPO of each of the last spans of ten seconds, oldest first.
    #[serde(default)]
    pub rpo_history_ms: Vec<u64>,
    /// Commit to archived.
    pub lag: LagState,
    /// WAL bytes made durable in whole objects by this process.
    pub wal_bytes: u64,
    /// Bytes stored for them and for tails.
    pub stored_bytes: u64,
    /// Whole objects created.
    pub objects: u64,
    /// Tails created.
    pub tails: u64,
    /// The last error of the WAL lane, if it is not streaming.
    pub error: Option<String>,
    /// WAL that the server keeps for us.
    #[serde(default)]
    pub retained_bytes: u64,
    /// When the disk of `pg_wal` is full at the present rate, in seconds, if it can be seen.
    #[serde(default)]
    pub pg_wal_full_in_s: Option<u64>,
    /// Commits may wait for us.
    #[serde(default)]
    pub synchronous: bool,
    /// We took ourselves out of `synchronous_standby_names`.
    #[serde(default)]
    pub degraded: bool,
    /// `remote_apply` while commits may wait for us.
    #[serde(default)]
    pub remote_apply: bool,
    /// What is open, worst first.
    #[serde(default)]
    pub alarms: Vec<Open>,
    /// What the daemon does on schedule.
    #[serde(default)]
    pub jobs: Vec<Job>,
}

impl DaemonState {
    /// Written lately: the daemon lives.
    pub fn is_fresh(&self) -> bool {
        output::now_us() - self.written_us < STALE_US
    }
}

/// Lag of commits.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LagState {
    /// Commits counted.
    pub commits: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// Where the daemon's state lies.
pub fn state_file(context: &Context) -> PathBuf {
    context
        .cluster
        .status
        .state_directory
        .join(format!("{}.json", context.cluster.name))
}

/// What the daemon of this host has said last.
pub fn last_said(context: &Context) -> Option<DaemonState> {
    let bytes = std::fs::read(state_file(context)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The lineage that the daemon of this host has archived last, as far as it has said.
pub fn archived_lineage(context: &Context) -> Option<LineageId> {
    last_said(context)?.lineage.parse().ok()
}

/// How far the daemon of this host has archived, as far as it has said: what is in the repository cannot be less.
pub fn watermark(context: &Context) -> Option<Watermark> {
    let state = last_said(context)?;
    Some(Watermark {
        lineage: state.lineage.parse().ok()?,
        timeline: TimelineId::new(state.timeline)?,
        archived: state.archived_lsn.parse().ok().filter(|lsn: &Lsn| lsn.is_valid())?,
        may_lag: context.is_copy,
    })
}

/// True when a daemon wrote its state lately, whether it streams or not.
pub fn is_running(context: &Context) -> bool {
    last_said(context).is_some_and(|state| state.is_fresh())
}
