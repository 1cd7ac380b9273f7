//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::dump::DumpArgs;
use crate::find::EventKind;
use crate::open::Which;

/// How long recovery may take, in seconds, where nothing else is said.
const START_TIMEOUT_S: u64 = 86_400;

/// Restores a PostgreSQL cluster from a Seawall repository to a point in time.
#[derive(Debug, Parser)]
#[command(name = "wal-restore", version, max_term_width = 110)]
pub(crate) struct Cli {
    /// Configuration file.
    #[arg(long, global = true, env = "SEAWALL_CONFIG", default_value = config::DEFAULT_PATH, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Cluster to restore, where the configuration has several.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Read from this copy of the repository, where the configuration has copies.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) copy: Option<String>,
    /// What to do other than to restore.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The restore.
    #[command(flatten)]
    pub(crate) restore: RestoreArgs,
}

/// Commands beside the restore itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show backups and what can be recovered
    List {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Bring back single tables, or one database, as they were: restores into a scratch directory and dumps them from there
    Table(TableArgs),
    /// Bring back what was captured beside PostgreSQL ([component.NAME]): all of it, some paths, or one file
    Component(ComponentArgs),
    /// Bring back the cluster and its components to a point that all of them share ([group.NAME])
    Group(GroupArgs),
    /// Make a pair for the secrets of components of kind config: the file opens them, the recipient is printed
    Identity {
        /// The file that is made
        file: PathBuf,
    },
    /// Move a restored server that waits at its stop point (--explore) on to a later one
    Forward(ForwardArgs),
    /// End the recovery of a restored server where it waits: a new timeline begins
    Promote(WaitingArgs),
    /// Find when a table was dropped, emptied or robbed of rows, and how to restore to just before it: reads archived WAL, needs no server
    Find(FindArgs),
    /// Fetch a WAL segment or history file: PostgreSQL calls this as restore_command
    WalGet(WalGetArgs),
    /// Fetch the segments after one that was just used
    #[command(hide = true)]
    WalPrefetch(WalPrefetchArgs),
    /// Can this user open the configuration, the key and the repository?
    #[command(hide = true)]
    CanRead,
    /// Print a completion script
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages of all commands
    ManPages {
        /// The directory that they are written to.
        directory: PathBuf,
    },
}

