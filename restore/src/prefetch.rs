//! Segments before they are asked for. A process of its own fills a directory that belongs to one restore; `wal-get` takes from it, and
//! notes there how far recovery has come.
//!
//! Files get their name when they are complete and durable; a file of another size is thrown away. One prefetcher at a time (a lock), at
//! most [`BYTES_MAX`] on disk, never behind the stop point. It ends when nothing was asked for in [`IDLE_MAX`]; the next `wal-get` starts
//! another. A crash leaves temporaries that the next one replaces.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg::segment::{SegmentNumber, WalFileName, segment_name};
use pg::timeline::TimelineId;
use rustix::fs::{FlockOperation, OFlags};
use store::repository::Repository;
use tokio::task::JoinSet;

use crate::cli::{Cli, WalPrefetchArgs};
use crate::decide::Verdict;
use crate::error::{RestoreError, Result};
use crate::open;
use crate::state::State;
use crate::wal_get::{Ahead, fetch_ahead, move_in};

/// Disk for prefetched segments.
const BYTES_MAX: u64 = 512 << 20;
/// Segments behind the newest one that are kept, in case recovery asks again.
const KEPT_BEHIND: u64 = 2;
/// A prefetcher gives up soon: `wal-get` itself is the patient one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory for segments on their way: each is held twice, as it was stored and as it is served.
const MEMORY_BYTES_MAX: u64 = 96 << 20;
/// How long it waits for recovery to ask for more.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Between two looks at how far recovery has come.
const POLL: Duration = Duration::from_millis(5);
/// Between two looks at what a prefetcher is at.
const POLL_DELIVERED: Duration = Duration::from_millis(1);
/// How long `wal-get` waits for a segment that a prefetcher has begun, before it fetches it itself.
const BEGUN_MAX: Duration = Duration::from_secs(10);
/// And for one that it has not: it may just have started.
const STARTING_MAX: Duration = Duration::from_millis(50);
/// The last segment that was delivered.
const POSITION: &str = ".position";

/// Takes a segment out of the directory; false when it is not there.
pub(crate) fn take(state: &State, pgdata: &Path, name: &str, dest: &Path) -> Result<bool> {
    let path = state.prefetch_directory(pgdata).join(name);
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() == state.route.size.bytes() => {}
        Ok(_) => {
            fs::remove_file(&path).map_err(RestoreError::io("remove", &path))?;
            return Ok(false);
        }
        Err(_) => return Ok(false),
    }
    move_in(&path, dest)?;
    Ok(true)
}

/// As [`take`], after waiting for a prefetcher that is at it: to fetch it here as well would take as long, and the processors from the
/// prefetcher. False when none is.
pub(crate) async fn await_and_take(state: &State, pgdata: &Path, name: &str, dest: &Path) -> Result<bool> {
    let path = state.prefetch_directory(pgdata).join(name);
    let begun = temporary(&path);
    let since = Instant::now();
    while !path.exists() {
        let patience = if begun.exists() { BEGUN_MAX } else { STARTING_MAX };
        if since.elapsed() > patience || !is_locked(pgdata) {
            break;
        }
        tokio::time::sleep(POLL_DELIVERED).await;
    }
    take(state, pgdata, name, dest)
}

/// Segments that follow one, as recovery will ask for them.
fn following(state: &State, name: &str, count: u64) -> Vec<(TimelineId, SegmentNumber)> {
    let Some(WalFileName::Segment { number, .. }) = WalFileName::parse(name, state.route.size) else {
        return Vec::new();
    };
    let last = state.last_segment().map_or(u64::MAX, |last| last.0);
    (number.0 + 1..=number.0.saturating_add(count))
        .take_while(|number| *number <= last)
        .filter_map(|number| {
            Some((
                state.route.timelines_of(SegmentNumber(number)).next()?,
                SegmentNumber(number),
            ))
        })
        .collect()
}

fn path_of(state: &State, directory: &Path, timeline: TimelineId, number: SegmentNumber) -> PathBuf {
    directory.join(segment_name(timeline, number, state.route.size))
}

/// After a segment was delivered: that is noted, old files go, and a prefetcher starts where none runs. Never an error: this only saves
/// time.
pub(crate) fn follow_up(cli: &Cli, state: &State, pgdata: &Path, name: &str) {
    let directory = state.prefetch_directory(pgdata);
    remove_old(state, &directory, name);
    // Where there is no directory yet, the prefetcher is told on its command line.
    let _ = fs::write(directory.join(POSITION), name);
    if following(state, name, 1).is_empty() || is_locked(pgdata) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command.arg("--config").arg(&cli.config);
    if let Some(cluster) = &cli.cluster {
        command.arg("--cluster").arg(cluster);
    }
    if let Some(copy) = &cli.copy {
        command.arg("--copy").arg(copy);
    }
    command.args(["wal-prefetch", name, "--pgdata"]).arg(pgdata);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Err(error) = command.spawn() {
        tracing::warn!(%error, "no prefetcher could be started");
    }
}

