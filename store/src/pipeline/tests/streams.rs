//! Files that are handed over in any order and in any pieces are stored like those that are read from disk.

use std::sync::Arc;

use bytes::Bytes;

use super::super::*;
use super::fixture::{Files, Fixture};
use crate::file_table::{EntryClass, EntryType};
use crate::limits::PAGE_BYTES;
use crate::object::memory::MemoryStore;
use crate::retry::SplitMix;
use crate::testing::bytes_of;

fn files() -> Files {
    let file = |path: &str, class, bytes: usize| (path.to_owned(), (class, bytes_of(bytes as u64, bytes).to_vec()));
    Files::from([
        file("base/5/1", EntryClass::Relation, 700 * PAGE_BYTES),
        file("base/5/2", EntryClass::Relation, PAGE_BYTES),
        file("base/5/3", EntryClass::Relation, 0),
        file("base/5/4", EntryClass::Relation, 128 * PAGE_BYTES),
        file("dump", EntryClass::Content, 9 << 20),
        file("PG_VERSION", EntryClass::Content, 3),
        file("empty", EntryClass::Content, 0),
    ])
}

async fn backup(fixture: &Fixture, parent: Option<BackupId>, files: &Files, seed: u64) -> Outcome {
    let random = SplitMix::new(seed);
    let mut jobs = fixture.jobs(files);
    jobs.sort_by_key(|_| random.next());
    let inputs = fixture.inputs(parent).await;
    let writer = Arc::clone(&inputs.writer);
    let mut pipeline = Pipeline::start(inputs).unwrap();
    let (lane, stream) = tokio::sync::mpsc::channel(4);
    let send = async {
        lane.send(Streamed::Entry(FileEntry::bare(
            b"base".to_vec(),
            EntryType::Directory,
            0o700,
        )))
        .await
        .unwrap();
        for job in jobs {
            let bytes = Bytes::from(std::fs::read(&job.on_disk).unwrap());
            lane.send(Streamed::File(job)).await.unwrap();
            let mut at = 0;
            while at < bytes.len() {
                let some = (1 + usize::try_from(random.next() % 300_000).unwrap()).min(bytes.len() - at);
                lane.send(Streamed::Data(bytes.slice(at..at + some))).await.unwrap();
                at += some;
            }
            lane.send(Streamed::FileEnded).await.unwrap();
        }
        drop(lane);
    };
    let (copied, ()) = tokio::join!(pipeline.copy_stream(stream), send);
    copied.unwrap();
    let outcome = pipeline.finish().await.unwrap();
    commit::put_index(&writer, BackupId::from_parts(seed, [9; 10]), &outcome.index, 1)
        .await
        .unwrap();
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_in_any_order_is_the_same_backup() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let files = files();
    let from_disk = {
        let (inputs, jobs) = (fixture.inputs(None).await, fixture.jobs(&files));
        fixture.backup(inputs, jobs).await.unwrap().0
    };
    let same = backup(&fixture, Some(from_disk), &files, 1).await;
    assert_eq!(
        (same.totals.new_pages, same.totals.new_chunks),
        (0, 0),
        "compared with one from disk"
    );
    assert_eq!(same.totals.files, files.len() as u64);

    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let streamed = backup(&fixture, None, &files, 2).await;
    let id = fixture.commit(&streamed).await;
    let mut back = fixture.read_back(id).await;
    back.remove("base");
    assert!(back == files);
    let (inputs, jobs) = (fixture.inputs(Some(id)).await, fixture.jobs(&files));
    let (_, same) = fixture.backup(inputs, jobs).await.unwrap();
    assert_eq!(
        (same.totals.new_pages, same.totals.new_chunks),
        (0, 0),
        "compared with one from a stream"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_within_a_file_is_an_error() {
    let fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    for job in fixture.jobs(&files()) {
        let mut pipeline = Pipeline::start(fixture.inputs(None).await).unwrap();
        let (lane, stream) = tokio::sync::mpsc::channel(4);
        lane.send(Streamed::File(job)).await.unwrap();
        lane.send(Streamed::Data(Bytes::from_static(&[1]))).await.unwrap();
        drop(lane);
        assert!(pipeline.copy_stream(stream).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_length_than_was_said_is_an_error() {
    let fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    for job in fixture.jobs(&files()) {
        let shorter = job.size.checked_sub(1);
        for bytes in shorter.into_iter().chain([job.size + 1, job.size + (64 << 20)]) {
            let mut pipeline = Pipeline::start(fixture.inputs(None).await).unwrap();
            let (lane, stream) = tokio::sync::mpsc::channel(4);
            let job = job.clone();
            let feed = async move {
                lane.send(Streamed::File(job)).await?;
                for at in (0..bytes).step_by(1 << 20) {
                    let piece = vec![1; usize::try_from(bytes - at).unwrap().min(1 << 20)];
                    lane.send(Streamed::Data(piece.into())).await?;
                }
                lane.send(Streamed::FileEnded).await
            };
            let (_, copied) = tokio::join!(feed, pipeline.copy_stream(stream));
            assert!(copied.is_err(), "{bytes}");
        }
    }
}
