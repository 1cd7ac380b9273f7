//! A directory for a server of our own, or for a file that is needed meanwhile: private, and gone with its value.
//!
//! A crash leaves it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::ComponentError;

/// Bytes of a log that are told.
const LOG_BYTES_MAX: usize = 1500;

/// A directory that goes away.
#[derive(Debug)]
pub struct Private(PathBuf);

impl Private {
    /// Makes one below `scratch`, for our eyes; what it is for is in its name, and its path has `bytes_max` at most.
    ///
    /// # Errors
    /// It cannot be made, or its path is too long or relative.
    pub fn create(scratch: &Path, purpose: &str, bytes_max: usize) -> Result<Self, ComponentError> {
        let name = u32::from_le_bytes(store::entropy::bytes()?);
        let path = scratch.join(format!("seawall-{purpose}-{name:08x}"));
        if path.as_os_str().len() > bytes_max || !path.is_absolute() {
            return Err(ComponentError::refused(
                format!("\"{}\" is no place for what is needed meanwhile", scratch.display()),
                "Name a directory with a short, absolute path.",
            ));
        }
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(ComponentError::io("create directory", &path))?;
        Ok(Private(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a server's log goes.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Its last lines.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(LOG_BYTES_MAX)..).unwrap_or_default();
        String::from_utf8_lossy(tail).trim().to_owned()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Files of ours alone; what is left over is no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
