//! The command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

/// Continuous disaster recovery for PostgreSQL: the agent on the database host.
#[derive(Debug, Parser)]
#[command(name = "wal-agent", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file [default: $SEAWALL_CONFIG, then /etc/seawall/seawall.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Cluster of the configuration; may be left out when there is only one
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or adopt the repository, make keys, slots and the first lineage
    Init(InitOptions),
    /// The daemon: stream WAL into the repository
    Run,
    /// Take a base backup now
    Backup(BackupOptions),
    /// Make a restored or an upgraded server production again: lineage, slots, settings, first backup
    Adopt(AdoptOptions),
    /// Archive one file of pg_wal: archive_command = 'wal-agent archive-push %p'
    ArchivePush {
        /// The file; PostgreSQL gives it relative to the data directory, in which it runs the command
        path: PathBuf,
    },
    /// Backups, recoverable windows, holes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// How things are now: RPO, archived LSN, lag, slot, newest backup
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Is what was stored still there, and still what was written? Structure in seconds; --all or --share reads bytes again
    Verify(VerifyOptions),
    /// Test the preconditions, and that a WAL record written now is archived
    Check {
        /// Only print the effective configuration with the origin of each value
        #[arg(long)]
        show_config: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Drop the replication slots on every server of the configuration: the last step of an uninstall
    DropSlots(DropSlotsOptions),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct InitOptions {
    /// Keep the restore key on this host and do not ask (a thief of the host can then read all backups)
    #[arg(long)]
    pub single_host: bool,
    /// The restore key will be copied to another place: do not ask
    #[arg(long, conflicts_with = "single_host")]
    pub confirm_key_copied: bool,
    /// Make no slots: WAL will be pushed by archive_command instead of being streamed by `wal-agent run`
    #[arg(long)]
    pub no_slots: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AdoptOptions {
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// The server that was production is off and cannot come back, although it was archived just now
    #[arg(long)]
    pub old_is_gone: bool,
    /// Take no backup: until there is one, nothing new can be restored
    #[arg(long)]
    pub no_backup: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// Read and hash every object again
    #[arg(long, conflicts_with = "share")]
    pub all: bool,
    /// Read one Nth of all objects, beginning where the last share ended: once a day, N days cover everything
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub share: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DropSlotsOptions {
    /// Do it; without this it is only shown what would be dropped
    #[arg(long)]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BackupOptions {
    /// Where the data is read; by default as backup.source in the config says
    #[arg(long, value_enum)]
    pub source: Option<Source>,
    /// A label, kept with the backup
    #[arg(long)]
    pub label: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Source {
    /// The data directory on this host: full speed
    Local,
    /// The server's replication protocol, for when only its port can be reached
    Replication,
}

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "wal-agent", &mut std::io::stdout());
}
