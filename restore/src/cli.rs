//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

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

/// The restore.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("stop").args(["target_time", "target_lsn", "target"]).multiple(false))]
pub(crate) struct RestoreArgs {
    /// Stop after the last transaction that ended at this time or before; with an offset or a zone
    #[arg(long, value_name = "TIME")]
    pub(crate) target_time: Option<String>,
    /// Stop after the record at this LSN
    #[arg(long, value_name = "X/X")]
    pub(crate) target_lsn: Option<pg::lsn::Lsn>,
    /// Stop at the end of what is archived, or of the backup
    #[arg(long, value_enum)]
    pub(crate) target: Option<NamedTarget>,
    /// Stop just before the time or LSN instead of just after it
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
    /// Data directory to create
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: Option<PathBuf>,
    /// Put a tablespace elsewhere
    #[arg(long, value_name = "OID=DIR|OLDDIR=DIR")]
    pub(crate) tablespace_map: Vec<String>,
    /// Start the server, check where recovery stopped, then do what --target-action says
    #[arg(long)]
    pub(crate) start: bool,
    /// Port of the restored server
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Directory for the socket of the restored server
    #[arg(long, value_name = "DIR")]
    pub(crate) socket_dir: Option<PathBuf>,
    /// How long recovery may take with --start, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    pub(crate) start_timeout: u64,
    /// What to do at the stop point
    #[arg(long, value_enum, default_value_t)]
    pub(crate) target_action: TargetAction,
    /// Restore as a standby that goes on following the archive
    #[arg(long, conflicts_with_all = ["start", "target_time", "target_lsn"])]
    pub(crate) standby: bool,
    /// Packs in flight [default: by the number of cores]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
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
