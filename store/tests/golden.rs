//! The frozen repository of format 1 is read for ever. Nothing here may be changed to make a new version pass.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::file_table::{EntryClass, FileEntry};
use store::keys::Role;
use store::keys::file::read_opening;
use store::object::local::LocalStore;
use store::page_map::Source;
use store::repository::{Maps, Repository};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

/// A copy, because git keeps no modes and a key that others may read is refused.
fn private_copy(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            private_copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

async fn file(repository: &Repository, entry: &FileEntry) -> Vec<u8> {
    let mut out = Vec::new();
    for at in &entry.content {
        out.extend(
            repository
                .fetch_pack(at.pack)
                .await
                .unwrap()
                .chunk(at.number, repository)
                .unwrap(),
        );
    }
    let Some(at) = entry.extents else { return out };
    let extents = Maps::new(repository).extents(at).await.unwrap().content;
    for page in 0..extents.pages {
        match extents.slice(page, page + 1)[0].source {
            Source::Zero => out.extend([0; 8192]),
            Source::Pack { pack, chunk, page } => {
                let plain = repository
                    .fetch_chunks(pack, &[chunk])
                    .await
                    .unwrap()
                    .chunk(chunk, repository)
                    .unwrap();
                out.extend(&plain[usize::from(page) * 8192..][..8192]);
            }
        }
    }
    out
}

#[tokio::test]
async fn the_repository_of_format_1_is_read_to_the_last_byte() {
    read_all("golden-1").await;
}

#[tokio::test]
async fn so_is_one_in_which_a_root_key_says_who_is_trusted() {
    read_all("golden-1-root").await;
}

async fn read_all(name: &str) {
    let scratch = tempfile::tempdir().unwrap();
    private_copy(&golden(name), scratch.path());
    let key = read_opening(&scratch.path().join("keys/restore.key"), Role::Restore).unwrap();
    let store = Arc::new(LocalStore::open(scratch.path().join("repository")).unwrap());
    let repository = Repository::open_as_restorer(store, &key).await.unwrap();
    let lineages = repository.lineages().await.unwrap();
    assert_eq!(lineages.len(), 1);
    assert_eq!(lineages[0].system_identifier, 7_300_000_000_000_000_001);

    let coverage = repository.coverage(lineages[0].id).await.unwrap();
    let size = SegmentSize::new(lineages[0].segment_bytes).unwrap();
    let timeline = TimelineId::new(1).unwrap();
    let (start, end) = (Lsn::new(0x10_0000), Lsn::new(0x20_2000));
    let mut wal = Vec::new();
    for range in coverage.cover(timeline, start, end).unwrap() {
        wal.extend(repository.read_wal(&range, size).await.unwrap());
    }
    assert_eq!(
        wal,
        b"this stands for WAL "
            .iter()
            .copied()
            .cycle()
            .take(0x10_2000)
            .collect::<Vec<_>>()
    );

    let manifests = repository.manifests().await.unwrap();
    assert_eq!(manifests.len(), 2);
    for (manifest, generation) in manifests.iter().zip(["first", "second"]) {
        let table = repository.file_table(manifest).await.unwrap();
        let paths: Vec<&[u8]> = table.iter().map(|entry| entry.path.as_slice()).collect();
        assert_eq!(paths, [&b"PG_VERSION"[..], b"base", b"base/5/16384", b"content"]);
        assert_eq!(file(&repository, &table[0]).await, b"15\n");
        assert_eq!(table[2].class, EntryClass::Relation);
        let relation = file(&repository, &table[2]).await;
        assert_eq!(relation.len(), 64 * 8192);
        assert!(relation[4 * 8192..].starts_with(b"first content of page 4; "));
        assert!(relation[5 * 8192..].starts_with(format!("{generation} content of page 5; ").as_bytes()));
        assert_eq!(relation[6 * 8192..7 * 8192], [0; 8192]);
        assert_eq!(
            blake3::hash(&file(&repository, &table[3]).await),
            blake3::hash(&noise("content", 300_000))
        );
    }
    assert!(manifests[1].totals.new_pages <= 3, "the second backup is an increment");
}

fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}
