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
    /// Read from this copy of the repository instead (list, verify, repair, prune, key check)
    #[arg(long, global = true, value_name = "NAME")]
    pub copy: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or adopt the repository, make keys, slots and the first lineage
    Init(InitOptions),
    /// The daemon: stream WAL into the repository
    Run,
    /// Take a base backup now, or capture components
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
    /// What has happened, in order of time, as a Markdown table for a post-mortem: backups, losses, drills, keys, open alarms
    Timeline(TimelineOptions),
    /// Print what to do in a disaster, with the commands of this configuration; works when server and repository are away
    Runbook(RunbookOptions),
    /// How things are now: RPO, archived LSN, lag, slot, newest backup
    Status(StatusOptions),
    /// Is what was stored still there, and still what was written? Structure in seconds; --all or --share reads bytes again
    Verify(VerifyOptions),
    /// Make up for damage: from copies of the repository, or from the live cluster. Adds, never deletes
    Repair(RepairOptions),
    /// Give up backups and WAL as [retention] says, and delete what nobody needs any more
    Prune(PruneOptions),
    /// A backup stays, whatever [retention] says
    Pin {
        /// Its id, as `list` shows it
        backup: String,
        /// Why, for people
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// A backup is as any other again
    Unpin {
        /// Its id
        backup: String,
    },
    /// Fill the copies of the repository with what they lack; the daemon does so by itself
    Copy(CopyOptions),
    /// Keys: which there are, on paper, replaced, for others, revoked
    #[command(subcommand)]
    Key(KeyCommand),
    /// Test the preconditions, and that a WAL record written now is archived
    Check {
        /// Only print the effective configuration with the origin of each value
        #[arg(long)]
        show_config: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Rehearse a restore: into a directory of its own, proven, measured, removed again. Needs the restore key
    Drill(DrillOptions),
    /// Send a test message to everybody in [notify.*]
    NotifyTest {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Drop the replication slots on every server of the configuration: the last step of an uninstall
    DropSlots(DropSlotsOptions),
    /// Print alert rules for Prometheus, one for each alarm
    AlertRules,
    /// Print the reference of every key of the configuration, as Markdown
    ConfigReference,
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages of all commands
    ManPages {
        /// The directory that they are written to
        directory: PathBuf,
    },
}

impl Command {
    /// True for what may put something into the repository.
    pub fn writes(&self) -> bool {
        !matches!(
            self,
            Command::List { .. }
                | Command::Timeline(_)
                | Command::Runbook(_)
                | Command::Status(_)
                | Command::NotifyTest { .. }
                | Command::DropSlots(_)
                | Command::Completions { .. }
                | Command::ManPages { .. }
                | Command::AlertRules
                | Command::ConfigReference
        )
    }

    /// True for commands that can look at a copy of the repository alone.
    pub fn reads_copies(&self) -> bool {
        matches!(
            self,
            Command::List { .. }
                | Command::Verify(_)
                | Command::Repair(_)
                | Command::Prune(_)
                | Command::Key(KeyCommand::Show { .. } | KeyCommand::Check { .. })
        )
    }
}

/// Options of `runbook`.
#[derive(Debug, Args)]
pub struct RunbookOptions {
    /// Only this one [default: all of them, and what they have in common]
    #[arg(long, value_name = "NAME", value_parser = crate::runbook::NAMES)]
    pub scenario: Option<String>,
    /// Write it to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Options of `timeline`.
#[derive(Debug, Args)]
pub struct TimelineOptions {
    /// From when on, with an offset: "2026-11-27 05:24:00+00" [default: from the beginning]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<jiff::Timestamp>,
    /// Until when [default: until now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<jiff::Timestamp>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn time(text: &str) -> Result<jiff::Timestamp, String> {
    let time = text.parse();
    time.map_err(|_| "write a time with its offset, for example \"2026-11-27 05:24:00+00\"".to_owned())
}

/// Options of `drill`.
#[derive(Debug, Args)]
pub struct DrillOptions {
    /// To the latest point, or to any that can be reached [default: as configured]
    #[arg(long, value_parser = ["latest", "random"])]
    pub target: Option<String>,
    /// Leave what was restored, and its server, where they are
    #[arg(long)]
    pub keep: bool,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Print JSON
    #[arg(long, conflicts_with_all = ["watch", "nagios"])]
    pub json: bool,
    /// Draw it again and again, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", conflicts_with = "nagios")]
    pub watch: Option<u64>,
    /// One line and the exit codes of a Nagios plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    #[arg(long)]
    pub nagios: bool,
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
pub struct CopyOptions {
    /// Names of copies in the configuration; all of them if none is given
    pub names: Vec<String>,
    /// Make one anew that was there before and is gone: not when it is only not mounted
    #[arg(long)]
    pub anew: bool,
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
pub struct RepairOptions {
    /// Look at names, signatures and references only, and do not read everything first: for what is missing or cut short
    #[arg(long)]
    pub structure: bool,
    /// The data directory of the live cluster [default: as the configuration or the server says]
    #[arg(long, value_name = "DIR")]
    pub data_directory: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PruneOptions {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `wal-agent key` does. Whatever changes who is trusted needs the restore key that `init` made.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Which key files are here, and whom the repository trusts
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Do the key files that are here fit the repository, and open what is in it?
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a key for paper, whole or split into parts of which some are needed
    Export(KeyExportOptions),
    /// Make a key file out of what was printed
    Import {
        /// Files with what was printed, in any order; standard input when none is named
        files: Vec<PathBuf>,
        /// The key file to make
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Replace a key of this host by a new one
    Rotate {
        /// Which
        #[arg(value_enum)]
        key: KeyFile,
    },
    /// Another who can restore: a second person, an escrow. What is stored already opens for him, too
    AddRecipient {
        /// What people call him
        name: String,
        /// The restore key file to make for him
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Nothing new is sealed to a recipient any more; what he could open, he still can
    RemoveRecipient {
        /// What people call him
        name: String,
    },
    /// A key file for another host of the cluster, with a signing key of its own
    AddHost {
        /// Its name
        name: String,
        /// The host key file to make for it
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// A signing key counts no more: its host was stolen or is gone. The next backup stores everything anew
    Revoke(KeyRevokeOptions),
}

/// A key file of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyFile {
    /// host.key: signs what this host writes
    Host,
    /// maintenance.key: verifies, prunes
    Maintenance,
    /// restore.key: opens everything, says who is trusted
    Restore,
}

#[derive(Debug, Args)]
pub struct KeyExportOptions {
    /// Which
    #[arg(value_enum, default_value = "restore")]
    pub key: KeyFile,
    /// Split it into so many parts
    #[arg(long, value_name = "N", requires = "threshold", value_parser = clap::value_parser!(u8).range(2..))]
    pub parts: Option<u8>,
    /// So many parts are needed
    #[arg(long, value_name = "M", requires = "parts", value_parser = clap::value_parser!(u8).range(2..))]
    pub threshold: Option<u8>,
    /// A file for each part in this directory, instead of standard output
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// A point in time.
#[derive(Debug, Clone, Copy)]
pub enum Since {
    /// By the repository's clock.
    Now,
    /// This one.
    Time(jiff::Timestamp),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Since::Now);
        }
        let time = text.parse().map(Since::Time);
        time.map_err(|_| "write a time with its zone, for example \"2026-11-27T05:24:00Z\", or \"now\"".to_owned())
    }
}

#[derive(Debug, Args)]
pub struct KeyRevokeOptions {
    /// Name of the host, or id of the signing key
    pub signer: String,
    /// From when on it was in wrong hands: "2026-11-27T05:24:00Z", or "now". What the repository received later does not count
    /// [default: in three minutes, so that an agent that signs with it notices and stops first]
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Do it; without this it is only said what would happen
    #[arg(long)]
    pub yes: bool,
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
    /// Components of the configuration ([component.NAME]) to capture, in place of the cluster
    #[arg(value_name = "COMPONENT", conflicts_with = "source")]
    pub components: Vec<String>,
    /// All components of this group ([group.NAME]) at one point, to which the cluster can be restored as well
    #[arg(long, value_name = "NAME", conflicts_with_all = ["components", "source"])]
    pub group: Option<String>,
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

/// Writes a man page for each command.
pub fn man_pages(directory: &std::path::Path) -> std::io::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)
}

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "wal-agent", &mut std::io::stdout());
}
