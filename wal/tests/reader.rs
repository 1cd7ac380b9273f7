//! The WAL reader against PostgreSQL 15: every record that `pg_waldump` names, and nothing else.
//!
//! Needs the server's binaries: `SEAWALL_PG15_BIN`, or Debian's place for them.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test fails like the test"
)]

#[path = "reader/server.rs"]
mod server;
#[path = "reader/waldump.rs"]
mod waldump;

use pg::identity::{SystemIdentifier, wal_page_magic};
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use server::Server;
use wal::commit::{RestorePoint, XactEvent, XactKind};
use wal::reader::{WalItem, WalReader, WalReaderConfig};
use wal::record::RecordInfo;
use waldump::Line;

const SEGMENT_BYTES: u64 = 1 << 20;

#[derive(Default)]
struct Found {
    records: Vec<RecordInfo>,
    xacts: Vec<XactEvent>,
    restore_points: Vec<RestorePoint>,
    switches: usize,
    lost: Vec<Lsn>,
}

impl Found {
    fn take(&mut self, item: WalItem) {
        match item {
            WalItem::Record(record) => self.records.push(record),
            WalItem::Xact(event) => self.xacts.push(event),
            WalItem::RestorePoint(point) => self.restore_points.push(point),
            WalItem::Switch { .. } => self.switches += 1,
            WalItem::Overwritten { lost, .. } => self.lost.push(lost),
        }
    }
}

fn segment_of(lsn: u64) -> u64 {
    lsn - lsn % SEGMENT_BYTES
}

/// Reads the server's files from `start`, the start of a segment, to `end`, in pieces of `piece` bytes.
fn read(server: &Server, timeline: u32, start: u64, end: u64, piece: usize) -> Found {
    let mut reader = WalReader::new(WalReaderConfig {
        magic: wal_page_magic(15).expect("15 is known"),
        system_identifier: SystemIdentifier::new(server.system_identifier()),
        segment_size: SegmentSize::new(SEGMENT_BYTES).expect("a valid size"),
        timeline: TimelineId::new(timeline).expect("not zero"),
        start: Lsn::new(start),
    })
    .expect("a page boundary");
    let mut found = Found::default();
    for segment in (start..end).step_by(SEGMENT_BYTES as usize) {
        let mut bytes = server.segment(timeline, segment / SEGMENT_BYTES);
        bytes.truncate((end - segment).min(SEGMENT_BYTES) as usize);
        for piece in bytes.chunks(piece) {
            reader
                .push(reader.position(), piece, &mut |item| found.take(item))
                .expect("sound WAL");
        }
    }
    assert_eq!(reader.position(), Lsn::new(end));
    assert_eq!(reader.last_complete_record(), found.records.last().copied());
    found
}

/// Holds everything that was found against what `pg_waldump` says about the same bytes.
fn compare(server: &Server, timeline: u32, start: u64, end: u64) -> Found {
    let found = read(server, timeline, start, end, 100_003);
    let lines = waldump::lines(server, timeline, start, end);
    let ours: Vec<Line> = found.records.iter().map(Line::of).collect();
    for (line, ours) in lines.iter().zip(&ours) {
        assert_eq!(line, ours);
    }
    assert_eq!(lines.len(), ours.len(), "last of pg_waldump: {:?}", lines.last());
    let xacts: Vec<_> = lines.iter().filter_map(Line::xact).collect();
    let ours: Vec<_> = found
        .xacts
        .iter()
        .map(|x| (x.lsn_start.as_u64(), x.kind, x.xid, x.time))
        .collect();
    assert_eq!(ours, xacts);
    found
}

#[test]
fn every_record_of_a_busy_server_is_found_as_pg_waldump_finds_it() {
    let server = Server::start("busy");
    let start = segment_of(server.flush_lsn());
    server.pgbench();
    server.sql(include_str!("reader/load.sql"));
    server.pgbench();
    let end = server.flush_lsn();
    server.stop("immediate");

    let found = compare(&server, 1, start, end);
    let count = |kind: XactKind| found.xacts.iter().filter(|event| event.kind == kind).count();
    assert!(count(XactKind::Commit) > 500, "{}", count(XactKind::Commit));
    assert_eq!(
        (
            count(XactKind::Prepare),
            count(XactKind::CommitPrepared),
            count(XactKind::AbortPrepared)
        ),
        (4, 3, 1)
    );
    assert!(count(XactKind::Abort) >= 2);
    assert_eq!(found.switches, 3);
    let names: Vec<_> = found
        .restore_points
        .iter()
        .map(|point| point.name_lossy().into_owned())
        .collect();
    assert_eq!(names, ["before", "after the big one"]);
    assert!(found.restore_points[0].time < found.restore_points[1].time);
    assert!(
        found.records.iter().any(|record| record.len > 32 << 20),
        "the big message"
    );
    // A prepared transaction keeps its id, also where 3,000 subtransactions stand before it in the record.
    let prepared = |kind: XactKind| -> Vec<u32> {
        let mut ids: Vec<u32> = found
            .xacts
            .iter()
            .filter(|event| event.kind == kind)
            .map(|event| event.xid)
            .collect();
        ids.sort_unstable();
        ids
    };
    let ended = [prepared(XactKind::CommitPrepared), prepared(XactKind::AbortPrepared)].concat();
    assert!(ended.iter().all(|xid| prepared(XactKind::Prepare).contains(xid)));

    let other = read(&server, 1, start, end, 8_191);
    assert_eq!((other.records, other.xacts), (found.records, found.xacts));
}

#[test]
fn a_record_lost_in_a_crash_and_a_new_timeline_are_followed() {
    let server = Server::start("crash");
    let start = segment_of(server.flush_lsn());
    server.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1); SELECT pg_switch_wal();");
    let before = server.flush_lsn();
    server.sql("SELECT pg_logical_emit_message(false, '', repeat('x', 2500000)); INSERT INTO t VALUES (2);");
    let after = server.flush_lsn();
    server.stop("immediate");
    server.remove_segments_from(1, after / SEGMENT_BYTES);
    server.restart();
    server.sql("INSERT INTO t SELECT generate_series(1, 1000);");
    let end = server.flush_lsn();
    let found = compare(&server, 1, start, end);
    let lost: Vec<u64> = found.lost.iter().map(|lsn| lsn.as_u64()).collect();
    assert_eq!(lost.len(), 1);
    assert!(before <= lost[0] && lost[0] < after);

    server.stop("fast");
    server.promote_on_start();
    server.restart();
    server.wait_for_promotion();
    server.sql("INSERT INTO t SELECT generate_series(1, 10000);");
    let end = server.flush_lsn();
    let start = server.first_segment_of(2) * SEGMENT_BYTES;
    let found = compare(&server, 2, start, end);
    assert!(found.xacts.iter().any(|event| event.kind == XactKind::Commit));
}
