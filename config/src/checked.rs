//! What the configuration means: every value has its type and is within its bounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use store::object::mirrored::Confirm;

use crate::component::Component;
use crate::effective::Effective;
use crate::error::{ConfigErrors, Problem};
use crate::group::Group;
use crate::notify::Notify;
use crate::origin::Origin;
use crate::repository::Repository;
use crate::schedule::Schedule;
use crate::secret::SecretText;
use crate::suggest::nearest;
use crate::units::ByteSize;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[repository]`.
    pub repository: Repository,
    /// `[copy.<name>]`, by name: places that hold the same.
    pub copies: BTreeMap<String, Repository>,
    /// `confirm`: with copies, when something counts as stored.
    pub confirm: Confirm,
    /// `[keys]`.
    pub keys: Keys,
    /// `[cluster.<name>]`, by name.
    pub clusters: BTreeMap<String, Cluster>,
    /// `[notify.<name>]`, by name: to whom alarms go.
    pub notify: BTreeMap<String, Notify>,
    /// `[component.<name>]`, by name: systems beside PostgreSQL.
    pub components: BTreeMap<String, Component>,
    /// `[group.<name>]`, by name: what is brought back to one point.
    pub groups: BTreeMap<String, Group>,
    /// `[log]`.
    pub log: Log,
    /// What is wrong where nobody looks now: a restore reads the same file, and must not be stopped by what only the agent needs.
    pub passed_over: Vec<Problem>,
    pub(crate) origins: Vec<Effective>,
}

impl Config {
    /// The cluster of this name, or the only one there is.
    pub fn cluster(&self, name: Option<&str>) -> Result<&Cluster, ConfigErrors> {
        let names: Vec<&str> = self.clusters.keys().map(String::as_str).collect();
        let all = names.join(", ");
        let problem = match name {
            Some(name) => match self.clusters.get(name) {
                Some(cluster) => return Ok(cluster),
                None => {
                    let problem = Problem::new(format!("cluster \"{name}\" is not in the configuration"));
                    match nearest(name, names.iter().copied()) {
                        Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                        None if names.is_empty() => {
                            problem.hint(format!("Add a table [cluster.{name}.postgres] to the file."))
                        }
                        None => problem.hint(format!("The configuration has: {all}.")),
                    }
                }
            },
            None => {
                let mut clusters = self.clusters.values();
                match (clusters.next(), clusters.next()) {
                    (Some(only), None) => return Ok(only),
                    (None, _) => Problem::new("the configuration has no cluster")
                        .hint("Add a table [cluster.main.postgres] to the file."),
                    (Some(_), Some(_)) => Problem::new("the configuration has several clusters")
                        .hint(format!("Choose one with --cluster: {all}.")),
                }
            }
        };
        Err(problem.into())
    }

    /// Takes a copy for the repository: everything is read from there.
    pub fn use_copy(&mut self, name: &str) -> Result<(), ConfigErrors> {
        let Some(copy) = self.copies.get(name) else {
            let problem = Problem::new(format!("copy \"{name}\" is not in the configuration"));
            let names: Vec<&str> = self.copies.keys().map(String::as_str).collect();
            return Err(match nearest(name, names.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                None if names.is_empty() => problem.hint(format!("Add a table [copy.{name}] to the file.")),
                None => problem.hint(format!("The configuration has: {}.", names.join(", "))),
            }
            .into());
        };
        self.repository = copy.clone();
        self.copies.clear();
        Ok(())
    }

    /// Key files that somebody has named, by the key of the configuration: these are meant to be here.
    #[must_use]
    pub fn named_key_files(&self) -> Vec<(&'static str, &std::path::Path)> {
        let keys = &self.keys;
        let all = [
            ("host_key", &keys.host_key),
            ("maintenance_key", &keys.maintenance_key),
            ("restore_key", &keys.restore_key),
        ];
        let is_named = |name: &str| {
            let full = format!("keys.{name}");
            let mut origins = self.origins.iter();
            origins.any(|effective| effective.key == full && effective.origin != Origin::Default)
        };
        let named = all.into_iter().filter(|(name, _)| is_named(name));
        named.map(|(name, path)| (name, path.as_path())).collect()
    }

    /// Every key in force with its origin, secrets redacted, in the order of the tables.
    pub fn effective(&self) -> Vec<Effective> {
        self.origins.clone()
    }
}

/// `[keys]`: the files with the keys of this machine's roles. They need not exist.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `directory`; /etc/seawall/keys, beside the file: a backup of /etc has both.
    pub directory: PathBuf,
    /// `host_key`; host.key in the directory.
    pub host_key: PathBuf,
    /// `restore_key`; restore.key in the directory.
    pub restore_key: PathBuf,
    /// `maintenance_key`; maintenance.key in the directory.
    pub maintenance_key: PathBuf,
    /// `restore_key_command`: a program and its arguments that print the text of a restore key file; used in place of the file.
    pub restore_key_command: Vec<String>,
    /// `maintenance_key_command`, likewise.
    pub maintenance_key_command: Vec<String>,
}

/// `[cluster.<name>]`: one PostgreSQL cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Up to 63 of `a-z 0-9 _ -`; part of object names, so it never changes.
    pub name: String,
    /// `[cluster.<name>.postgres]`.
    pub postgres: Postgres,
    /// `[cluster.<name>.wal]`.
    pub wal: Wal,
    /// `[cluster.<name>.backup]`.
    pub backup: Backup,
    /// `[cluster.<name>.retention]`.
    pub retention: Retention,
    /// `[cluster.<name>.restore]`.
    pub restore: Restore,
    /// `[cluster.<name>.drill]`.
    pub drill: Drill,
    /// `[cluster.<name>.objectives]`.
    pub objectives: Objectives,
    /// `[cluster.<name>.schedule]`.
    pub schedule: Schedules,
    /// `[cluster.<name>.http] listen`; 127.0.0.1:9808, where nobody else can see it. `None`: off.
    pub listen: Option<std::net::SocketAddr>,
    /// `[cluster.<name>.status]`.
    pub status: Status,
}

/// `[cluster.<name>.postgres]`: how to reach the server, with libpq's names.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Those that are libpq's, as libpq wants them, where set (see `pg::conninfo::KEYS`). `dbname` is
    /// always there: postgres, which every cluster has.
    pub options: BTreeMap<String, String>,
    /// `data_directory`; asked from the server when not set.
    pub data_directory: Option<PathBuf>,
    /// `bin_directory`: the server's programs, for proofs and drills.
    pub bin_directory: Option<PathBuf>,
    /// What `password_file` holds; nothing after [`crate::load_for_restore`].
    pub password: Option<SecretText>,
    /// `passfile`: a file like ~/.pgpass.
    pub passfile: Option<PathBuf>,
}

/// `[cluster.<name>.wal]`: the WAL lane.
#[derive(Debug, Clone)]
pub struct Wal {
    /// `slot`; seawall, so that whoever finds it on the server knows whose it is.
    pub slot: String,
    /// `ship_interval`; 1 s, the loss that a dead host may cost at about 13 $ of PUTs a month. Zero
    /// ships as soon as the previous tail is in flight.
    pub ship_interval: Duration,
    /// `tail_bytes_max`; 1 MiB: under load a tail goes before its interval is over.
    pub tail_bytes_max: ByteSize,
    /// `uploads_in_flight`; 4 hide the latency of S3, more only wait for the contiguous prefix.
    pub uploads_in_flight: usize,
    /// `memory_max`; 64 MiB, four segments of the usual size: the spool is pg_wal, not our memory.
    pub memory_max: ByteSize,
    /// `shutdown_timeout`; 30 s, well within the 60 s after which pg_ctl gives up on the server.
    pub shutdown_timeout: Duration,
    /// `on_unknown_history`; new-lineage, as a stopped agent protects nothing.
    pub on_unknown_history: OnUnknownHistory,
    /// `on_store_outage` and `degrade_after`: how long commits may wait for us as a synchronous standby before we take ourselves out
    /// of `synchronous_standby_names`; never when `hold`, the default, as who asked for RPO 0 asked for it.
    pub degrade_after: Option<Duration>,
    /// `retained_warn`, `retained_page`, `retained_drop`.
    pub retained: Retained,
}

/// How much WAL the server may keep for us in `pg_wal`.
#[derive(Debug, Clone, Copy)]
pub struct Retained {
    /// 4 GiB: hours of a usual load, and most disks have it.
    pub warn: ByteSize,
    /// 16 GiB: somebody must look now.
    pub page: ByteSize,
    /// Never unless the operator says so: from here on the slot is dropped so that the server stays up, and WAL is lost.
    pub drop: Option<ByteSize>,
}

/// What to do when nothing ties the server's WAL to the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnknownHistory {
    /// Begin a new lineage with a backup, loudly.
    NewLineage,
    /// Stop and let the operator decide.
    Stop,
}

/// `[cluster.<name>.backup]`: the base backup lane.
#[derive(Debug, Clone)]
pub struct Backup {
    /// `jobs`; the program decides by the number of cores when not set.
    pub jobs: Option<usize>,
    /// `uploads_in_flight`; 2: one is sent while the next is signed; each holds 20 MiB.
    pub uploads_in_flight: usize,
    /// `rate_max`: bytes a second that are read; no limit when not set.
    pub rate_max: Option<ByteSize>,
    /// `source`; local: reading beside the server is several times as fast as having it sent.
    pub source: BackupSource,
    /// `stream_compression`; none: it costs the server's CPU and pays where the network is slow.
    pub stream_compression: bool,
    /// `nice`; 5: whoever serves users comes first.
    pub nice: i32,
    /// `brake`; auto: costs nothing while the database does not suffer.
    pub brake: Brake,
    /// `progress_interval`; 2 min: that much work is lost at most when a backup is cut short, for two requests each time.
    pub progress_interval: Duration,
    /// `duration_max`; 24 h: one that is slower collides with the next daily one, and holds WAL.
    pub duration_max: Duration,
    /// `checkpoint`; fast, as a spread one lets each backup wait for minutes and looks like a hang.
    pub checkpoint: Checkpoint,
    /// `after_loss`; automatic: after a hole or a new lineage nothing is protected until there is a backup.
    pub after_loss: bool,
    /// `last_known_good`: SQL whose answers are recorded with each backup.
    pub last_known_good: Vec<String>,
}

/// `[cluster.<name>.retention]`: what `prune` keeps. Without any rule it keeps everything.
#[derive(Debug, Clone)]
pub struct Retention {
    /// `window`: how far back every moment stays restorable.
    pub window: Option<Duration>,
    /// `keep_within`: backups of this age or younger.
    pub keep_within: Option<Duration>,
    /// `keep_last`: so many of the newest.
    pub keep_last: Option<u32>,
    /// `keep_daily`: the newest of each of so many days.
    pub keep_daily: Option<u32>,
    /// `keep_weekly`: the newest of each of so many weeks.
    pub keep_weekly: Option<u32>,
    /// `keep_monthly`: the newest of each of so many months.
    pub keep_monthly: Option<u32>,
    /// `keep_yearly`: the newest of each of so many years.
    pub keep_yearly: Option<u32>,
    /// `grace`; 48 h: from being given up to being deleted. Longer than a backup and than a restore may take.
    pub grace: Duration,
}

/// Where the files of a backup are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupSource {
    /// The data directory on this host.
    Local,
    /// The server's replication protocol.
    Replication,
}

/// Whether a backup holds back for the database's sake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brake {
    /// Never.
    Off,
    /// Half of the time, always.
    Gentle,
    /// As far as the server's answers have become slower.
    Auto,
}

/// How the server makes the checkpoint that begins a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once.
    Fast,
    /// Over the time of `checkpoint_completion_target`, to spare a busy disk.
    Spread,
}

/// `[cluster.<name>.restore]`: the restore lane.
#[derive(Debug, Clone)]
pub struct Restore {
    /// `jobs`; the program decides by the number of cores when not set.
    pub jobs: Option<usize>,
    /// `prefetch_segments`; 8, as replay of a segment is often faster than one request to S3.
    pub prefetch_segments: usize,
    /// `command_path`: the wal-restore that restore_command names; the running one when not set.
    pub command_path: Option<PathBuf>,
}

/// `[cluster.<name>.drill]`: how a restore is rehearsed.
#[derive(Debug, Clone)]
pub struct Drill {
    /// `directory`: restores go into a directory below it, which is removed afterwards; the state directory when not set.
    pub directory: Option<PathBuf>,
    /// `target`; latest. `random`: any point that can be reached, so that in time all of them were.
    pub is_random: bool,
    /// `assertions`: SQL, each of which must be true of what was restored; asked by `wal-restore --prove` too.
    pub assertions: Vec<String>,
    /// `nice`; 19: whoever serves users comes first.
    pub nice: i32,
    /// `timeout`; 12 h: one that takes longer has failed.
    pub timeout: Duration,
}

/// `[cluster.<name>.objectives]`: what was promised. What is worse is an alarm.
#[derive(Debug, Clone)]
pub struct Objectives {
    /// `rpo`; a minute: the age of the oldest commit that is not archived. A second is usual; what lasts a minute is an outage.
    pub rpo: Duration,
    /// `rto`: the time that a restore is estimated to take; no alarm when not set.
    pub rto: Option<Duration>,
    /// `backup_age`; 36 h: a daily backup that failed once is noticed.
    pub backup_age: Duration,
    /// `verify_age`; 8 d: a weekly look that was missed is noticed.
    pub verify_age: Duration,
    /// `drill_age`: since a restore was proven last; no alarm when not set.
    pub drill_age: Option<Duration>,
    /// `disk_warn`; 60: how full a disk may be, of a hundred, before somebody should look.
    pub disk_warn: f64,
    /// `disk_page`; 80: and before somebody must.
    pub disk_page: f64,
    /// `look_interval`; 30 s: what the stream does not show (backups, copies, disks) is noticed after that at the latest, for two
    /// listings of S3 each time, about half a dollar a month.
    pub look_interval: Duration,
}

/// `[cluster.<name>.schedule]`: what the daemon does by itself, and when. Nothing when not set.
#[derive(Debug, Clone)]
pub struct Schedules {
    /// `backup`.
    pub backup: Option<Schedule>,
    /// `verify`.
    pub verify: Option<Schedule>,
    /// `verify_share`; a thirtieth of everything each time.
    pub verify_share: u64,
    /// `prune`, where the maintenance key is.
    pub prune: Option<Schedule>,
    /// `drill`, where the restore key is.
    pub drill: Option<Schedule>,
}

/// `[cluster.<name>.status]`: what the agent keeps on this machine.
#[derive(Debug, Clone)]
pub struct Status {
    /// `state_directory`; /var/lib/seawall, which systemd makes for the service. All of it can be
    /// lost: cache and status file.
    pub state_directory: PathBuf,
}

/// `[log]`.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// `level`; info, which is changes of state only.
    pub level: LogLevel,
    /// `format`; text, for the journal.
    pub format: LogFormat,
}

/// The least important message that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Data at risk, or an operator must act.
    Error,
    /// Unexpected, handled.
    Warn,
    /// Changes of state.
    Info,
    /// Steps.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name as it stands in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(clusters: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seawall.toml");
        let text = format!("[repository]\nurl = \"file:///srv/seawall\"\n{clusters}");
        std::fs::write(&path, text).unwrap();
        crate::load(&path, [("A", "b")]).unwrap()
    }

    #[test]
    fn the_only_cluster_needs_no_name() {
        let one = config("[cluster.main.wal]\n");
        assert_eq!(one.cluster(None).unwrap().name, "main");
        let two = config("[cluster.main.wal]\n[cluster.other.wal]\n");
        let errors = two.cluster(None).unwrap_err().to_string();
        assert!(
            errors.contains("HINT: Choose one with --cluster: main, other."),
            "{errors}"
        );
        let errors = two.cluster(Some("mian")).unwrap_err().to_string();
        assert!(errors.contains("did you mean \"main\"?"), "{errors}");
        assert!(config("").cluster(None).is_err());
    }
}
