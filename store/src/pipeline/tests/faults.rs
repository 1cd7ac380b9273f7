//! Files that go away, shrink or cannot be read, pages that are torn, and a store that fails.

use std::sync::Arc;

use super::super::*;
use super::fixture::{Files, Fixture};
use crate::file_table::EntryClass;
use crate::limits::PAGE_BYTES;
use crate::object::Operation;
use crate::object::memory::MemoryStore;
use crate::testing::{Fault, ScriptedStore, bytes_of};

fn relation(pages: usize) -> Files {
    Files::from([(
        "base/1/1".to_owned(),
        (EntryClass::Relation, bytes_of(4, pages * PAGE_BYTES).to_vec()),
    )])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_vanish_is_recorded_and_another_fails_the_backup() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut jobs = fixture.jobs(&relation(3));
    std::fs::remove_file(&jobs[0].on_disk).unwrap();
    let inputs = fixture.inputs(None).await;
    let (id, outcome) = fixture.backup(inputs, jobs.clone()).await.unwrap();
    assert_eq!(outcome.vanished, [ByteVec::from(b"base/1/1".to_vec())]);
    assert!(fixture.read_back(id).await.is_empty());
    jobs[0].may_vanish = false;
    let inputs = fixture.inputs(None).await;
    assert!(matches!(
        fixture.backup(inputs, jobs).await,
        Err(StoreError::Io { action: "open", .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_error_fails_the_backup() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    for class in [EntryClass::Relation, EntryClass::Content] {
        let mut jobs = fixture.jobs(&relation(3));
        jobs[0].class = class;
        jobs[0].on_disk = fixture.directory.path().to_owned();
        let inputs = fixture.inputs(None).await;
        let result = fixture.backup(inputs, jobs).await;
        let read_at_all =
            fixture.directory.path().metadata().unwrap().len() >= PAGE_BYTES as u64 || class == EntryClass::Content;
        assert!(
            !read_at_all || matches!(result, Err(StoreError::Io { action: "read", .. })),
            "{result:?}"
        );
    }
    assert!(fixture.host.backup_ids().await.unwrap().len() <= 1);
}

/// Truncates the file when it sees a page, and flips a page that is read again.
#[derive(Debug)]
struct Meddler {
    truncate_at: u32,
    to_pages: u64,
}

impl PageCheck for Meddler {
    fn examine(
        &self,
        file: &FileJob,
        page: u32,
        bytes: &mut [u8],
        reread: &mut Reread<'_>,
    ) -> Result<Option<CorruptPage>, StoreError> {
        if page == self.truncate_at {
            let open = std::fs::OpenOptions::new().write(true).open(&file.on_disk).unwrap();
            open.set_len(self.to_pages * PAGE_BYTES as u64).unwrap();
            assert!(!reread(bytes)?);
            let path = file.path.clone().into();
            return Ok(Some(CorruptPage {
                path,
                block: page,
                expected: 1,
                found: 2,
                reason: "test".into(),
            }));
        }
        bytes[0] = 0xEE;
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_truncated_meanwhile_is_valid_at_its_shorter_length() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let files = relation(900);
    let jobs = fixture.jobs(&files);
    let mut inputs = fixture.inputs(None).await;
    inputs.jobs = 1;
    inputs.check = Arc::new(Meddler {
        truncate_at: 300,
        to_pages: 260,
    });
    let (id, outcome) = fixture.backup(inputs, jobs).await.unwrap();
    let back = fixture.read_back(id).await;
    let (_, bytes) = &back["base/1/1"];
    assert_eq!(
        bytes.len(),
        384 * PAGE_BYTES,
        "the unit that was read before the truncation, and nothing behind it"
    );
    assert!(
        bytes
            .chunks(PAGE_BYTES)
            .enumerate()
            .all(|(page, bytes)| page == 300 || bytes[0] == 0xEE),
        "what the check left is stored"
    );
    assert_eq!(outcome.corrupt_pages.len(), 1);
    assert_eq!(outcome.totals.pages, 384);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_page_at_the_end_is_left_to_wal() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut files = relation(2);
    files.get_mut("base/1/1").unwrap().1.extend([7; 100]);
    let jobs = fixture.jobs(&files);
    let inputs = fixture.inputs(None).await;
    let (id, _) = fixture.backup(inputs, jobs).await.unwrap();
    assert_eq!(
        fixture.read_back(id).await["base/1/1"].1,
        files["base/1/1"].1[..2 * PAGE_BYTES]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_fails_fails_the_backup() {
    let store = Arc::new(ScriptedStore::new(MemoryStore::new()));
    let mut fixture = Fixture::new(store.clone()).await;
    let files = Files::from([("dump".to_owned(), (EntryClass::Content, bytes_of(1, 60 << 20).to_vec()))]);
    let jobs = fixture.jobs(&files);
    store.push(Operation::PutNew, "/packs/", Fault::FailBefore);
    let inputs = fixture.inputs(None).await;
    assert!(matches!(fixture.backup(inputs, jobs).await, Err(StoreError::Object(_))));
    assert!(fixture.host.backup_ids().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_path_is_backed_up_once() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut jobs = fixture.jobs(&relation(1));
    jobs.extend(jobs.clone());
    let inputs = fixture.inputs(None).await;
    assert!(matches!(
        fixture.backup(inputs, jobs).await,
        Err(StoreError::Limit { .. })
    ));
}
