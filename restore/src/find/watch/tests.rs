//! Events out of records by hand.

use wal::commit::PgTimestamp;

use super::*;
use crate::find::heap::Heap;
use crate::find::name::TableName;
use crate::find::testing::{
    DATABASE, MAGIC, body, class, delete, file, image, insert, main, namespace, page, record, update, words,
};

const CLASS: u32 = 1259;
const NAMESPACE: u32 = 2615;
const DATABASES: u32 = 1262;

fn databases_file() -> RelationLocator {
    RelationLocator {
        tablespace: 1664,
        database: 0,
        relfilenode: DATABASES,
    }
}

struct Play {
    watch: Watch,
    lsn: u64,
}

impl Play {
    fn new(table: Option<&str>) -> Play {
        let mut catalog = Catalog::new(15, DATABASE, 1663, Heap::new(databases_file()));
        catalog.class.file = file(CLASS);
        catalog.namespace.file = file(NAMESPACE);
        catalog.mapped.insert(CLASS);
        catalog.schemas.insert(2200, b"public".to_vec());
        let all = [
            EventKind::Drop,
            EventKind::Truncate,
            EventKind::Rewrite,
            EventKind::Rename,
            EventKind::Delete,
        ];
        let asked = Asked {
            events: all.into_iter().collect(),
            table: table.map(|name| TableName::parse(name).unwrap()),
            from_us: None,
            to_us: None,
            rows_min: 1,
        };
        Play {
            watch: Watch::new(asked, MAGIC, Lsn::ZERO, Some(catalog)),
            lsn: 1000,
        }
    }

