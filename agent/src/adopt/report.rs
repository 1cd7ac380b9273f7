//! The plan, and what came of it: for people and as one JSON document.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::course::Course;
use super::disarmed::{Reset, Todo};
use super::look::Look;
use super::predecessor::Predecessor;
use super::protect::Protected;
use crate::backup::BackupReport;
use crate::cli::AdoptOptions;
use crate::init;
use crate::open::Context;
use crate::output;

/// The branch of an older timeline that is kept.
#[derive(Debug, Clone, Serialize)]
struct KeptBranch {
    timeline: u32,
    left_at: String,
    archived_lsn: String,
}

/// Both.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    cluster: String,
    server: String,
    server_version: String,
    /// Nothing was changed.
    dry_run: bool,
    /// `streamed`, `goes on`, `new lineage`.
    course: &'static str,
    /// Absent where it is yet to begin.
    lineage: Option<String>,
    /// The lineage that a new one leaves, and why.
    parent: Option<String>,
    reason: Option<String>,
    timeline: u32,
    kept_branch: Option<KeptBranch>,
    predecessor: Predecessor,
    slots: Vec<String>,
    missing_slots: Vec<String>,
    settings_reset: Vec<String>,
    settings_kept: BTreeMap<String, String>,
    backup: Option<BackupReport>,
    protected_since: Option<String>,
    /// An agent archives on.
    streamed: bool,
    left_to_do: Vec<Todo>,
    warnings: Vec<String>,
    #[serde(skip)]
    no_backup: bool,
}

impl Report {
    /// What will be done.
    pub(super) fn planned(context: &Context, look: &Look, options: &AdoptOptions) -> Self {
        let (course, kept_branch) = match &look.course {
            Course::Streamed { .. } => ("streamed", None),
            Course::GoesOn { branch, .. } => ("goes on", *branch),
            Course::Parts { .. } | Course::Other { .. } => ("new lineage", None),
        };
        let known = look.course.known().id.to_string();
        let reason = look.course.reason().map(str::to_owned);
        let is_new = reason.is_some();
        let place = look.connect.servers.first();
        Report {
            cluster: context.cluster.name.clone(),
            server: place.map(ToString::to_string).unwrap_or_default(),
            server_version: look.server.version.to_string(),
            dry_run: options.dry_run,
            course,
            lineage: (!is_new).then(|| known.clone()),
            parent: is_new.then_some(known),
            reason,
            timeline: look.server.identity.timeline.as_u32(),
            kept_branch: kept_branch.map(|branch| KeptBranch {
                timeline: branch.timeline.as_u32(),
                left_at: branch.left.to_string(),
                archived_lsn: branch.archived.to_string(),
            }),
            predecessor: look.predecessor.clone(),
            slots: init::both_slots(context).into(),
            missing_slots: look.missing_slots.clone(),
            settings_reset: look.settings.reset.clone(),
            settings_kept: look.settings.stays.clone(),
            backup: None,
            protected_since: None,
            streamed: matches!(look.course, Course::Streamed { .. }),
            left_to_do: look.settings.todo.clone(),
            warnings: look.warnings.clone(),
            no_backup: options.no_backup,
        }
    }

    /// The settings that the role may not reset are left to the operator.
    pub(super) fn settings_are_reset(&mut self, reset: Reset) {
        self.settings_reset = reset.done;
        if reset.refused.is_empty() {
            return;
        }
        let statements: Vec<_> = reset
            .refused
            .iter()
            .map(|name| format!("ALTER SYSTEM RESET {name};"))
            .collect();
        self.left_to_do.push(Todo::new(
            "the agent's role may not take back what the restore has set. It does nothing outside of recovery; as a superuser",
            statements.join(" "),
        ));
    }

    /// What came of it.
    pub(super) fn is_protected(&mut self, protected: Protected) {
        self.lineage = Some(protected.lineage.to_string());
        self.streamed = protected.is_streamed;
        if protected.backup.is_some() {
            self.protected_since = Some(output::time_us(output::now_us()));
        } else {
            let what = "take the first backup, once an agent runs: until then nothing new can be restored from here";
            self.left_to_do.insert(0, Todo::new(what, "wal-agent backup"));
        }
        self.backup = protected.backup;
        if !self.streamed {
            let what = "start the agent now: the slots keep WAL for it, and nothing is archived before";
            self.left_to_do.insert(
                0,
                Todo::new(what, "systemctl enable --now seawall    (or: wal-agent run)"),
            );
        }
    }