/// What a prefetcher before this one has begun: nobody is to wait for that.
fn remove_begun(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove_old(state: &State, directory: &Path, name: &str) {
    let Some(WalFileName::Segment { number, .. }) = WalFileName::parse(name, state.route.size) else {
        return;
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let parsed = file_name
            .to_str()
            .and_then(|name| WalFileName::parse(name, state.route.size));
        if let Some(WalFileName::Segment { number: found, .. }) = parsed
            && found.0.saturating_add(KEPT_BEHIND) < number.0
        {
            // It only costs space; the next call tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The hidden command: fetches what follows, and keeps ahead of recovery until that is over.
pub(crate) async fn run(cli: &Cli, args: &WalPrefetchArgs) -> Result<()> {
    let pgdata = args
        .pgdata
        .canonicalize()
        .map_err(RestoreError::io("resolve", &args.pgdata))?;
    let state = State::read(&pgdata)?;
    let directory = state.prefetch_directory(&pgdata);
    // Not what is above: a restore that was thrown away must not come back.
    for level in directory.ancestors().take(2).collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(level) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(RestoreError::io("create directory", level)(error));
            }
            _ => {}
        }
    }
    let Some(_lock) = lock(&pgdata)? else { return Ok(()) };
    remove_begun(&directory);
    let opened = open::open(cli.which(), PATIENCE).await?;
    let segment_bytes = state.route.size.bytes();
    let most = (BYTES_MAX / segment_bytes).max(1);
    let ahead = most.min(opened.cluster.restore.prefetch_segments as u64);
    let in_flight = usize::try_from(MEMORY_BYTES_MAX / (2 * segment_bytes)).unwrap_or(1);
    let source = Arc::new(Source {
        repository: opened.repository,
        state,
        pgdata,
    });
    Box::pin(keep_ahead(&source, &args.after, ahead, in_flight.clamp(1, 8))).await
}

/// Where segments come from and go to.
#[derive(Debug)]
struct Source {
    repository: Arc<Repository>,
    state: State,
    pgdata: PathBuf,
}

async fn keep_ahead(source: &Arc<Source>, after: &str, ahead: u64, in_flight: usize) -> Result<()> {
    let state = &source.state;
    let directory = state.prefetch_directory(&source.pgdata);
    let mut position = after.to_owned();
    let mut moved = Instant::now();
    // Each in a task of its own: what is read is also opened and checked, on all processors.
    let mut running = JoinSet::new();
    let mut listed: Option<Arc<Ahead>> = None;
    // Each is fetched once: what is not to be had yet, or was taken a moment ago, is not tried again.
    let mut begun = HashSet::new();
    loop {
        match fs::read_to_string(directory.join(POSITION)) {
            // Half of a note is no name.
            Ok(noted) if noted != position && number_of(state, &noted).is_some() => {
                if following(state, &noted, 1).is_empty() {
                    return Ok(());
                }
                position = noted;
                moved = Instant::now();
                begun.retain(|number| Some(*number) > number_of(state, &position));
            }
            // Recovery is over, and what was fetched ahead is gone; or nothing was delivered from here yet.
            Err(_) if !directory.exists() => return Ok(()),
            _ => {}
        }
        for (timeline, number) in following(state, &position, ahead) {
            if running.len() >= in_flight {
                break;
            }
            if path_of(state, &directory, timeline, number).exists() || !begun.insert(number) {
                continue;
            }
            let listing = match listed.take().filter(|listed| listed.holds(number)) {
                Some(listing) => listing,
                None => Arc::new(Ahead::list(&source.repository, state, number).await?),
            };
            listed = Some(Arc::clone(&listing));
            let source = Arc::clone(source);
            running.spawn(async move { fetch_one(&source, timeline, number, &listing).await });
        }
        if running.is_empty() {
            if moved.elapsed() > IDLE_MAX {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        } else if let Some(fetched) = running.join_next().await {
            fetched.map_err(|_| RestoreError::Failed("a worker stopped".into()))??;
        }
    }
}

fn number_of(state: &State, name: &str) -> Option<SegmentNumber> {
    match WalFileName::parse(name, state.route.size) {
        Some(WalFileName::Segment { number, .. }) => Some(number),
        _ => None,
    }
}

/// Fetches one into the directory, unless it is not to be had yet.
async fn fetch_one(source: &Source, timeline: TimelineId, number: SegmentNumber, listing: &Ahead) -> Result<()> {
    let Source {
        repository,
        state,
        pgdata,
    } = source;
    let path = path_of(state, &state.prefetch_directory(pgdata), timeline, number);
    // Whoever asks for it meanwhile waits.
    let begun = Begun::new(&path)?;
    let (verdict, bytes) = fetch_ahead(repository, state, pgdata, (timeline, number), listing).await?;
    // What is still open for a standby grows: it is read when it is asked for.
    let is_kept = matches!(verdict, Verdict::Serve { is_open, .. } if !is_open || state.needed_until.is_some());
    if is_kept {
        tokio::task::spawn_blocking(move || keep(&path, &bytes))
            .await
            .map_err(|_| RestoreError::Failed("a worker stopped".into()))??;
    }
    drop(begun);
    Ok(())
}

/// A temporary that says that a segment is being fetched. It goes when that has failed.
#[derive(Debug)]
struct Begun(PathBuf);

impl Begun {
    fn new(path: &Path) -> Result<Self> {
        let begun = temporary(path);
        File::create(&begun).map_err(RestoreError::io("create", &begun))?;
        Ok(Begun(begun))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // It was renamed, where all went well.
        let _ = fs::remove_file(&self.0);
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    PathBuf::from(temporary)
}

fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    // Durable before it has its name: after a crash of the host a file of the right size must not have other content.
    fs::write(&temporary, bytes)
        .and_then(|()| File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(RestoreError::io("write", path))
}

/// The lock of a data directory's prefetcher; `None` when another one holds it.
fn lock(pgdata: &Path) -> Result<Option<File>> {
    let path = pgdata.join(crate::paths::OURS).join("prefetch").join(".lock");
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path);
    let file = file.map_err(RestoreError::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(RestoreError::io("lock", &path)(errno.into())),
    }
}

/// True while a prefetcher runs.
fn is_locked(pgdata: &Path) -> bool {
    matches!(lock(pgdata), Ok(None))
}

/// Removes everything that was fetched ahead, once recovery is over.
pub(crate) fn remove_all(pgdata: &Path) {
    let path = pgdata.join(crate::paths::OURS).join("prefetch");
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "prefetched WAL could not be removed")
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;

    #[test]
    fn what_follows_is_asked_on_the_newest_timeline_up_to_the_stop_point() {
        let name = |timeline: u32, number: u64| {
            segment_name(
                TimelineId::new(timeline).unwrap(),
                SegmentNumber(number),
                state().route.size,
            )
        };
        let names = |after: &str| {
            following(&state(), after, 8)
                .into_iter()
                .map(|(timeline, number)| (timeline.as_u32(), number.0))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&name(1, 1)), [(1, 2), (2, 3), (2, 4), (2, 5)]);
        assert!(names(&name(2, 5)).is_empty());
        assert!(names("00000002.history").is_empty());
    }

    #[test]
    fn only_a_complete_segment_of_this_restore_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let state = state();
        let directory = state.prefetch_directory(dir.path());
        fs::create_dir_all(&directory).unwrap();
        let name = segment_name(TimelineId::FIRST, SegmentNumber(1), state.route.size);
        let dest = dir.path().join("dest");
        fs::write(directory.join(&name), b"short").unwrap();
        assert!(!take(&state, dir.path(), &name, &dest).unwrap());
        assert!(!directory.join(&name).exists());
        keep(&directory.join(&name), &vec![1; 1 << 20]).unwrap();
        let other = State {
            restore: "R2".into(),
            ..state.clone()
        };
        assert!(!take(&other, dir.path(), &name, &dest).unwrap());
        assert!(take(&state, dir.path(), &name, &dest).unwrap());
        assert_eq!(dest.metadata().unwrap().len(), 1 << 20);
        let first = lock(dir.path()).unwrap();
        assert!(first.is_some() && lock(dir.path()).unwrap().is_none());
    }

    #[test]
    fn what_recovery_has_long_passed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = state();
        let name = |number| segment_name(TimelineId::FIRST, SegmentNumber(number), state.route.size);
        for number in 1..=4 {
            fs::write(dir.path().join(name(number)), b"").unwrap();
        }
        remove_old(&state, dir.path(), &name(4));
        assert!(!dir.path().join(name(1)).exists() && dir.path().join(name(2)).exists());
    }
}
