//! Reads archived WAL from its start to its end, once, and hands it to a watch. Objects are fetched and opened ahead, each by a task of
//! its own, so that the one reader never waits for the store; at most [`OBJECTS_AHEAD`] of them are in memory.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use pg::lsn::Lsn;
use store::manifest::Manifest;
use store::repository::Repository;
use wal::reader::WalReader;

use super::watch::Watch;
use crate::error::{RestoreError, Result};
use crate::progress::Progress;
use crate::route::{Piece, Route};
use crate::scan::{PAGE_BYTES, config, gone, part_of};

/// Objects in memory, 16 MiB each at most.
const OBJECTS_AHEAD: usize = 4;

/// Reads `pieces`, which begin where the backup's WAL begins; returns where reading ended.
pub(super) async fn read(
    repository: &Arc<Repository>,
    route: &Route,
    manifest: &Manifest,
    pieces: Vec<Piece>,
    watch: &mut Watch,
    progress: &Progress,
) -> Result<Lsn> {
    let size = route.size;
    let mut reader = WalReader::new(config(manifest, route.timeline(), size, begin(manifest))?)?;
    let fetch = |piece: Piece| {
        let repository = Arc::clone(repository);
        let task = tokio::spawn(async move { repository.read_wal(&piece.range, size).await });
        async move { (piece, task.await) }
    };
    let mut objects = stream::iter(pieces).map(fetch).buffered(OBJECTS_AHEAD);
    while let Some((piece, object)) = objects.next().await {
        let object = object.map_err(|_| RestoreError::Failed("a worker that reads WAL stopped".into()))?;
        let object = object.map_err(|error| gone(error, &piece.range))?;
        let bytes = part_of(&piece, &object)?;
        reader.push_to(piece.from, bytes, watch)?;
        progress.add(bytes.len() as u64);
        if watch.is_over() {
            break;
        }
    }
    Ok(reader.position())
}

/// Where reading begins: the page of the backup's first record.
pub(super) fn begin(manifest: &Manifest) -> Lsn {
    Lsn::new(manifest.start_lsn / PAGE_BYTES * PAGE_BYTES)
}
