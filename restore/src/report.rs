//! What a restore reports: figures for people and one JSON document.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::comparison::Comparison;
use crate::fetch_files::Fetched;
use crate::plan::{Plan, StopKind, bytes_text};
use crate::prove::Proof;

/// How long each phase took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Phases {
    /// Choosing and checking.
    #[serde(rename = "plan")]
    pub(crate) plan_ms: u64,
    /// Files.
    #[serde(rename = "fetch")]
    pub(crate) fetch_ms: u64,
    /// Settings, fsync, pg_control.
    #[serde(rename = "finish")]
    pub(crate) finish_ms: u64,
    /// From the start of the server to the stop point.
    #[serde(rename = "replay")]
    pub(crate) replay_ms: Option<u64>,
    /// From there to the end of recovery.
    #[serde(rename = "promote")]
    pub(crate) promote_ms: Option<u64>,
    /// The proofs.
    #[serde(rename = "prove")]
    pub(crate) prove_ms: Option<u64>,
}

/// What the started server said.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Started {
    /// `pg_last_wal_replay_lsn()` at the stop point.
    pub(crate) replay_lsn: String,
    /// Time of the last transaction that was replayed.
    pub(crate) last_commit_time: Option<String>,
    /// `paused`, `promoted` or `shut down`.
    pub(crate) state: &'static str,
    /// The new timeline, after a promotion.
    pub(crate) timeline: Option<u32>,
    /// Directory of its socket.
    pub(crate) socket_dir: String,
    /// Its port.
    pub(crate) port: u16,
    /// The role that it was looked at with.
    #[serde(skip)]
    pub(crate) role: String,
}

impl Started {
    /// For people.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>, pgdata: &Path) -> fmt::Result {
        let time = self.last_commit_time.as_deref().unwrap_or("none");
        let (port, sockets, pgdata) = (self.port, &self.socket_dir, pgdata.display());
        write!(
            f,
            "server     {}, replayed to {}, last transaction {time}",
            self.state, self.replay_lsn
        )?;
        if let Some(timeline) = self.timeline {
            write!(
                f,
                "\n           on timeline {timeline}, port {port}, socket in \"{sockets}\""
            )?;
        }
        if self.state == "paused" {
            write!(
                f,
                "\nlook       psql --host {sockets} --port {port}: read-only, as long as it waits here\n                 go on      wal-restore forward --pgdata \"{pgdata}\" --target-time ...\n                 end        wal-restore promote --pgdata \"{pgdata}\""
            )?;
        }
        Ok(())
    }
}

/// The report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Always true; a failure is another document.
    pub(crate) ok: bool,
    /// Nothing was changed.
    pub(crate) dry_run: bool,
    /// The plan.
    #[serde(flatten)]
    pub(crate) plan: Plan,
    /// The stop point again, for scripts.
    pub(crate) stop_lsn: String,
    /// Bytes read from the repository.
    pub(crate) fetched_bytes: u64,
    /// Bytes written.
    pub(crate) written_bytes: u64,
    /// What was found in a target that was not empty.
    pub(crate) comparison: Option<Comparison>,
    /// Logical megabytes (of 1,000,000 bytes) a second, files only.
    pub(crate) restore_mb_s: Option<f64>,
    /// By phase.
    pub(crate) phases_ms: Phases,
    /// From the start of this program to its end.
    pub(crate) rto_ms: u64,
    /// With `--start`.
    pub(crate) server: Option<Started>,
    /// With `--prove`.
    pub(crate) proofs: Vec<Proof>,
    /// What the operator should know, found on the way.
    #[serde(rename = "restore_warnings")]
    pub(crate) warnings: Vec<String>,
}

impl Report {
    /// After a dry run.
    pub(crate) fn dry(plan: Plan, comparison: Option<Comparison>, phases: Phases) -> Self {
        Report {
            dry_run: true,
            comparison,
            rto_ms: phases.plan_ms,
            ..Report::new(plan, Fetched::default(), phases, Vec::new())
        }
    }

