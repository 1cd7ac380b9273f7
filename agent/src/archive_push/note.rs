//! Notes on files that were archived ahead of their turn, in the state directory of this host.
//!
//! A note says which file it was (by its inode and times) and which objects hold it. It saves reading and hashing the file again, and
//! nothing else: that the objects are in the repository is looked up there before PostgreSQL may recycle the file. A note that says
//! anything else than what is found is passed over.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use store::id::Digest;
use store::layout::WalRange;
use store::repository::Repository;
use wal::segment_file::SegmentFile;

use super::EPOCH;
use super::file::Verified;

/// Which file, so that none that was written since is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileFacts {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&std::fs::Metadata> for FileFacts {
    fn from(found: &std::fs::Metadata) -> Self {
        FileFacts {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    repository: String,
    lineage: String,
    file: FileFacts,
    /// First LSN, the one behind the last, and the keyed digest of what is between them.
    objects: Vec<(u64, u64, [u8; 32])>,
}

/// Where notes lie.
#[derive(Debug)]
pub(super) struct Notes {
    directory: PathBuf,
    repository: String,
}

impl Notes {
    /// Of one cluster and repository.
    pub(super) fn new(state_directory: &Path, cluster: &str, repository: &Repository) -> Self {
        Notes {
            directory: state_directory.join("archived-ahead").join(cluster),
            repository: repository.id().to_string(),
        }
    }

    /// Makes the directory; without one nothing is archived ahead.
    pub(super) fn can_be_written(&self) -> bool {
        match std::fs::create_dir_all(&self.directory) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, directory = %self.directory.display(), "nothing is archived ahead");
                false
            }
        }
    }

    fn path(&self, file: &Path) -> PathBuf {
        self.directory.join(file.file_name().unwrap_or_default())
    }

    /// Notes that a file is archived, which it must be. Without a note it is only read again in its turn.
    pub(super) fn write(&self, path: &Path, file: &Verified) {
        let range_of = |piece: &super::file::Planned| {
            let WalRange { start, end, .. } = piece.range;
            (start.as_u64(), end.as_u64(), piece.digest.0)
        };
        let note = Note {
            repository: self.repository.clone(),
            lineage: file.segment.lineage().to_string(),
            file: file.facts(),
            objects: file.pieces.iter().map(range_of).collect(),
        };
        let bytes = serde_json::to_vec(&note).unwrap_or_default();
        let to = self.path(path);
        if let Err(error) = std::fs::write(&to, bytes) {
            tracing::debug!(%error, note = %to.display(), "not noted");
        }
    }

    /// True when a file was archived ahead, is the same still, and is in the repository. Its note is taken away in any case.
    pub(super) async fn hold(&self, repository: &Repository, segment: &SegmentFile, path: &Path) -> bool {
        let noted = self.path(path);
        let Ok(bytes) = std::fs::read(&noted) else { return false };
        let _ = std::fs::remove_file(&noted);
        let Ok(note) = serde_json::from_slice::<Note>(&bytes) else {
            return false;
        };
        let is_same = note.repository == self.repository
            && note.lineage == segment.lineage().to_string()
            && std::fs::metadata(path).is_ok_and(|found| FileFacts::from(&found) == note.file);
        is_same && is_archived(repository, segment, &note.objects).await
    }
}

/// True when these objects hold all of a segment, and are there.
async fn is_archived(repository: &Repository, segment: &SegmentFile, objects: &[(u64, u64, [u8; 32])]) -> bool {
    let mut at = segment.start();
    for (start, end, digest) in objects {
        let range = WalRange {
            lineage: segment.lineage(),
            timeline: segment.timeline(),
            start: at,
            end: pg::lsn::Lsn::new(*end),
            epoch: EPOCH,
            tail: false,
        };
        if *start != at.as_u64() || range.end <= at {
            return false;
        }
        match repository.read_wal_header(&range, segment.size()).await {
            Ok(Some(header)) if header.digest == Digest(*digest) => at = range.end,
            _ => return false,
        }
    }
    at == segment.end()
}