    /// Prints it.
    pub(super) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            return output::print_json(&serde_json::to_value(self)?);
        }
        println!("{}", if self.dry_run { self.plan() } else { self.result() });
        if self.dry_run {
            println!("Nothing was changed (--dry-run).");
        }
        Ok(())
    }

    /// The plan for people.
    pub(super) fn plan(&self) -> String {
        let mut text = format!(
            "Cluster \"{}\": PostgreSQL {} at {}, timeline {}\n",
            self.cluster, self.server_version, self.server, self.timeline
        );
        let mut line = |head: &str, rest: &str| {
            let _ = writeln!(text, "{head:<11}{rest}");
        };
        line("lineage", &self.lineage_line());
        if !self.streamed {
            line("old server", &self.predecessor.to_string());
        }
        line(
            "slots",
            &match self.missing_slots.as_slice() {
                [] => format!("{} are there", self.slots.join(", ")),
                missing => format!("make {}", missing.join(", ")),
            },
        );
        line(
            "settings",
            &match self.settings_reset.as_slice() {
                [] => "nothing to reset".to_owned(),
                names => format!("reset {}", names.join(", ")),
            },
        );
        if !self.settings_kept.is_empty() {
            line("", &self.kept_line());
        }
        line(
            "backup",
            match (self.no_backup, self.streamed) {
                (true, _) => "none (--no-backup)",
                (false, true) => "at once, beside the agent that streams",
                (false, false) => "at once; WAL is archived by this command for as long as it takes",
            },
        );
        self.add_rest(&mut text);
        text.trim_end().to_owned()
    }

    fn lineage_line(&self) -> String {
        let known = self
            .lineage
            .as_ref()
            .or(self.parent.as_ref())
            .map(String::as_str)
            .unwrap_or_default();
        match (&self.reason, &self.kept_branch) {
            (Some(reason), _) => format!("a new one beside {known}, which is kept: {reason}"),
            (None, _) if self.streamed => format!("{known}: an agent streams from the slot already"),
            (None, Some(branch)) => format!(
                "{known} goes on. What timeline {} has behind {}, up to {}, is kept as a branch of its own",
                branch.timeline, branch.left_at, branch.archived_lsn
            ),
            (None, None) => format!("{known} goes on"),
        }
    }

    fn kept_line(&self) -> String {
        let kept: Vec<_> = self
            .settings_kept
            .iter()
            .map(|(name, value)| format!("{name} = '{value}'"))
            .collect();
        format!(
            "as the restore has set it: {} (ALTER SYSTEM RESET each when you like)",
            kept.join(", ")
        )
    }

    /// The result for people.
    fn result(&self) -> String {
        let mut text = String::new();
        let lineage = self.lineage.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "Cluster \"{}\" is adopted: lineage {lineage}, timeline {}, slots {}.",
            self.cluster,
            self.timeline,
            self.slots.join(", ")
        );
        if let Some(parent) = &self.parent {
            let _ = writeln!(
                text,
                "Lineage {parent} is kept as it is; what it holds can be restored with --backup."
            );
        }
        if !self.settings_reset.is_empty() {
            let _ = writeln!(text, "Reset: {}.", self.settings_reset.join(", "));
        }
        match (&self.backup, &self.protected_since) {
            (Some(backup), Some(since)) => {
                let _ = writeln!(
                    text,
                    "Backup {} is complete, up to {}: protected since {since}{}.",
                    backup.backup,
                    backup.end_lsn,
                    if self.streamed {
                        ""
                    } else {
                        ", and from the start of the agent on"
                    }
                );
            }
            _ => text.push_str("WARNING: there is no backup of it yet.\n"),
        }
        self.add_rest(&mut text);
        text.trim_end().to_owned()
    }

    fn add_rest(&self, text: &mut String) {
        if !self.left_to_do.is_empty() {
            text.push_str("Left to you:\n");
        }
        for todo in &self.left_to_do {
            let _ = writeln!(text, "- {}", todo.what);
            if let Some(statement) = &todo.statement {
                let _ = writeln!(text, "    {statement}");
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "WARNING: {warning}");
        }
    }
}
