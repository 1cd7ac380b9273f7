//! How full a file system is.

use std::path::Path;

use config::RepositoryUrl;

use crate::health::facts::Disk;
use crate::open::Context;

/// Bytes of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// That we may use, free or not: what only root may use is of no use to us.
    pub total_bytes: u64,
    /// That are left for us.
    pub free_bytes: u64,
}

/// The disks of which a full one stops the archive or the server: of `pg_wal`, of a repository in a directory, of our state.
pub fn disks(context: &Context, pg_wal: Option<&Path>) -> Vec<Disk> {
    let repository = match &context.config.repository.url {
        RepositoryUrl::Local { path } => Some(path.as_path()),
        RepositoryUrl::S3 { .. } => None,
    };
    let state = context.cluster.status.state_directory.as_path();
    let places = [("pg_wal", pg_wal), ("repository", repository), ("state", Some(state))];
    let disk = |(what, path): (&str, Option<&Path>)| {
        let space = space(path?).ok()?;
        Some(Disk {
            what: what.to_owned(),
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
        })
    };
    places.into_iter().filter_map(disk).collect()
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