/// `component`.
#[derive(Debug, Args)]
pub(crate) struct ComponentArgs {
    /// Its name in the configuration that captured it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Restore below this directory, new or empty; paths are as in the backup: srv/uploads/...
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// This backup [default: the newest]
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    pub(crate) backup: Option<String>,
    /// The newest backup of this time or before it, with an offset or a zone
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Only this path, with what lies below it; can be repeated
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Vec<PathBuf>,
    /// Replace files that differ, or tables that are there; others stay
    #[arg(long)]
    pub(crate) over: bool,
    /// Leave owners and groups as they come; always so for files where this is not root
    #[arg(long)]
    pub(crate) no_owners: bool,
    /// Compare with this redis-server or valkey-server, which loads what was restored in a directory of its own and ends
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: Option<PathBuf>,
    /// Of kind git: leave bundles and refs as they are stored, and build no repositories of them
    #[arg(long)]
    pub(crate) as_stored: bool,
    /// Of kind config, with --to or --cat: open the secrets with this file, which `identity` has made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["diff", "history", "list"])]
    pub(crate) identity: Option<PathBuf>,
    /// Print what differs in the backup from the one before it, or from --from
    #[arg(long, conflicts_with_all = ["to", "cat", "list"])]
    pub(crate) diff: bool,
    /// With --diff: from this backup, or from the newest of this time or before it
    #[arg(long, value_name = "ID|TIME", requires = "diff")]
    pub(crate) from: Option<String>,
    /// Print in which backups a file has changed
    #[arg(long, value_name = "PATH", conflicts_with_all = ["to", "cat", "list", "diff", "backup", "at"])]
    pub(crate) history: Option<PathBuf>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print what the backup holds
    #[arg(long, conflicts_with_all = ["to", "cat"])]
    pub(crate) list: bool,
    /// Print one file
    #[arg(long, value_name = "PATH", conflicts_with = "to")]
    pub(crate) cat: Option<PathBuf>,
    /// Dumps of PostgreSQL.
    #[command(flatten)]
    pub(crate) dump: DumpArgs,
    /// Report as one JSON document; with --list a document a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `group`.
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    /// Its name in the configuration
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Restore below this directory, new or empty: the cluster and each component in a directory of its name
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub(crate) to: Option<PathBuf>,
    /// This point [default: the newest that is whole]
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    pub(crate) point: Option<String>,
    /// The newest point of this time or before it, with an offset or a zone
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Print the points that there are
    #[arg(long, conflicts_with = "to")]
    pub(crate) list: bool,
    /// Start the database server, check where recovery stopped, and promote it
    #[arg(long)]
    pub(crate) start: bool,
    /// Then read every table, look for orphans and broken indexes, ask the queries of last_known_good again
    #[arg(long, requires = "start")]
    pub(crate) prove: bool,
    /// Port of the restored database server
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Directory for the socket of the restored database server
    #[arg(long, value_name = "DIR")]
    pub(crate) socket_dir: Option<PathBuf>,
    /// How long recovery may take with --start, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = START_TIMEOUT_S)]
    pub(crate) start_timeout: u64,
    /// Packs in flight [default: by the number of cores]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Owner of the database's files when run as root [default: as recorded]
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Report as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// `table`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").args(["to_sql", "into"]).required(true).multiple(false))]
pub(crate) struct TableArgs {
    /// The stop point.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// A table, as pg_dump names it; can be repeated [default: the whole database]
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub(crate) table: Vec<String>,
    /// The database that it was in
    #[arg(long, value_name = "NAME")]
    pub(crate) database: String,
    /// Write an SQL script
    #[arg(long, value_name = "FILE")]
    pub(crate) to_sql: Option<PathBuf>,
    /// Load it into this database, all or nothing; passwords come from PGPASSWORD or ~/.pgpass
    #[arg(long, value_name = "URL|CONNINFO")]
    pub(crate) into: Option<String>,
    /// Directory for the restored cluster, new or empty: as much room as the cluster has. It is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: PathBuf,
    /// How long recovery may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = START_TIMEOUT_S)]
    pub(crate) start_timeout: u64,
    /// Packs in flight [default: by the number of cores]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Owner of the files when run as root [default: as recorded]
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
}

/// A restored server that waits at its stop point.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitingArgs {
    /// Its data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: PathBuf,
    /// How long recovery may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = START_TIMEOUT_S)]
    pub(crate) start_timeout: u64,
    /// Owner of the files when run as root [default: as recorded]
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// Report as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// `find`.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// The database that the table is, or was, in
    #[arg(long, value_name = "NAME")]
    pub(crate) database: String,
    /// The table, as SQL has it; can be left out to find drops of any table, or commits
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub(crate) table: Option<String>,
    /// What to look for; can be repeated [default: drop, truncate, delete and rename; without --table: drop]
    #[arg(long, value_enum, value_name = "EVENT")]
    pub(crate) event: Vec<EventKind>,
    /// Leave out deletes of fewer rows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) rows_min: u64,
    /// Only what was committed at this time or later, with an offset or a zone [default: since the oldest backup]
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only what was committed at this time or earlier
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Follow this timeline [default: the newest one that holds a backup]
    #[arg(long, value_name = "N")]
    pub(crate) target_timeline: Option<u32>,
    /// As one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// `forward`.
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) server: WaitingArgs,
    /// The next stop point.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// What to do there
    #[arg(long, value_enum, default_value_t = TargetAction::Pause)]
    pub(crate) target_action: TargetAction,
    /// Show the stop point, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `wal-get`.
#[derive(Debug, Args)]
pub(crate) struct WalGetArgs {
    /// What PostgreSQL asks for (%f).
    pub(crate) file: String,
    /// Where it wants it (%p).
    pub(crate) dest: PathBuf,
    /// The data directory that is being recovered.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) pgdata: PathBuf,
    /// The server is a standby: what cannot be reached for long is reported as absent.
    #[arg(long)]
    pub(crate) standby: bool,
}

/// `wal-prefetch`.
#[derive(Debug, Args)]
pub(crate) struct WalPrefetchArgs {
    /// The segment that was just used.
    pub(crate) after: String,
    /// The data directory that is being recovered.
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: PathBuf,
}

/// Named stop points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NamedTarget {
    /// The last record that is archived.
    Latest,
    /// The end of the backup.
    Immediate,
}

/// What to do when the stop point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum TargetAction {
    /// Stay in recovery, readable.
    Pause,
    /// End recovery: a new timeline begins.
    #[default]
    Promote,
    /// Shut down.
    Shutdown,
}

