//! How full a file system is.

use std::path::Path;

/// Bytes of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// That we may use, free or not: what only root may use is of no use to us.
    pub total_bytes: u64,
    /// That are left for us.
    pub free_bytes: u64,
}

/// Asks the file system of a path on this machine.
pub fn space(path: &Path) -> std::io::Result<Space> {
    let statistics = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(statistics.f_frsize);
    let used = statistics.f_blocks.saturating_sub(statistics.f_bfree);
    Ok(Space {
        total_bytes: bytes(used.saturating_add(statistics.f_bavail)),
        free_bytes: bytes(statistics.f_bavail),
    })
}
