//! What can be wrong, each kind with a name of its own: in metrics, messages, `status`, and as a heading of docs/ALARMS.md.

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Must be looked at, not at night.
    Warning,
    /// Data is at risk: somebody must act now.
    Page,
}

impl Severity {
    /// As it is printed.
    pub const fn word(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Page => "page",
        }
    }
}

/// Declares the kinds with name, severity and how many seconds each must last before it is raised.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal, $severity:ident, $hold:literal;)*) => {
        /// What is wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[doc = $doc])+ $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// Its name, the same everywhere.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Kind::$kind => Severity::$severity,)* }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Kind::$kind => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Seconds that it must last: what passes by itself wakes nobody.
            pub const fn hold_s(self) -> i64 {
                match self { $(Kind::$kind => $hold,)* }
            }
        }
    };
}

kinds! {
    /// The agent ends and will not come back by itself.
    AgentStopped = "agent_stopped", Page, 0;
    /// No WAL is streamed.
    NotStreaming = "not_streaming", Page, 30;
    /// A commit is not archived for longer than `objectives.rpo`.
    RpoBroken = "rpo_broken", Page, 0;
    /// The repository cannot be read.
    RepositoryUnreachable = "repository_unreachable", Page, 60;
    /// Something in the repository that every command needs is damaged.
    RepositoryDamaged = "repository_damaged", Page, 0;
    /// Something at `keys/` cannot be read or is not signed.
    TrustInDoubt = "trust_in_doubt", Page, 0;
    /// A place of the repository lacks something.
    CopyBehind = "copy_behind", Warning, 120;
    /// The slot is not there.
    SlotMissing = "slot_missing", Page, 30;
    /// The server has given the slot up.
    SlotLost = "slot_lost", Page, 0;
    /// The server keeps more than `retained_warn`.
    WalRetained = "wal_retained", Warning, 0;
    /// The server keeps more than `retained_page`.
    WalRetainedMuch = "wal_retained_much", Page, 0;
    /// The disk of `pg_wal` is full within the hour.
    WalDiskFilling = "wal_disk_filling", Page, 20;
    /// A disk is fuller than `objectives.disk_warn`.
    DiskHigh = "disk_high", Warning, 0;
    /// A disk is fuller than `objectives.disk_page`.
    DiskFull = "disk_full", Page, 0;
    /// WAL is missing.
    WalHole = "wal_hole", Page, 0;
    /// There is no backup.
    NoBackup = "no_backup", Page, 120;
    /// All backups are of histories that the server has left.
    BackupOfOtherHistory = "backup_of_other_history", Page, 120;
    /// The newest backup is older than `objectives.backup_age`.
    BackupOld = "backup_old", Page, 0;
    /// The last backup on schedule failed.
    BackupFailed = "backup_failed", Page, 0;
    /// A backup takes longer than `backup.duration_max`.
    BackupSlow = "backup_slow", Warning, 0;
    /// The newest backup has pages that are corrupt in the database.
    CorruptPages = "corrupt_pages", Page, 0;
    /// The server has found corrupt pages itself.
    ChecksumFailures = "checksum_failures", Page, 0;
    /// Stored objects are damaged.
    VerifyDamage = "verify_damage", Page, 0;
    /// Nothing was compared for longer than `objectives.verify_age`.
    VerifyOld = "verify_old", Warning, 0;
    /// The last look on schedule failed.
    VerifyFailed = "verify_failed", Warning, 0;
    /// The last pruning on schedule failed.
    PruneFailed = "prune_failed", Warning, 0;
    /// The last drill failed: a restore would not have been right.
    DrillFailed = "drill_failed", Page, 0;
    /// A restore is estimated to take longer than `objectives.rto`.
    RtoBroken = "rto_broken", Warning, 0;
    /// No restore was proven for longer than `objectives.drill_age`.
    DrillOld = "drill_old", Warning, 0;
    /// Commits no longer wait for the repository.
    Degraded = "degraded", Page, 0;
    /// Commits wait for ever.
    RemoteApply = "remote_apply", Page, 0;
    /// `archive_command` fails.
    ArchiverFailing = "archiver_failing", Page, 30;
    /// The server does not answer SQL.
    ServerSilent = "server_silent", Warning, 90;
    /// A setting or a right is not as it must be.
    ServerSetting = "server_setting", Page, 0;
    /// A setting is unwise.
    ServerSettingUnwise = "server_setting_unwise", Warning, 0;
    /// A slot of ours that nobody uses holds WAL back.
    IdleSlot = "idle_slot", Warning, 60;
    /// The clocks of server and host are apart.
    ClockApart = "clock_apart", Warning, 0;
    /// `host.key` cannot be read: the agent would not start again.
    KeyUnreadable = "key_unreadable", Page, 0;
    /// The state directory cannot be written.
    StateUnwritable = "state_unwritable", Warning, 0;
    /// A configuration that was to be read again is wrong.
    ReloadFailed = "reload_failed", Warning, 0;
    /// Messages do not arrive.
    NotifyFailing = "notify_failing", Warning, 60;
}

/// One thing that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What.
    pub kind: Kind,
    /// Which one, where there can be several: a copy, a disk, a slot.
    pub subject: Option<String>,
    /// The facts, for people.
    pub text: String,
    /// What to do.
    pub hint: String,
}

impl Alarm {
    /// The text may have an error in it as it is printed, with its own DETAIL and HINT: such a hint is more to the point.
    pub fn new(kind: Kind, text: impl Into<String>, hint: impl Into<String>) -> Self {
        let text: String = text.into();
        let (text, own_hint) = match text.split_once("\nHINT: ") {
            Some((text, hint)) => (text.to_owned(), Some(hint.replace("\nHINT: ", " "))),
            None => (text, None),
        };
        Alarm {
            kind,
            subject: None,
            text: text.replace("wal-agent: ", "").replace("\nDETAIL: ", ": "),
            hint: own_hint.unwrap_or_else(|| hint.into()),
        }
    }

    #[must_use]
    pub fn of(self, subject: &str) -> Self {
        Alarm {
            subject: Some(subject.to_owned()),
            ..self
        }
    }

    /// Two with the same key are the same alarm, whatever its figures are by now.
    pub fn key(&self) -> (Kind, Option<String>) {
        (self.kind, self.subject.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alarm_is_raised_within_five_minutes_and_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        // Beside the time between two looks, 120 s at most.
        assert!(Kind::ALL.iter().all(|kind| kind.hold_s() <= 150));
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn the_hint_of_an_error_goes_before_the_usual_one() {
        let alarm = Alarm::new(Kind::BackupFailed, "it failed: wal-agent: a\nDETAIL: b\nHINT: c", "d");
        assert_eq!((alarm.text.as_str(), alarm.hint.as_str()), ("it failed: a: b", "c"));
        assert_eq!(Alarm::new(Kind::BackupFailed, "a", "d").hint, "d");
    }

    #[test]
    fn every_alarm_has_its_section_in_the_guide() {
        let guide = include_str!("../../../docs/ALARMS.md");
        for kind in Kind::ALL {
            let heading = format!("\n## {}\n", kind.name());
            assert!(
                guide.contains(&heading),
                "docs/ALARMS.md has no section {}",
                kind.name()
            );
        }
    }
}
