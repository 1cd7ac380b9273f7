//! What is measured without reading is what a backup that reads does: the same pages are new, the same maps written, the same packs needed.

use std::sync::Arc;

use super::super::*;
use super::fixture::{Files, Fixture};
use crate::file_table::EntryClass;
use crate::id::{PackId, PageDigest};
use crate::limits::PAGE_BYTES;
use crate::object::memory::MemoryStore;
use crate::page_map::Source;
use crate::repository::Maps;
use crate::testing::bytes_of;

fn files(changed: impl Fn(usize) -> bool) -> Files {
    let file = |(number, pages): (u64, usize)| {
        let mut bytes = bytes_of(number, pages * PAGE_BYTES).to_vec();
        for (_, page) in (0..)
            .zip(bytes.chunks_mut(PAGE_BYTES))
            .filter(|(page, _)| changed(*page))
        {
            page[100] ^= 1;
        }
        (format!("base/5/{number}"), (EntryClass::Relation, bytes))
    };
    [(1, 700), (2, 1), (3, 128), (4, 300)].into_iter().map(file).collect()
}

/// Of each file: its digests, and for each page whether it lies where the earlier backup put it.
async fn shape(fixture: &Fixture, outcome: &Outcome, earlier: &[PackId]) -> Vec<(Vec<PageDigest>, Vec<bool>)> {
    let manifest = crate::manifest::Manifest {
        file_table: outcome.file_table.clone(),
        ..crate::testing::manifest::empty_manifest(BackupId::from_parts(9, [9; 10]), fixture.lineage)
    };
    let mut maps = Maps::new(&fixture.host);
    let mut out = Vec::new();
    for entry in fixture.host.file_table(&manifest).await.unwrap() {
        let extents = maps.extents(entry.extents.unwrap()).await.unwrap();
        let mut is_earlier = Vec::new();
        for run in &extents.content.runs {
            let Source::Pack { pack, .. } = run.source else {
                panic!("zeros")
            };
            is_earlier.extend((0..run.count).map(|_| earlier.contains(&pack)));
        }
        let digests = maps.digests(entry.digests.unwrap()).await.unwrap();
        out.push((digests.content.pages, is_earlier));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_reads_nothing_writes_the_metadata_of_one_that_reads() {
    let mut fixture = Fixture::new(Arc::new(MemoryStore::default())).await;
    let jobs = fixture.jobs(&files(|_| false));
    let inputs = fixture.inputs(None).await;
    let (full, first) = fixture.backup(inputs, jobs).await.unwrap();
    let earlier: Vec<PackId> = first.packs.iter().map(|need| need.id).collect();

    let now = files(|page| page % 7 == 0 || (200..240).contains(&page));
    let jobs = fixture.jobs(&now);
    let keys = fixture.host.keys();
    let digests: Vec<Vec<PageDigest>> = now
        .values()
        .map(|(_, bytes)| bytes.chunks(PAGE_BYTES).map(|page| keys.page_digest(page)).collect())
        .collect();
    let mut pipeline = Pipeline::start(fixture.inputs(Some(full)).await).unwrap();
    let mut listed = jobs.clone();
    for job in &mut listed {
        job.on_disk = "/nowhere".into();
    }
    let foreseen = Foreseen {
        digest_of: Box::new(move |file, page, _| digests[file as usize - 1][page as usize]),
        sample: vec![7; 1 << 20],
    };
    let source = listed.into_iter().map(|job| Ok(Listed::File(job)));
    pipeline.copy_foreseen(source, foreseen).await.unwrap();
    let unread = pipeline.finish().await.unwrap();

    let inputs = fixture.inputs(Some(full)).await;
    let (_, read) = fixture.backup(inputs, jobs).await.unwrap();
    assert_eq!(
        shape(&fixture, &unread, &earlier).await,
        shape(&fixture, &read, &earlier).await
    );
    assert_eq!(
        (unread.totals.pages, unread.totals.new_pages, unread.totals.new_chunks),
        (read.totals.pages, read.totals.new_pages, read.totals.new_chunks)
    );
    let of_earlier = |outcome: &Outcome| {
        let needs = outcome.packs.iter().filter(|need| earlier.contains(&need.id));
        needs.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of_earlier(&unread), of_earlier(&read));
}
