//! `wal-get`: PostgreSQL's restore_command.
//!
//! 0 only when the file is complete, verified, fsynced and in place under its name. 1 only when [`crate::decide`] says that it does
//! not exist and is not needed. 255 for everything else: PostgreSQL stops, and nothing is promoted that lacks WAL. A standby goes on
//! streaming instead, so for it what cannot be had is 1.
//!
//! A crash leaves a temporary beside the destination, which the next call removes.

mod ahead;
mod segment;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg::segment::WalFileName;
use pg::timeline::TimelineId;

use crate::cli::{Cli, WalGetArgs};
use crate::decide::{Verdict, missing_history};
use crate::error::{RestoreError, Result};
use crate::exit;
use crate::open::{self, Opened};
use crate::prefetch;
use crate::state::State;

pub(crate) use ahead::Ahead;
pub(crate) use segment::{fetch_ahead, fetch_segment};

/// How long a request is tried again: a short outage of the store must not end a recovery of hours.
const PATIENCE: Duration = Duration::from_secs(300);

/// What happened.
enum Outcome {
    InPlace,
    Absent,
}

/// Runs the command; the exit code.
pub(crate) async fn run(cli: &Cli, args: &WalGetArgs) -> u8 {
    match get(cli, args).await {
        Ok(Outcome::InPlace) => exit::OK,
        Ok(Outcome::Absent) => exit::WAL_ABSENT,
        Err(error) => {
            let text = error.chain();
            eprintln!(
                "wal-restore: cannot get WAL file \"{}\": {text}",
                args.file.escape_debug()
            );
            if let Some(hint) = error.hint() {
                eprintln!("HINT: {hint}");
            }
            let may_come = matches!(
                error,
                RestoreError::Store(_) | RestoreError::Vanished { .. } | RestoreError::Server { .. }
            );
            if args.standby && may_come {
                exit::WAL_ABSENT
            } else {
                exit::WAL_STOP
            }
        }
    }
}

async fn get(cli: &Cli, args: &WalGetArgs) -> Result<Outcome> {
    let pgdata = args
        .pgdata
        .canonicalize()
        .map_err(RestoreError::io("resolve", &args.pgdata))?;
    let state = State::read(&pgdata)?;
    let name = WalFileName::parse(&args.file, state.route.size)
        .ok_or_else(|| RestoreError::Failed("it is not the name of a WAL file of this cluster".into()))?;
    if let WalFileName::Segment { .. } = name
        && prefetch::await_and_take(&state, &pgdata, &args.file, &args.dest).await?
    {
        prefetch::follow_up(cli, &state, &pgdata, &args.file);
        return Ok(Outcome::InPlace);
    }
    let opened = open::open(cli.which(), PATIENCE).await?;
    if opened.cluster.name != state.cluster {
        return Err(RestoreError::Failed(format!(
            "the restore in \"{}\" is of cluster \"{}\"",
            pgdata.display(),
            state.cluster
        )));
    }
    match name {
        WalFileName::Segment { timeline, number } => {
            match fetch_segment(&opened.repository, &state, &pgdata, timeline, number).await? {
                (Verdict::Serve { .. }, bytes) => {
                    put(&args.dest, &bytes)?;
                    prefetch::follow_up(cli, &state, &pgdata, &args.file);
                    Ok(Outcome::InPlace)
                }
                (Verdict::Absent, _) => Ok(Outcome::Absent),
                (Verdict::Stop(reason), _) => Err(stop(reason)),
            }
        }
        WalFileName::History { timeline } => history(&opened, &state, timeline, &args.dest).await,
        // Never archived, and no recovery needs them.
        WalFileName::Partial { .. } | WalFileName::BackupHistory { .. } => Ok(Outcome::Absent),
    }
}

fn stop(reason: String) -> RestoreError {
    RestoreError::Server {
        message: reason,
        hint: "Restore to an earlier stop point, or see the holes with `wal-restore list`.".into(),
    }
}

async fn history(opened: &Opened, state: &State, timeline: TimelineId, dest: &Path) -> Result<Outcome> {
    match opened.repository.history_file(state.lineage, timeline).await? {
        Some(bytes) => {
            put(dest, &bytes)?;
            Ok(Outcome::InPlace)
        }
        None => match missing_history(state, timeline) {
            Verdict::Stop(reason) => Err(stop(reason)),
            Verdict::Absent | Verdict::Serve { .. } => Ok(Outcome::Absent),
        },
    }
}

/// Name of the temporary for a destination.
fn temporary(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(".seawall");
    PathBuf::from(name)
}

/// Puts a file in place: temporary, fsync, rename, fsync of the directory.
fn put(dest: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(dest);
    let io = |action: &'static str| RestoreError::io(action, dest);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("remove the temporary of")(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create"))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, dest));
    if let Err(error) = written {
        // A part must not stay; the error is the news.
        let _ = fs::remove_file(&temporary);
        return Err(io("write")(error));
    }
    sync_parent(dest)
}

/// Puts a file in place that is complete and durable elsewhere: by rename where it can be, else by copy. The name itself need not be
/// durable: after a crash recovery asks again.
pub(crate) fn move_in(from: &Path, dest: &Path) -> Result<()> {
    match fs::rename(from, dest) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            put(dest, &fs::read(from).map_err(RestoreError::io("read", from))?)?;
            fs::remove_file(from).map_err(RestoreError::io("remove", from))
        }
        Err(error) => Err(RestoreError::io("rename to", dest)(error)),
    }
}

fn sync_parent(dest: &Path) -> Result<()> {
    let parent = dest
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    store::durable::fsync_dir(parent).map_err(RestoreError::io("fsync", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_in_place_whole_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("RECOVERYXLOG");
        fs::write(temporary(&dest), b"left over").unwrap();
        put(&dest, b"new").unwrap();
        assert_eq!(fs::read(&dest).unwrap(), b"new");
        let from = dir.path().join("prefetched");
        fs::write(&from, b"moved").unwrap();
        move_in(&from, &dest).unwrap();
        assert_eq!(fs::read(&dest).unwrap(), b"moved");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(put(&dir.path().join("no/where"), b"x").is_err());
    }
}