    fn put(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> &mut Self {
        self.lsn += 8;
        self.watch.whole(&record(self.lsn, rmid, info, xid), Some(body));
        self
    }

    fn heap(&mut self, info: u8, xid: u32, body: &[u8]) -> &mut Self {
        self.put(RM_HEAP, info, xid, body)
    }

    fn end(&mut self, kind: XactKind, xid: u32, subxacts: &[u32], dropped: &[u32]) -> &mut Self {
        let xact = XactEvent {
            kind,
            lsn_start: Lsn::new(self.lsn + 8),
            lsn_end: Lsn::new(self.lsn + 16),
            xid,
            time: PgTimestamp::from_unix_micros(i64::from(xid)),
        };
        let mut fields = vec![0, 0, 6, subxacts.len() as u32];
        fields.extend(subxacts);
        fields.push(dropped.len() as u32);
        dropped
            .iter()
            .for_each(|number| fields.extend([1663, DATABASE, *number]));
        self.watch.item(WalItem::Xact(xact));
        let info = if kind == XactKind::Commit { 0x80 } else { 0xA0 };
        self.put(RM_XACT, info, xid, &main(&words(&fields)))
    }

    fn commit(&mut self, xid: u32) -> &mut Self {
        self.end(XactKind::Commit, xid, &[], &[])
    }

    /// Event, table, rows, note and transaction.
    fn events(&self) -> Vec<String> {
        assert_eq!(self.watch.notes, Vec::<String>::new());
        let show = |event: &Event| {
            let rows = event.rows.map(|rows| format!(" {rows}")).unwrap_or_default();
            let note = event.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            let table = event.table.clone().unwrap_or_default();
            format!("{} {table}{rows}{note} {}", event.event.word(), event.xid)
        };
        self.watch.events.iter().map(show).collect()
    }
}

/// `orders` and `others` are there, made by transaction 10.
fn two_tables(table: Option<&str>) -> Play {
    let mut play = Play::new(table);
    play.heap(0, 10, &insert(file(CLASS), 1, &class(16_384, "orders", 16_384)));
    play.heap(0, 10, &insert(file(CLASS), 2, &class(16_390, "others", 16_390)));
    play.commit(10);
    play
}

#[test]
fn a_drop_counts_when_it_commits() {
    let mut play = two_tables(Some("public.orders"));
    play.heap(0x10, 11, &delete(file(CLASS), 1));
    play.end(XactKind::Abort, 11, &[], &[]);
    play.heap(0x10, 12, &delete(file(CLASS), 2)).commit(12);
    assert_eq!(play.events(), Vec::<String>::new());
    // In a subtransaction that is kept, beside one that is not.
    play.heap(0x10, 14, &delete(file(CLASS), 1));
    play.end(XactKind::Abort, 14, &[], &[]);
    play.heap(0x10, 15, &delete(file(CLASS), 1));
    play.end(XactKind::Commit, 13, &[15], &[16_384]);
    assert_eq!(play.events(), ["drop public.orders 13"]);
    let event = &play.watch.events[0];
    assert_eq!(
        (event.commit_lsn, event.stop_before),
        (Lsn::new(play.lsn), Lsn::new(play.lsn))
    );
    // The name is given out again.
    play.heap(0, 16, &insert(file(CLASS), 3, &class(16_400, "orders", 16_400)))
        .commit(16);
    play.heap(0x10, 17, &delete(file(CLASS), 3)).commit(17);
    assert_eq!(play.events(), ["drop public.orders 13", "drop public.orders 17"]);
}

#[test]
fn new_files_are_a_truncate_or_a_rewrite() {
    let mut play = two_tables(Some("orders"));
    let new_file = |number: u32| class(16_384, "orders", number);
    play.heap(0x20, 11, &update(file(CLASS), 1, 3, (0, &new_file(16_500), 0)));
    play.end(XactKind::Commit, 11, &[], &[16_384]);
    // A transient relation is made, swapped and dropped.
    play.heap(0, 12, &insert(file(CLASS), 4, &class(16_600, "pg_temp_16384", 16_600)));
    play.heap(0x20, 12, &update(file(CLASS), 3, 5, (0, &new_file(16_600), 0)));
    play.heap(0x10, 12, &delete(file(CLASS), 4));
    play.end(XactKind::Commit, 12, &[], &[16_500]);
    // VACUUM writes statistics, which is nothing.
    play.heap(0x20, 13, &update(file(CLASS), 5, 6, (96, &[1], 23)))
        .commit(13);
    assert_eq!(play.events(), ["truncate public.orders 11", "rewrite public.orders 12"]);
}

#[test]
fn deleted_rows_are_counted_by_transaction_and_table() {
    let mut play = two_tables(Some("public.orders"));
    for (xid, number) in [
        (11, 16_384),
        (12, 16_384),
        (11, 16_384),
        (13, 16_384),
        (11, 16_390),
        (11, 9),
    ] {
        play.heap(0x10, xid, &delete(file(number), 1));
    }
    play.end(XactKind::Abort, 13, &[], &[]);
    play.end(XactKind::Commit, 11, &[12], &[]);
    assert_eq!(play.events(), ["delete public.orders 3 11"]);
    play.heap(0x10, 14, &delete(file(16_384), 1));
    play.heap(0x10, 14, &delete(file(CLASS), 1));
    play.commit(14);
    assert_eq!(
        play.events()[1..],
        ["delete public.orders 1 14", "drop public.orders 14"]
    );
}

#[test]
fn a_table_is_followed_under_another_name() {
    let mut play = two_tables(Some("public.orders"));
    let renamed = class(16_384, "orders_old", 16_384);
    play.heap(0x20, 11, &update(file(CLASS), 1, 3, (0, &renamed, 0)))
        .commit(11);
    play.heap(0, 12, &insert(file(NAMESPACE), 1, &namespace(2200, "Shop")))
        .commit(12);
    play.heap(0x10, 13, &delete(file(CLASS), 3)).commit(13);
    assert_eq!(
        play.events(),
        [
            "rename public.orders (to public.orders_old) 11",
            "drop \"Shop\".orders_old 13"
        ]
    );
}

#[test]
fn a_schema_that_gets_the_name_brings_its_tables() {
    let mut play = two_tables(Some("shop.orders"));
    play.heap(0x10, 11, &delete(file(16_384), 1)).commit(11);
    play.heap(0, 12, &insert(file(NAMESPACE), 1, &namespace(2200, "shop")))
        .commit(12);
    play.heap(0x10, 13, &delete(file(16_384), 1)).commit(13);
    assert_eq!(play.events(), ["delete shop.orders 1 13"]);
}

#[test]
fn a_file_that_goes_unexplained_is_told_by_its_number() {
    let mut play = two_tables(None);
    play.heap(0x10, 11, &delete(file(CLASS), 2));
    play.end(XactKind::Commit, 11, &[], &[16_390, 16_777, CLASS]);
    let events = play.events();
    assert_eq!(events[0], "drop public.others 11");
    assert!(
        events[1].starts_with("drop relation file 1663/5/16777 (seen by its file alone"),
        "{events:?}"
    );
    assert_eq!(events.len(), 2);
}

#[test]
fn a_dropped_database_takes_its_tables_along_from_where_it_became_invalid() {
    let mut play = two_tables(Some("public.orders"));
    let row = |limit: i32| {
        let mut row = vec![0; 84];
        row[..4].copy_from_slice(&DATABASE.to_le_bytes());
        row[80..].copy_from_slice(&limit.to_le_bytes());
        row
    };
    play.heap(0, 11, &insert(databases_file(), 1, &row(-1))).commit(11);
    play.heap(0x70, 0, &body(databases_file(), 0, &row(-2), &[1, 0]));
    let invalid_at = Lsn::new(play.lsn);
    play.heap(0x10, 12, &delete(databases_file(), 1));
    play.put(RM_DBASE, 0x20, 12, &main(&words(&[DATABASE, 1, 1663])))
        .commit(12);
    assert_eq!(play.events(), ["drop public.orders (with its database) 12"]);
    let event = &play.watch.events[0];
    assert_eq!(event.stop_before, invalid_at);
    assert!(event.commit_lsn > invalid_at);
}

#[test]
fn a_database_that_moves_is_followed() {
    let mut play = two_tables(Some("public.orders"));
    play.put(RM_DBASE, 0x00, 0, &main(&words(&[DATABASE, 16_777, DATABASE, 1663])));
    play.put(RM_DBASE, 0x20, 0, &main(&words(&[DATABASE, 1, 1663])));
    let moved = |number| RelationLocator {
        tablespace: 16_777,
        ..file(number)
    };
    play.heap(0x10, 11, &delete(moved(16_384), 1));
    play.heap(0x10, 11, &delete(file(16_384), 1)).commit(11);
    play.heap(0x10, 12, &delete(moved(CLASS), 1)).commit(12);
    assert_eq!(play.events(), ["delete public.orders 1 11", "drop public.orders 12"]);
}

#[test]
fn pg_class_goes_on_in_its_new_file() {
    let mut play = two_tables(Some("public.orders"));
    play.put(RM_SMGR, 0x10, 0, &main(&words(&[1663, DATABASE, 16_800, 0])));
    play.put(RM_SMGR, 0x10, 0, &main(&words(&[1663, DATABASE, 16_801, 0])));
    play.heap(0, 20, &insert(file(CLASS), 3, &class(16_800, "pg_temp_1259", 0)));
    let rows = page(
        0,
        &[
            (2, 0, 0x0900, class(16_384, "orders", 16_384)),
            (20, 20, 0, class(16_800, "pg_temp_1259", 0)),
        ],
    );
    play.put(RM_XLOG, 0xB0, 20, &image(file(16_800), 0, &rows, &[]));
    // Another new file is no catalog.
    play.heap(0, 21, &insert(file(16_801), 1, b"some table"));
    let map = [
        &words(&[DATABASE, 1663, 512, 0x0059_2717, 1, CLASS, 16_800])[..],
        &[0; 496],
    ]
    .concat();
    play.put(RM_RELMAP, 0, 20, &main(&map));
    play.end(XactKind::Commit, 20, &[], &[CLASS]);
    play.heap(0x10, 22, &delete(file(CLASS), 1)).commit(22);
    play.heap(0x10, 23, &delete(file(16_800), 1)).commit(23);
    assert_eq!(play.events(), ["drop public.orders 23"]);
}

#[test]
fn what_makes_no_sense_is_noted_and_bounded() {
    let mut play = two_tables(None);
    for _ in 0..100 {
        play.heap(0x20, 11, &update(file(CLASS), 99, 100, (5, b"x", 5)));
        play.put(RM_RELMAP, 0, 20, &main(&[1, 2, 3]));
        play.put(RM_DBASE, 0x20, 20, &[]);
        play.heap(0, 11, &[1, 2, 3]);
    }
    let notes = play.watch.take_notes();
    assert_eq!(notes.len(), NOTES_MAX + 1);
    assert!(
        notes[0].contains("may be incomplete") && notes[0].contains("0/"),
        "{notes:?}"
    );
    assert!(notes[NOTES_MAX].contains("more places"), "{notes:?}");
}
