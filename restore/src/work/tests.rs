use super::*;

fn entry(path: &[u8], class: EntryClass, size: u64) -> FileEntry {
    FileEntry {
        class,
        size,
        ..FileEntry::bare(path.to_vec(), EntryType::File, 0o600)
    }
}

#[test]
fn a_run_of_pages_goes_on_in_the_next_chunk_from_its_first_page() {
    let run = Run::Pages {
        file: 3,
        first: 100,
        count: 20,
        chunk: 7,
        page: 14,
    };
    let chunks = by_chunk(&[run]);
    let page = PAGE_BYTES;
    let expected = [(7, 100, 14, 2), (8, 102, 0, 16), (9, 118, 0, 2)];
    assert_eq!(chunks.len(), 3);
    for ((number, parts), (chunk, first, from, count)) in chunks.iter().zip(expected) {
        assert_eq!(*number, chunk);
        assert_eq!(
            parts[0],
            Destination {
                file: 3,
                at: first * page as u64,
                from: from * page,
                bytes: count * page
            }
        );
    }
}

#[test]
fn a_chunk_that_is_used_twice_is_decoded_once() {
    let at = |file| Run::Content {
        file,
        at: 0,
        chunk: 1,
        bytes: 10,
    };
    let chunks = by_chunk(&[at(1), at(2)]);
    assert_eq!((chunks.len(), chunks[0].1.len()), (1, 2));
}

#[test]
fn sizes_that_contradict_each_other_are_damage() {
    let (mut work, maps) = Work::of(
        &[FileEntry {
            extents: Some(ChunkReference {
                pack: PackId::default(),
                number: 0,
            }),
            ..entry(b"base/1", EntryClass::Relation, 8192)
        }],
        &[],
    )
    .unwrap();
    let extents = |pages| Extents {
        pages,
        runs: vec![Extent {
            first: 0,
            count: pages,
            source: Source::Zero,
        }],
    };
    assert!(work.add_pages(maps[0], &extents(2), None).is_err());
    work.add_pages(maps[0], &extents(1), None).unwrap();
    assert!(work.packs.is_empty());
    assert!(Work::of(&[entry(b"base/1", EntryClass::Relation, 8192)], &[]).is_err());
    assert!(Work::of(&[entry(b"x", EntryClass::Content, 1)], &[]).is_err());
}

#[test]
fn links_are_left_out_loudly_and_pg_control_waits() {
    let link = |path: &[u8]| FileEntry {
        target: Some(b"/etc".to_vec().into()),
        ..FileEntry::bare(path.to_vec(), EntryType::Link, 0o777)
    };
    let control = entry(b"global/pg_control", EntryClass::Control, 8192);
    let (work, _) = Work::of(
        &[link(b"pg_tblspc/16384"), link(b"pg_wal"), link(b"server.crt"), control],
        &[16384],
    )
    .unwrap();
    assert_eq!(work.left_out.len(), 1);
    assert_eq!(work.directories.len(), 1);
    assert!(work.control.is_some() && work.files.is_empty());
}

#[test]
fn what_is_on_disk_is_not_fetched_and_what_should_be_zero_is_named() {
    let table = [FileEntry {
        extents: Some(ChunkReference {
            pack: PackId::default(),
            number: 0,
        }),
        ..entry(b"base/1", EntryClass::Relation, 40 * 8192)
    }];
    let (mut work, maps) = Work::of(&table, &[]).unwrap();
    let mut extents = Extents::default();
    let pack = PackId([1; 16]);
    let sources = [
        (
            0,
            20,
            Source::Pack {
                pack,
                chunk: 3,
                page: 0,
            },
        ),
        (20, 20, Source::Zero),
    ];
    for (first, count, source) in sources {
        extents.push(Extent { first, count, source });
    }
    let held = Held {
        pages: 30,
        same: vec![0..17, 22..24],
    };
    work.add_pages(maps[0], &extents, Some(held)).unwrap();
    let run = Run::Pages {
        file: 0,
        first: 17,
        count: 3,
        chunk: 4,
        page: 1,
    };
    assert_eq!(work.packs[&pack], [run]);
    assert_eq!(work.zeroes, [(0, 20..22), (0, 24..30)]);
    assert_eq!((work.bytes, work.held_bytes), (3 * 8192, 19 * 8192));
    assert!(work.is_held(0));
}

#[tokio::test]
async fn what_does_not_fit_is_planned_later_and_nothing_is_missing_or_twice() {
    const FILES: u32 = 5;
    const PAGES: u32 = RUNS_MAX as u32 / 2;
    let extents = || {
        let mut map = Extents::default();
        for first in 0..PAGES {
            // No two of them are one piece.
            let source = Source::Pack {
                pack: PackId([(first % 3) as u8; 16]),
                chunk: first / 3,
                page: 0,
            };
            map.push(Extent {
                first,
                count: 1,
                source,
            });
        }
        map
    };
    let table: Vec<FileEntry> = (0..FILES)
        .map(|number| FileEntry {
            extents: Some(ChunkReference {
                pack: PackId::default(),
                number,
            }),
            ..entry(
                format!("base/{number}").as_bytes(),
                EntryClass::Relation,
                u64::from(PAGES) * 8192,
            )
        })
        .collect();
    let (mut work, maps) = Work::of(&table, &[]).unwrap();
    let map = extents();
    for at in maps {
        // All of the last one but its first pages is there.
        let held = (at.file == FILES - 1).then(|| Held {
            pages: PAGES,
            same: vec![3..10, 10..PAGES],
        });
        work.add_pages(at, &map, held).unwrap();
    }
    let pages_of = |runs: &Runs| {
        let mut pages = BTreeMap::new();
        for run in runs.values().flatten() {
            let Run::Pages { file, count, .. } = run else { continue };
            *pages.entry(*file).or_insert(0) += *count;
        }
        pages
    };
    assert_eq!(pages_of(&work.packs), BTreeMap::from([(0, PAGES), (1, PAGES)]));
    assert_eq!(work.bytes, (u64::from(PAGES) * 4 + 3) * 8192);
    let of_last: Vec<String> = work.partly_held().map(Place::show).collect();
    assert_eq!(of_last, ["base/4"]);
    let mut later = work.later.iter();
    let mut asked = Vec::new();
    let mut read = async |at: ChunkReference| {
        asked.push(at.number);
        Ok(extents())
    };
    let second = next_runs(&mut later, &mut read).await.unwrap();
    assert_eq!(pages_of(&second), BTreeMap::from([(2, PAGES), (3, PAGES)]));
    let third = next_runs(&mut later, &mut read).await.unwrap();
    assert_eq!(pages_of(&third), BTreeMap::from([(4, 3)]));
    assert!(next_runs(&mut later, &mut read).await.unwrap().is_empty());
    assert_eq!(asked, [2, 3, 4]);
}
