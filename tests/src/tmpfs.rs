//! A small file system of its own, so that a disk can be full without filling the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::scratch::Scratch;
use crate::user;

/// A mounted tmpfs. Dropping it unmounts it.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
    size: String,
    _scratch: Scratch,
}

impl Tmpfs {
    /// Mounts one of `mib` MiB at `<scratch>/<name>`, owned by the server user.
    pub fn mount(scratch: &Scratch, name: &str, mib: u32) -> Result<Self> {
        Self::mount_as(scratch, name, &format!("size={mib}m"))
    }

    /// One with bytes enough, but room for so many files and directories only: it is full without
    /// looking full.
    pub fn mount_for_files(scratch: &Scratch, name: &str, files: u32) -> Result<Self> {
        Self::mount_as(scratch, name, &format!("size=400m,nr_inodes={files}"))
    }

    fn mount_as(scratch: &Scratch, name: &str, size: &str) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a full disk is made with a tmpfs, and only root can mount one\nHINT: run the tests as root"
        );
        let tmpfs = Self {
            path: scratch.dir(name)?,
            size: size.to_owned(),
            _scratch: scratch.clone(),
        };
        tmpfs.mount_again()?;
        Ok(tmpfs)
    }

    /// Mounts another one in the place of one that was taken away: empty.
    pub fn mount_again(&self) -> Result<()> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("{},mode=0700", self.size))
            .arg("tmpfs")
            .arg(&self.path)
            .status()
            .context("could not run mount")?;
        ensure!(status.success(), "could not mount a tmpfs at {}", self.path.display());
        user::give(&self.path)
    }

    /// Takes it away, as a network does: whoever has a file of it open keeps that.
    pub fn unmount(&self) -> Result<()> {
        let status = Command::new("umount").arg("-l").arg(&self.path).status()?;
        ensure!(status.success(), "could not unmount {}", self.path.display());
        Ok(())
    }

    /// So many MiB are left.
    pub fn leave_room(&self, mib: u64) -> Result<()> {
        let found = rustix::fs::statvfs(&self.path)?;
        let used = (found.f_blocks - found.f_bfree) * found.f_frsize;
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={}", used + (mib << 20))])
            .arg(&self.path)
            .status()?;
        ensure!(status.success(), "could not make {} smaller", self.path.display());
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it large, as an operator would.
    pub fn make_room(&self) -> Result<()> {
        let status = Command::new("mount")
            .args(["-o", "remount,size=400m,nr_inodes=100000"])
            .arg(&self.path)
            .status()?;
        ensure!(status.success(), "could not enlarge {}", self.path.display());
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: what was killed a moment ago may still hold a file.
        let done = Command::new("umount").arg("-l").arg(&self.path).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.path.display());
        }
    }
}