impl TargetAction {
    /// PostgreSQL's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

/// Where to stop, and on which way.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("stop").args(["target_time", "target_lsn", "target_xid", "target_name", "target"]).multiple(false))]
pub(crate) struct TargetArgs {
    /// Stop after the last transaction that ended at this time or before; with an offset or a zone
    #[arg(long, value_name = "TIME")]
    pub(crate) target_time: Option<String>,
    /// Stop after the record at this LSN
    #[arg(long, value_name = "X/X")]
    pub(crate) target_lsn: Option<pg::lsn::Lsn>,
    /// Stop after the end of this transaction, commit or abort
    #[arg(long, value_name = "XID")]
    pub(crate) target_xid: Option<u32>,
    /// Stop at the restore point of this name (pg_create_restore_point)
    #[arg(long, value_name = "NAME")]
    pub(crate) target_name: Option<String>,
    /// Stop at the end of what is archived, or of the backup
    #[arg(long, value_enum)]
    pub(crate) target: Option<NamedTarget>,
    /// Stop just before the time, LSN or transaction's end instead of just after it
    #[arg(long)]
    pub(crate) exclusive: bool,
    /// Follow this timeline [default: the newest one that holds the backup]
    #[arg(long, value_name = "N")]
    pub(crate) target_timeline: Option<u32>,
    /// Where nothing later than the stop point is archived, or a hole follows: restore up to there
    #[arg(long)]
    pub(crate) or_latest: bool,
    /// Use this backup [default: the newest one before the stop point]
    #[arg(long, value_name = "ULID")]
    pub(crate) backup: Option<String>,
}

impl RestoreArgs {
    /// Restores to the stop point into this directory, and nothing else.
    pub(crate) fn plain(target: TargetArgs, pgdata: PathBuf) -> Self {
        RestoreArgs {
            target,
            pgdata: Some(pgdata),
            delta: false,
            tablespace_map: Vec::new(),
            start: false,
            explore: false,
            prove: false,
            port: None,
            socket_dir: None,
            start_timeout: START_TIMEOUT_S,
            target_action: TargetAction::Promote,
            standby: false,
            primary_conninfo: None,
            primary_slot_name: None,
            jobs: None,
            is_private: false,
            tablespaces_below: None,
            owner: None,
            dry_run: false,
            json: false,
        }
    }

    /// The server is started.
    pub(crate) fn starts(&self) -> bool {
        self.start || self.explore
    }

    /// What happens at the stop point.
    pub(crate) fn action(&self) -> TargetAction {
        match self.explore {
            true => TargetAction::Pause,
            false => self.target_action,
        }
    }
}

/// The restore.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The stop point.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Data directory to create; one that an interrupted restore left is gone on with
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: Option<PathBuf>,
    /// Restore over the cluster that is in the data directory: keep what is right, fetch what differs, remove what is not in the backup
    #[arg(long)]
    pub(crate) delta: bool,
    /// Put a tablespace elsewhere
    #[arg(long, value_name = "OID=DIR|OLDDIR=DIR")]
    pub(crate) tablespace_map: Vec<String>,
    /// Start the server, check where recovery stopped, then do what --target-action says
    #[arg(long, group = "started")]
    pub(crate) start: bool,
    /// Start it and let it wait at the stop point, readable: look, go on with `forward`, end with `promote`
    #[arg(long, group = "started", conflicts_with_all = ["target_action", "standby"])]
    pub(crate) explore: bool,
    /// Then read every table, look for orphans and broken indexes, ask the queries of last_known_good again
    #[arg(long, requires = "started")]
    pub(crate) prove: bool,
    /// Port of the restored server
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Directory for the socket of the restored server
    #[arg(long, value_name = "DIR")]
    pub(crate) socket_dir: Option<PathBuf>,
    /// How long recovery may take with --start, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = START_TIMEOUT_S)]
    pub(crate) start_timeout: u64,
    /// What to do at the stop point
    #[arg(long, value_enum, default_value_t)]
    pub(crate) target_action: TargetAction,
    /// Restore as a standby that goes on following the archive
    #[arg(long, conflicts_with_all = ["start", "target_time", "target_lsn", "target_xid", "target_name"])]
    pub(crate) standby: bool,
    /// Primary that the standby streams from, once the archive has no more; its password belongs into ~/.pgpass of the server's user
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    pub(crate) primary_conninfo: Option<String>,
    /// Replication slot on that primary
    #[arg(long, value_name = "NAME", requires = "primary_conninfo")]
    pub(crate) primary_slot_name: Option<String>,
    /// Packs in flight [default: by the number of cores]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// A server for our own eyes: nobody else is let in, and it is thrown away.
    #[arg(long = "private", hide = true, requires = "start")]
    pub(crate) is_private: bool,
    /// Tablespaces go below this directory, unless they are mapped.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) tablespaces_below: Option<PathBuf>,
    /// Owner of the files when run as root [default: as recorded]
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// Show the plan, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Report as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}
impl Cli {
    /// Which cluster of which repository is meant.
    pub(crate) fn which(&self) -> Which<'_> {
        Which {
            config: &self.config,
            cluster: self.cluster.as_deref(),
            copy: self.copy.as_deref(),
        }
    }
}
