//! Generation after generation is edited, backed up against the one before, and all of them are read back.

use std::sync::Arc;

use super::fixture::{Files, Fixture};
use crate::envelope::Kind;
use crate::file_table::EntryClass;
use crate::limits::PAGE_BYTES;
use crate::manifest::PackNeed;
use crate::object::memory::MemoryStore;
use crate::repository::Maps;
use crate::retry::SplitMix;

fn below(random: &SplitMix, limit: usize) -> usize {
    usize::try_from(random.next() % limit as u64).unwrap()
}

pub(super) fn page(random: &SplitMix) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    let words: Vec<u8> = (0..40).flat_map(|_| random.next().to_le_bytes()).collect();
    for (at, byte) in page.iter_mut().enumerate().take(6000) {
        *byte = words[at % words.len()];
    }
    page
}

pub(super) fn pages(random: &SplitMix, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| page(random)).collect()
}

fn edit(random: &SplitMix, files: &mut Files) {
    for (class, bytes) in files.values_mut() {
        if *class == EntryClass::Content {
            if !bytes.is_empty() && below(random, 3) == 0 {
                let at = below(random, bytes.len());
                bytes.splice(at..at, page(random));
            }
            continue;
        }
        for _ in 0..below(random, 6) {
            let count = bytes.len() / PAGE_BYTES;
            match below(random, 6) {
                0 => bytes.extend(pages(random, below(random, 200))),
                1 if count > 0 => bytes.truncate(below(random, count + 1) * PAGE_BYTES),
                2 if count > 0 => {
                    let at = below(random, count) * PAGE_BYTES;
                    bytes[at..at + PAGE_BYTES].fill(0);
                }
                _ if count > 0 => {
                    let (at, run) = (below(random, count), 1 + below(random, 30));
                    let end = (at + run).min(count);
                    bytes[at * PAGE_BYTES..end * PAGE_BYTES].copy_from_slice(&pages(random, end - at));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn first_files(random: &SplitMix) -> Files {
    let relation = |count| (EntryClass::Relation, pages(random, count));
    let mut files = Files::new();
    for (path, count) in [
        ("base/5/1", 700),
        ("base/5/2", 1),
        ("base/5/3", 0),
        ("base/5/4", 128),
        ("base/5/5", 129),
    ] {
        files.insert(path.into(), relation(count));
    }
    files.insert("pg_xact/0000".into(), (EntryClass::Content, pages(random, 32)));
    files.insert("PG_VERSION".into(), (EntryClass::Content, b"15\n".to_vec()));
    files.insert(
        "dump".into(),
        (
            EntryClass::Content,
            crate::testing::bytes_of(random.next(), 9 << 20).to_vec(),
        ),
    );
    files.insert("empty".into(), (EntryClass::Content, Vec::new()));
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_generation_reads_back_as_it_was() {
    let seed = 20_260_921;
    let random = SplitMix::new(seed);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut files = first_files(&random);
    let mut generations = Vec::new();
    let mut parent = None;
    for generation in 0..14 {
        if generation == 5 {
            files.remove("base/5/4");
            files.insert("base/5/77".into(), (EntryClass::Relation, pages(&random, 300)));
        }
        let inputs = fixture.inputs(parent).await;
        let jobs = fixture.jobs(&files);
        let (id, outcome) = fixture.backup(inputs, jobs).await.unwrap();
        assert_eq!(outcome.totals.files, files.len() as u64);
        assert_eq!(
            outcome.totals.logical_bytes,
            files.values().map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
        );
        generations.push((id, files.clone()));
        parent = Some(id);
        edit(&random, &mut files);
    }
    for (id, files) in generations {
        assert!(fixture.read_back(id).await == files, "backup {id} differs, seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_change_is_stored_once() {
    let random = SplitMix::new(7);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut files = first_files(&random);
    let inputs = fixture.inputs(None).await;
    let jobs = fixture.jobs(&files);
    let (first, full) = fixture.backup(inputs, jobs.clone()).await.unwrap();
    assert_eq!(full.totals.pages, 700 + 1 + 128 + 129);
    assert_eq!(full.totals.pages, full.totals.new_pages);
    let (second, same) = {
        let inputs = fixture.inputs(Some(first)).await;
        fixture.backup(inputs, jobs).await.unwrap()
    };
    assert_eq!(
        (
            same.totals.new_pages,
            same.totals.new_chunks,
            same.totals.new_stored_bytes
        ),
        (0, 0, 0)
    );
    assert!(same.index.is_empty());
    assert_eq!(same.packs, full.packs);
    assert_eq!(same.file_table, full.file_table);
    let (_, bytes) = files.get_mut("base/5/1").unwrap();
    bytes[300 * PAGE_BYTES] ^= 1;
    let inputs = fixture.inputs(Some(second)).await;
    let jobs = fixture.jobs(&files);
    let (third, one) = fixture.backup(inputs, jobs).await.unwrap();
    assert_eq!((one.totals.new_pages, one.totals.new_chunks), (1, 1));
    assert!(one.totals.new_stored_bytes < 20_000, "{}", one.totals.new_stored_bytes);
    assert!(fixture.read_back(third).await == files);
    assert_eq!(fixture.progress.now().files_done, 27);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_may_not_be_used_again_are_not_referenced() {
    let random = SplitMix::new(9);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let files = first_files(&random);
    let inputs = fixture.inputs(None).await;
    let jobs = fixture.jobs(&files);
    let (first, full) = fixture.backup(inputs, jobs.clone()).await.unwrap();
    let mut inputs = fixture.inputs(Some(first)).await;
    inputs.filter.avoid = full.packs.iter().map(|need| need.id).collect();
    let (second, again) = fixture.backup(inputs, jobs).await.unwrap();
    assert!(
        again
            .packs
            .iter()
            .all(|need| full.packs.iter().all(|old| old.id != need.id))
    );
    assert_eq!(again.totals.new_pages, 0);
    assert!(fixture.read_back(second).await == files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_changes_make_deltas_and_a_whole_map_now_and_then() {
    let random = SplitMix::new(11);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut files = Files::from([("base/5/1".to_owned(), (EntryClass::Relation, pages(&random, 1300)))]);
    let (mut parent, mut depths) = (None, Vec::new());
    for generation in 0..12 {
        // In the second generation many runs, all over the file, so that what later ones change is little beside them.
        let step = if generation == 1 { 20 } else { 700 };
        for at in (generation..1300).step_by(step) {
            let (_, bytes) = files.get_mut("base/5/1").unwrap();
            bytes[at * PAGE_BYTES..(at + 1) * PAGE_BYTES].copy_from_slice(&page(&random));
        }
        let inputs = fixture.inputs(parent).await;
        let jobs = fixture.jobs(&files);
        let (id, _) = fixture.backup(inputs, jobs).await.unwrap();
        let manifest = fixture.host.manifest(id).await.unwrap();
        let entry = &fixture.host.file_table(&manifest).await.unwrap()[0];
        let mut maps = Maps::new(&fixture.host);
        let extents = maps.extents(entry.extents.unwrap()).await.unwrap();
        let digests = maps.digests(entry.digests.unwrap()).await.unwrap();
        depths.push((extents.depth(), digests.depth()));
        assert!(fixture.read_back(id).await == files, "generation {generation}");
        parent = Some(id);
    }
    let digests: Vec<usize> = depths.iter().map(|(_, digests)| *digests).collect();
    assert_eq!(digests, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2]);
    assert!(depths.iter().any(|(extents, _)| *extents == 8), "{depths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lay_in_a_lost_pack_is_stored_anew() {
    let random = SplitMix::new(13);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let files = first_files(&random);
    let inputs = fixture.inputs(None).await;
    let jobs = fixture.jobs(&files);
    let (first, full) = fixture.backup(inputs, jobs.clone()).await.unwrap();
    let lost = full.packs.iter().find(|need| need.holds_data()).unwrap().id;
    let name = fixture.host.layout().pack(lost).unwrap();
    fixture.host.store().delete(&name).await.unwrap();
    let mut inputs = fixture.inputs(Some(first)).await;
    inputs.filter.existing = Some(full.packs.iter().map(|need| need.id).filter(|id| *id != lost).collect());
    let (second, again) = fixture.backup(inputs, jobs).await.unwrap();
    assert!(again.totals.new_chunks > 0 && again.packs.iter().all(|need| need.id != lost));
    assert!(fixture.read_back(second).await == files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_pages_of_a_dead_chunk_are_stored_anew_within_the_budget() {
    let random = SplitMix::new(17);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut files = Files::from([("base/5/1".to_owned(), (EntryClass::Relation, pages(&random, 160)))]);
    let inputs = fixture.inputs(None).await;
    let jobs = fixture.jobs(&files);
    let (first, full) = fixture.backup(inputs, jobs).await.unwrap();
    // All of the first unit but the last two pages of each chunk.
    let (_, bytes) = files.get_mut("base/5/1").unwrap();
    for at in (0..128).filter(|at| at % 16 < 14) {
        bytes[at * PAGE_BYTES..(at + 1) * PAGE_BYTES].copy_from_slice(&page(&random));
    }
    let jobs = fixture.jobs(&files);
    let mut parent = first;
    let mut needed_of_the_first = Vec::new();
    // Those that changed; nothing; what is left of eight chunks, together; nothing.
    for (rewrite_bytes, new_chunks) in [(0, 7), (0, 0), (1 << 20, 1), (1 << 20, 0)] {
        let mut inputs = fixture.inputs(Some(parent)).await;
        inputs.filter.rewrite_bytes = rewrite_bytes;
        let (id, outcome) = fixture.backup(inputs, jobs.clone()).await.unwrap();
        assert_eq!(outcome.totals.new_chunks, new_chunks);
        assert!(fixture.read_back(id).await == files);
        let of_first = |need: &&PackNeed| full.packs.iter().any(|old| old.id == need.id && old.kind == need.kind);
        let data = |need: &&PackNeed| need.kind == Kind::DataPack as u8;
        let needed = outcome.packs.iter().filter(of_first).filter(data);
        needed_of_the_first.push(needed.map(|need| need.live_bytes).sum::<u64>());
        parent = id;
    }
    // Of ten chunks two are needed.
    let [changed, same, rewritten, last] = needed_of_the_first[..] else {
        panic!("{needed_of_the_first:?}")
    };
    assert_eq!((changed, rewritten), (same, last));
    assert!(rewritten * 4 < changed, "{needed_of_the_first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_changed_far_from_each_other_share_chunks_and_stay_there() {
    let random = SplitMix::new(19);
    let mut fixture = Fixture::new(Arc::new(MemoryStore::new())).await;
    let mut files = Files::from([(
        "base/5/1".to_owned(),
        (EntryClass::Relation, pages(&random, 20 * 128 + 7)),
    )]);
    let inputs = fixture.inputs(None).await;
    let jobs = fixture.jobs(&files);
    let (first, _) = fixture.backup(inputs, jobs).await.unwrap();
    // One page of each MiB, and the last one: sixteen in the first stretch, five in the second.
    let (_, bytes) = files.get_mut("base/5/1").unwrap();
    for at in (0..20).map(|unit| unit * 128 + 3 * unit).chain([20 * 128 + 6]) {
        bytes[at * PAGE_BYTES..(at + 1) * PAGE_BYTES].copy_from_slice(&page(&random));
    }
    let jobs = fixture.jobs(&files);
    let mut parent = first;
    for (new_pages, new_chunks) in [(21, 2), (0, 0)] {
        let mut inputs = fixture.inputs(Some(parent)).await;
        inputs.filter.rewrite_bytes = 1 << 20;
        let (id, outcome) = fixture.backup(inputs, jobs.clone()).await.unwrap();
        assert_eq!(
            (outcome.totals.new_pages, outcome.totals.new_chunks),
            (new_pages, new_chunks)
        );
        assert!(fixture.read_back(id).await == files);
        parent = id;
    }
}
