//! Rows under inserts, updates, deletes and images, committed and not.

use wal::heap::RM_HEAP;

use super::*;
use crate::find::testing::{MAGIC, delete, file, image, insert, page, update};

const FILE: u32 = 1259;

fn heap() -> Heap {
    Heap::new(file(FILE))
}

fn apply(heap: &mut Heap, xid: u32, lsn: u64, info: u8, bytes: &[u8]) -> Result<Vec<Seen>, Unreadable> {
    let body = RecordBody::decode(bytes, MAGIC).unwrap();
    let change = HeapChange::parse(RM_HEAP, info, &body).unwrap();
    let mut seen = Vec::new();
    heap.apply(xid, Lsn::new(lsn), &body, &change, |row| seen.push(row))?;
    Ok(seen)
}

fn commit(heap: &mut Heap, xids: &[u32]) -> [Vec<String>; 3] {
    let changes = heap.commit(&xids.iter().copied().collect());
    let text = |rows: Vec<Box<[u8]>>| {
        let mut text: Vec<String> = rows
            .iter()
            .map(|row| String::from_utf8_lossy(row).into_owned())
            .collect();
        text.sort();
        text
    };
    [text(changes.before), text(changes.after), text(changes.between)]
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_transaction_is_told_by_what_was_and_what_is() {
    let mut heap = heap();
    apply(&mut heap, 10, 100, 0x00, &insert(file(FILE), 1, b"one")).unwrap();
    apply(&mut heap, 10, 108, 0x00, &insert(file(FILE), 2, b"two")).unwrap();
    assert_eq!(
        commit(&mut heap, &[10]),
        [strings(&[]), strings(&["one", "two"]), strings(&[])]
    );
    // Twice in one transaction, the second time in a subtransaction.
    apply(&mut heap, 11, 116, 0x40, &update(file(FILE), 1, 3, (1, b"N", 1))).unwrap();
    apply(&mut heap, 12, 124, 0x20, &update(file(FILE), 3, 4, (0, b"last", 0))).unwrap();
    apply(&mut heap, 11, 132, 0x10, &delete(file(FILE), 2)).unwrap();
    assert_eq!(
        commit(&mut heap, &[11, 12]),
        [strings(&["one", "two"]), strings(&["last"]), strings(&["oNe"])]
    );
    assert_eq!(commit(&mut heap, &[11, 12]), [strings(&[]), strings(&[]), strings(&[])]);
}

#[test]
fn what_is_rolled_back_never_was() {
    let mut heap = heap();
    apply(&mut heap, 10, 100, 0x00, &insert(file(FILE), 1, b"one")).unwrap();
    heap.commit(&[10].into());
    apply(&mut heap, 12, 108, 0x10, &delete(file(FILE), 1)).unwrap();
    apply(&mut heap, 12, 116, 0x00, &insert(file(FILE), 2, b"two")).unwrap();
    heap.abort(&[12].into());
    apply(&mut heap, 11, 124, 0x10, &delete(file(FILE), 1)).unwrap();
    assert_eq!(
        commit(&mut heap, &[11]),
        [strings(&["one"]), strings(&[]), strings(&[])]
    );
}

#[test]
fn a_page_of_the_backup_tells_of_commits_that_are_still_ahead() {
    let rows = page(
        500,
        &[
            (2, 20, 0x0500, b"dropped".to_vec()), // hinted: 20 had committed when the page was copied
            (21, 0, 0x0900, b"made".to_vec()),
            (22, 0, 0x0800, b"running".to_vec()),
            (2, 23, 0x0100, b"ended by 23".to_vec()),
        ],
    );
    let mut heap = heap();
    heap.load(0, &rows).unwrap();
    let mut undecided: Vec<u32> = heap.undecided().collect();
    undecided.sort_unstable();
    assert_eq!(undecided, [22, 23]);
    let live = |committed: &[u32]| -> Vec<String> {
        let rows = heap.live(|xid| committed.contains(&xid));
        let mut rows: Vec<String> = rows.map(|row| String::from_utf8_lossy(row).into_owned()).collect();
        rows.sort();
        rows
    };
    assert_eq!(live(&[]), ["ended by 23", "made"]);
    assert_eq!(live(&[22, 23]), ["made", "running"]);
    // Records that the page has already change nothing.
    apply(&mut heap, 20, 400, 0x10, &delete(file(FILE), 3)).unwrap();
    assert_eq!(
        commit(&mut heap, &[20]),
        [strings(&["dropped"]), strings(&[]), strings(&[])]
    );
    assert_eq!(
        commit(&mut heap, &[21]),
        [strings(&[]), strings(&["made"]), strings(&[])]
    );
    apply(&mut heap, 24, 600, 0x10, &delete(file(FILE), 3)).unwrap();
    assert_eq!(
        commit(&mut heap, &[22]),
        [strings(&[]), strings(&["running"]), strings(&[])]
    );
    assert_eq!(
        commit(&mut heap, &[24]),
        [strings(&["running"]), strings(&[]), strings(&[])]
    );
}

#[test]
fn an_image_puts_a_page_back_to_what_it_was() {
    let mut heap = heap();
    let newer = page(500, &[(2, 0, 0x0900, b"newer".to_vec())]);
    heap.load(0, &newer).unwrap();
    let older = page(
        300,
        &[(2, 20, 0x0100, b"older".to_vec()), (20, 0, 0x0800, b"now".to_vec())],
    );
    let bytes = image(file(FILE), 0, &older, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    let seen = apply(&mut heap, 20, 308, 0x20, &bytes).unwrap();
    assert!(matches!(&seen[..], [Seen::New(row)] if **row == *b"now"), "{seen:?}");
    assert_eq!(
        commit(&mut heap, &[20]),
        [strings(&["older"]), strings(&["now"]), strings(&[])]
    );
    apply(&mut heap, 21, 316, 0x40, &update(file(FILE), 2, 3, (2, b"T", 0))).unwrap();
    assert_eq!(
        commit(&mut heap, &[21]),
        [strings(&["now"]), strings(&["noT"]), strings(&[])]
    );
}

#[test]
fn what_cannot_be_known_is_said_and_not_guessed() {
    let mut heap = heap();
    let from_nothing = update(file(FILE), 7, 8, (2, b"x", 2));
    assert!(apply(&mut heap, 10, 100, 0x20, &from_nothing).is_err());
    let mut bad = page(300, &[(2, 0, 0, b"row".to_vec())]);
    bad[12] = 3;
    let bytes = image(file(FILE), 0, &bad, &[1, 0, 0]);
    assert!(apply(&mut heap, 10, 108, 0x00, &bytes).is_err());
    assert_eq!(commit(&mut heap, &[10]), [strings(&[]), strings(&[]), strings(&[])]);
}
