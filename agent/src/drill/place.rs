//! Where a drill restores to. Ours, or nobody's: anything else there is left alone.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::restore::Target;
use crate::exit::Failure;
use crate::open::Context;
use crate::status::state_file;
use crate::{disk, output};

/// Says that a directory is ours to remove.
const MARK: &str = "seawall-drill";
/// Beside what is restored: WAL of the restored server, temporary files of its recovery.
const MORE_BYTES: u64 = 512 << 20;
/// A server that has not ended in order by then is ended.
const STOP_MAX: Duration = Duration::from_secs(60);

/// The directory of one drill.
pub struct Place {
    root: PathBuf,
    needed_bytes: u64,
    free_bytes: u64,
}

impl Place {
    /// Looks; changes nothing.
    ///
    /// # Errors
    /// Something there is not ours.
    pub fn look(context: &Context, target: &Target) -> anyhow::Result<Self> {
        let drill = &context.cluster.drill;
        let above = drill
            .directory
            .as_ref()
            .unwrap_or(&context.cluster.status.state_directory);
        let root = above.join(format!("drill-{}", context.cluster.name));
        if root.exists() && !root.join(MARK).exists() && fs::read_dir(&root)?.next().is_some() {
            return Err(Failure::refused(
                format!("\"{}\" holds something that no drill has made", root.display()),
                "Move it away, or name another place: [cluster.<name>.drill] directory.",
            )
            .into());
        }
        let space = disk::space(above).with_context(|| format!("cannot look at \"{}\"", above.display()))?;
        let parts = [target.logical_bytes, target.wal_bytes, MORE_BYTES];
        Ok(Place {
            needed_bytes: parts.into_iter().fold(0, u64::saturating_add),
            free_bytes: space.free_bytes,
            root,
        })
    }

    /// One drill of a cluster at a time: a lock on a file beside the state, held until the process ends.
    pub fn alone(&self, context: &Context) -> anyhow::Result<File> {
        let path = state_file(context).with_extension("drill.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open \"{}\"", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::refused(
                format!("another drill runs in \"{}\"", self.root.display()),
                "Wait for it, or stop it: it takes away what it has made.",
            )
        })?;
        Ok(file)
    }

    /// What an earlier drill left is removed before, and counts as free.
    pub fn refuse_no_room(&self, target: &Target) -> anyhow::Result<()> {
        if self.free_bytes >= self.needed_bytes || self.root.exists() {
            return Ok(());
        }
        Err(Failure::refused(
            format!(
                "a drill to {} needs {} in \"{}\", and {} are free",
                target.text,
                output::bytes(self.needed_bytes),
                self.root.display(),
                output::bytes(self.free_bytes)
            ),
            "Name a place with more room: [cluster.<name>.drill] directory. Nothing was restored.",
        )
        .into())
    }

    /// Makes the directory.
    pub fn make(&self) -> anyhow::Result<()> {
        let what = || format!("cannot make \"{}\"", self.root.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(what)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).with_context(what)?;
        fs::write(self.root.join(MARK), "Made by `wal-agent drill`, which removes it.\n").with_context(what)?;
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Short: the path of a socket may have 107 bytes.
    pub fn sockets(&self) -> PathBuf {
        self.root.join("s")
    }

    pub fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// What would be done.
    pub fn describe(&self, target: &Target) -> String {
        format!(
            "Would restore {} to \"{}\": {} needed, {} free. Nothing was changed.",
            target.text,
            self.root.display(),
            output::bytes(self.needed_bytes),
            output::bytes(self.free_bytes)
        )
    }

    /// Ends the server and removes the directory.
    pub async fn clear(&self) -> anyhow::Result<()> {
        self.stop_server().await?;
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove \"{}\"", self.root.display()))
            }
            _ => Ok(()),
        }
    }

    /// By the process id in its `postmaster.pid` (PostgreSQL docs, "Shutting Down the Server"): SIGINT ends it fast, SIGQUIT at once. The id is
    /// believed only when that process works in this directory: it may have become somebody else's.
    async fn stop_server(&self) -> anyhow::Result<()> {
        let Ok(text) = fs::read_to_string(self.data().join("postmaster.pid")) else {
            return Ok(());
        };
        let Some(pid) = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .and_then(Pid::from_raw)
        else {
            return Ok(());
        };
        let works_here = || {
            let link = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
            let data = self.data().canonicalize();
            matches!((link, data), (Ok(link), Ok(data)) if link == data)
        };
        let begun = tokio::time::Instant::now();
        let mut signal = Signal::INT;
        while works_here() && test_kill_process(pid).is_ok() {
            if begun.elapsed() > STOP_MAX {
                signal = Signal::QUIT;
            }
            anyhow::ensure!(
                begun.elapsed() < STOP_MAX * 2,
                "the server in \"{}\" does not end",
                self.data().display()
            );
            let _ = kill_process(pid, signal);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}
