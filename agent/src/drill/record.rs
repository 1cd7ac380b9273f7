//! What a drill has shown, kept.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::records::LedgerEntry;
use store::repository::Writer;

use super::restore::Target;
use crate::open::{Context, command_policy, host_name};
use crate::output;
use crate::run::ledger;
use crate::status::state_file;

/// One drill.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Drilled {
    /// When it began, microseconds since 1970.
    pub began_us: i64,
    /// Everything held.
    pub passed: bool,
    /// To where.
    pub target: String,
    /// The backup that was restored, and the point that was reached.
    pub backup: Option<String>,
    pub stop_lsn: Option<String>,
    /// The newest transaction that came back.
    pub last_commit_time: Option<String>,
    /// From the beginning to a server that takes work.
    pub rto_ms: Option<u64>,
    /// By phase: plan, fetch, finish, replay, promote, prove.
    pub phases_ms: Value,
    /// Bytes of the files, and of WAL that was replayed.
    pub logical_bytes: u64,
    pub wal_bytes: u64,
    /// What was proven: how many proofs.
    pub proofs: usize,
    /// Why it failed.
    pub error: Option<String>,
}

impl Drilled {
    pub fn of(began_us: i64, target: &Target, outcome: &anyhow::Result<Value>) -> Self {
        let base = Drilled {
            began_us,
            target: target.text.clone(),
            ..Drilled::default()
        };
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                return Drilled {
                    error: Some(error.to_string()),
                    ..base
                };
            }
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Drilled {
            passed: true,
            backup: text(&report["backup"]),
            stop_lsn: text(&report["stop_lsn"]),
            last_commit_time: text(&report["server"]["last_commit_time"]),
            rto_ms: report["rto_ms"].as_u64(),
            phases_ms: report["phases_ms"].clone(),
            logical_bytes: report["logical_bytes"].as_u64().unwrap_or(0),
            wal_bytes: report["wal_bytes"].as_u64().unwrap_or(0),
            proofs: report["proofs"].as_array().map_or(0, Vec::len),
            ..base
        }
    }

    /// The time of a phase.
    pub fn phase_ms(&self, name: &str) -> u64 {
        self.phases_ms[name].as_u64().unwrap_or(0)
    }
}

impl fmt::Display for Drilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return write!(f, "The drill to {} FAILED: {error}", self.target);
        }
        let seconds = |ms: u64| ms as f64 / 1e3;
        write!(
            f,
            "The drill to {} passed: backup {} to {}, {} proofs, newest transaction {}.\nTime to restore {:.1} s: plan {:.1}, fetch {:.1}, finish {:.1}, replay {:.1}, promote {:.1} s; proofs {:.1} s more.",
            self.target,
            self.backup.as_deref().unwrap_or("?"),
            self.stop_lsn.as_deref().unwrap_or("?"),
            self.proofs,
            self.last_commit_time.as_deref().unwrap_or("none"),
            seconds(self.rto_ms.unwrap_or(0)),
            seconds(self.phase_ms("plan")),
            seconds(self.phase_ms("fetch")),
            seconds(self.phase_ms("finish")),
            seconds(self.phase_ms("replay")),
            seconds(self.phase_ms("promote")),
            seconds(self.phase_ms("prove")),
        )
    }
}

fn file(context: &Context) -> PathBuf {
    state_file(context).with_extension("drill.json")
}

/// The last drill of this host.
pub fn last(context: &Context) -> Option<Drilled> {
    serde_json::from_slice(&std::fs::read(file(context)).ok()?).ok()
}

/// Keeps it here and in the repository. That this fails does not make the drill fail.
pub async fn keep(context: &Context, drilled: &Drilled) {
    let kept = serde_json::to_vec_pretty(drilled).map_err(std::io::Error::from);
    if let Err(error) = kept.and_then(|json| store::durable::atomic_write(&file(context), &json)) {
        tracing::warn!(%error, "cannot keep on this host what the drill has shown");
    }
    if let Err(error) = note(context, drilled).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "cannot note in the repository what the drill has shown"
        );
    }
}

async fn note(context: &Context, drilled: &Drilled) -> anyhow::Result<()> {
    let keys = context.host_keys()?;
    let repository = context.repository(command_policy(), &keys).await?;
    let entry = LedgerEntry {
        time_us: output::now_us(),
        host: host_name(),
        event: if drilled.passed { "drill-passed" } else { "drill-failed" }.to_owned(),
        detail: drilled.to_string(),
    };
    let writer = Writer::new(repository, std::sync::Arc::new(keys.signing), 0);
    ledger::put(&writer, &entry).await?;
    Ok(())
}