    /// After a restore.
    pub(crate) fn new(plan: Plan, fetched: Fetched, phases_ms: Phases, warnings: Vec<String>) -> Self {
        let seconds = (phases_ms.fetch_ms + phases_ms.finish_ms) as f64 / 1000.0;
        let restore_mb_s = (seconds > 0.0).then(|| (plan.logical_bytes as f64 / 1e6 / seconds * 10.0).round() / 10.0);
        Report {
            ok: true,
            dry_run: false,
            stop_lsn: plan.stop.lsn.to_string(),
            plan,
            fetched_bytes: fetched.fetched_bytes,
            written_bytes: fetched.written_bytes,
            comparison: None,
            restore_mb_s,
            phases_ms,
            rto_ms: 0,
            server: None,
            proofs: Vec::new(),
            warnings,
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            return write!(f, "nothing was changed (--dry-run)");
        }
        let new_warnings = self
            .warnings
            .iter()
            .filter(|warning| !self.plan.warnings.contains(warning));
        for warning in new_warnings {
            writeln!(f, "WARNING: {warning}")?;
        }
        let speed = self
            .restore_mb_s
            .map(|speed| format!(", {speed} MB/s"))
            .unwrap_or_default();
        let pgdata = self.plan.pgdata.display();
        writeln!(
            f,
            "restored   {} to \"{pgdata}\", {} read{speed}",
            bytes_text(self.plan.logical_bytes),
            bytes_text(self.fetched_bytes)
        )?;
        if let Some(found) = &self.comparison {
            writeln!(
                f,
                "delta      {} were there already, {} written, {} files removed",
                bytes_text(found.held_bytes),
                bytes_text(self.written_bytes),
                found.removed.len()
            )?;
        }
        let phases = &self.phases_ms;
        write!(
            f,
            "took       plan {}, fetch {}, finish {}",
            seconds(phases.plan_ms),
            seconds(phases.fetch_ms),
            seconds(phases.finish_ms)
        )?;
        if let Some(ms) = phases.replay_ms {
            write!(f, ", replay {}", seconds(ms))?;
        }
        if let Some(ms) = phases.promote_ms {
            write!(f, ", promote {}", seconds(ms))?;
        }
        if let Some(ms) = phases.prove_ms {
            write!(f, ", prove {}", seconds(ms))?;
        }
        writeln!(f, "; together {}", seconds(self.rto_ms))?;
        for proof in &self.proofs {
            let verdict = match (proof.ok, proof.is_question) {
                (true, false) => "proven    ",
                (true, true) => "asked     ",
                (false, _) => "NOT PROVEN",
            };
            writeln!(f, "{verdict} {}, {}: {}", proof.database, proof.name, proof.detail)?;
        }
        match &self.server {
            None if self.plan.stop.kind == StopKind::Follow => {
                writeln!(f, "next       start the server: it follows the archive as a standby")?
            }
            None => writeln!(
                f,
                "next       start the server: it recovers, then {}s",
                self.plan.target_action
            )?,
            Some(server) => {
                server.show(f, &self.plan.pgdata)?;
                writeln!(f)?;
            }
        }
        if self.plan.stop.kind == StopKind::Follow {
            return match self.plan.has_primary {
                true => write!(
                    f,
                    "It streams from the primary that was named, once the archive has no more."
                ),
                false => write!(
                    f,
                    "It streams from no server: for that, set primary_conninfo in it (--primary-conninfo)."
                ),
            };
        }
        let when = match &self.server {
            Some(server) if server.state == "promoted" => "",
            _ => " once it is promoted",
        };
        write!(
            f,
            "The server does not archive and follows nobody; nothing that it does from now on is protected. If it shall be production,\n\
             `wal-agent adopt`{when} takes back what the restore has set, makes the slots and takes the first backup."
        )
    }
}
