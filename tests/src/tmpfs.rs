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
    _scratch: Scratch,
}

impl Tmpfs {
    /// Mounts one of `mib` MiB at `<scratch>/<name>`, owned by the server user.
    pub fn mount(scratch: &Scratch, name: &str, mib: u32) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a full disk is made with a tmpfs, and only root can mount one\nHINT: run the tests as root"
        );
        let path = scratch.dir(name)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={mib}m,mode=0700"))
            .arg("tmpfs")
            .arg(&path)
            .status()
            .context("could not run mount")?;
        ensure!(status.success(), "could not mount a tmpfs at {}", path.display());
        let tmpfs = Self {
            path,
            _scratch: scratch.clone(),
        };
        user::give(&tmpfs.path)?;
        Ok(tmpfs)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another size, as an operator would make room.
    pub fn resize(&self, mib: u32) -> Result<()> {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={mib}m")])
            .arg(&self.path)
            .status()?;
        ensure!(status.success(), "could not resize {}", self.path.display());
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
