//! A directory of its own for every test, owned by the server user, gone when the test is over.
//!
//! The path is short: a Unix socket's path may have 107 bytes at most.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::user;

/// Clones share the directory; the last one removes it. Whatever runs in it holds a clone.
#[derive(Debug, Clone)]
pub struct Scratch(Arc<Root>);

#[derive(Debug)]
struct Root {
    path: PathBuf,
}

impl Scratch {
    pub fn create() -> Result<Self> {
        let temp = std::env::temp_dir();
        for _ in 0..100 {
            let path = temp.join(format!("sw-{}", random_name()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    user::give(&path)?;
                    return Ok(Self(Arc::new(Root { path })));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("create {}", path.display()));
                }
            }
        }
        anyhow::bail!("{} is full of scratch directories", temp.display())
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The path of something that does not need to exist yet.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.path.join(relative)
    }

    /// A directory in it (0700, of the server user) with the directories above it.
    pub fn dir(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        let mut path = self.0.path.clone();
        for part in relative.as_ref() {
            path.push(part);
            if !path.is_dir() {
                DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .with_context(|| format!("create {}", path.display()))?;
                user::give(&path)?;
            }
        }
        Ok(path)
    }

    /// A file in it, readable by the server user alone.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let relative = relative.as_ref();
        if let Some(parent) = relative.parent() {
            self.dir(parent)?;
        }
        let path = self.join(relative);
        write_private(&path, content.as_ref())?;
        Ok(path)
    }

    /// The ends of all log files, for the report of a failure.
    pub fn log_tails(&self) -> String {
        let mut tails = String::new();
        let Ok(files) = crate::tree::files(self.path()) else {
            return tails;
        };
        for file in files {
            if file.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let Ok(bytes) = fs::read(&file) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(25)..];
            if !tail.is_empty() {
                tails.push_str(&format!("--- {}\n{}\n", file.display(), tail.join("\n")));
            }
        }
        tails
    }
}

fn random_name() -> String {
    // Not from the seed: two runs with the same seed may go on at the same time.
    let mut bytes = [0; 4];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("{:08x}", u32::from_le_bytes(bytes))
}

/// Writes a file that only the server user can read.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    user::give(path)
}

/// `SEAWALL_KEEP=1` leaves the directories for a look at them.
pub fn keep() -> bool {
    std::env::var("SEAWALL_KEEP").is_ok_and(|value| !value.is_empty() && value != "0")
}

impl Drop for Root {
    fn drop(&mut self) {
        if keep() {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_clone_removes_the_directory() {
        let scratch = Scratch::create().unwrap();
        let clone = scratch.clone();
        let file = scratch.write("a/b/c.txt", "x").unwrap();
        drop(scratch);
        assert!(file.exists());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        drop(clone);
        assert!(keep() || !file.exists());
    }
}
