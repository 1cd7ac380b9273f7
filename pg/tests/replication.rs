//! The replication connection and the file parsers against a real PostgreSQL 15, base backups against
//! other versions too.

// A test may stop at the first surprise, also in its helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authentication;
mod base_backup;
mod cluster;
mod files;

use std::time::Duration;

use cluster::Cluster;
use pg::lsn::Lsn;
use pg::replication::{
    ReplicationError, ReplicationSession, SlotCreation, SlotName, StandbyStatus, StreamEvent, WalStream,
};
use pg::segment::SegmentSize;
use pg::standby_names::StandbyNames;
use pg::timeline::{TimelineHistory, TimelineId};

const LIMIT: Duration = Duration::from_secs(20);

async fn next(stream: &mut WalStream) -> StreamEvent {
    tokio::time::timeout(LIMIT, stream.next())
        .await
        .expect("an event in time")
        .unwrap()
}

async fn session(cluster: &Cluster) -> ReplicationSession {
    ReplicationSession::connect(&cluster.by_socket()).await.unwrap()
}

fn confirm(lsn: Lsn) -> StandbyStatus {
    StandbyStatus {
        write: lsn,
        flush: lsn,
        apply: Lsn::ZERO,
        reply_requested: false,
    }
}

#[tokio::test]
async fn a_session_answers_questions_and_survives_server_errors() {
    let cluster = Cluster::start();
    let mut session = session(&cluster).await;
    assert_eq!(session.server_version().major(), 15);
    let identity = session.identify_system().await.unwrap();
    let expected = cluster.sql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(identity.system_identifier.to_string(), expected);
    assert_eq!(identity.timeline, TimelineId::FIRST);
    assert!(identity.flush_lsn.is_valid());
    assert_eq!(session.show("wal_level").await.unwrap(), "replica");
    assert_eq!(session.segment_size().await.unwrap(), SegmentSize::DEFAULT);
    assert!(session.show("no \"such\" setting").await.is_err());

    let slot = SlotName::new("timeline").unwrap();
    assert_eq!(session.read_replication_slot(&slot).await.unwrap(), None);
    assert!(session.drop_slot(&slot).await.unwrap_err().is_slot_missing());
    assert_eq!(
        session.create_physical_slot(&slot).await.unwrap(),
        SlotCreation::Created
    );
    assert_eq!(session.create_physical_slot(&slot).await.unwrap(), SlotCreation::Exists);
    let state = session.read_replication_slot(&slot).await.unwrap().unwrap();
    assert!(state.restart_lsn.is_some_and(Lsn::is_valid));
    assert_eq!(state.restart_timeline, Some(TimelineId::FIRST));
    session.drop_slot(&slot).await.unwrap();
    assert_eq!(session.read_replication_slot(&slot).await.unwrap(), None);

    let missing = session.timeline_history(TimelineId::new(9).unwrap()).await.unwrap_err();
    assert_eq!(missing.sqlstate(), Some("58P01"));
    assert!(session.identify_system().await.is_ok());
    session.close().await.unwrap();
}

/// The error of a stream that cannot start at this LSN.
async fn first_error(session: ReplicationSession, from: Lsn) -> ReplicationError {
    let mut stream = match session.start_physical(None, from, TimelineId::FIRST).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap() {
            Ok(StreamEvent::Keepalive { .. }) => {}
            other => break other.unwrap_err(),
        }
    }
}

#[tokio::test]
async fn impossible_starts_are_told_apart() {
    let cluster = Cluster::start();
    let slot = SlotName::new("seawall").unwrap();
    let mut first = session(&cluster).await;
    let here = first.identify_system().await.unwrap().flush_lsn;
    let timeline = TimelineId::FIRST;

    let ahead = here.saturating_add(1 << 30);
    let error = first_error(session(&cluster).await, ahead).await;
    assert!(error.is_ahead_of_server() && !error.is_not_in_history(), "{error}");
    let error = first_error(session(&cluster).await, Lsn::new(8192)).await;
    assert!(error.is_wal_removed(), "{error}");
    let foreign = TimelineId::new(7).unwrap();
    let error = session(&cluster)
        .await
        .start_physical(None, here, foreign)
        .await
        .unwrap_err();
    assert!(error.is_not_in_history(), "{error}");
    let error = session(&cluster)
        .await
        .start_physical(Some(&slot), here, timeline)
        .await;
    assert!(error.unwrap_err().is_slot_missing());

    first.create_physical_slot(&slot).await.unwrap();
    let _stream = first.start_physical(Some(&slot), here, timeline).await.unwrap();
    let error = session(&cluster)
        .await
        .start_physical(Some(&slot), here, timeline)
        .await;
    let error = error.unwrap_err();
    assert!(error.is_slot_in_use() && error.is_transient(), "{error}");
}

/// Receives up to `target`; each wait is given up at the first chance, to show that none loses a
/// byte.
async fn receive(stream: &mut WalStream, from: Lsn, target: Lsn) -> Vec<u8> {
    let mut received = Vec::new();
    while from.saturating_add(received.len() as u64) < target {
        let event = tokio::select! {
            biased;
            event = stream.next() => event.unwrap(),
            () = tokio::task::yield_now() => continue,
        };
        match event {
            StreamEvent::Wal {
                start,
                data,
                server_end,
            } => {
                let end = from.saturating_add(received.len() as u64);
                assert_eq!(start, end, "WAL is contiguous");
                received.extend_from_slice(&data);
                assert!(server_end >= from.saturating_add(received.len() as u64));
            }
            StreamEvent::Keepalive { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    received
}

#[tokio::test]
async fn streamed_wal_is_pg_wal_and_feedback_moves_the_slot() {
    let mut cluster = Cluster::start();
    let slot = SlotName::new("seawall").unwrap();
    let mut session = session(&cluster).await;
    session.create_physical_slot(&slot).await.unwrap();
    let here = session.identify_system().await.unwrap().flush_lsn;
    let from = SegmentSize::DEFAULT.start_containing(here);
    let timeline = TimelineId::FIRST;
    let mut stream = session.start_physical(Some(&slot), from, timeline).await.unwrap();

    cluster.sql("CREATE TABLE t AS SELECT g, repeat('x', 200) FROM generate_series(1, 100000) g");
    cluster.sql("SELECT pg_switch_wal()");
    cluster.sql("INSERT INTO t SELECT 1, 'after the switch'");
    let target: Lsn = cluster.sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap();
    let received = receive(&mut stream, from, target).await;
    let end = from.saturating_add(received.len() as u64);
    assert!(received.len() as u64 > SegmentSize::DEFAULT.bytes());
    files::same_as_pg_wal(&cluster, from, &received);

    // A keepalive is answered for the asking, and the end of the stream comes after the status.
    stream
        .send_status(StandbyStatus {
            reply_requested: true,
            ..confirm(end)
        })
        .await
        .unwrap();
    let last = loop {
        match next(&mut stream).await {
            StreamEvent::Keepalive { server_end, .. } => break server_end,
            other => assert!(matches!(other, StreamEvent::Wal { .. }), "{other:?}"),
        }
    };
    assert!(last >= target);
    let mut session = stream.finish().await.unwrap();
    let state = session.read_replication_slot(&slot).await.unwrap().unwrap();
    assert_eq!(state.restart_lsn, Some(end));

    // A server that stops sends everything, waits for the confirmation, and leaves.
    let mut stream = session.start_physical(Some(&slot), end, timeline).await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || {
        cluster.stop();
        cluster
    });
    let mut end = end;
    loop {
        match next(&mut stream).await {
            StreamEvent::Wal { start, data, .. } => {
                end = start.saturating_add(data.len() as u64);
                stream.send_status(confirm(end)).await.unwrap();
            }
            StreamEvent::Keepalive { .. } => stream.send_status(confirm(end)).await.unwrap(),
            StreamEvent::ServerClosed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next(&mut stream).await, StreamEvent::ServerClosed);
    let cluster = stopping.await.unwrap();
    files::control_file_says_what_pg_controldata_says(&cluster);
    files::every_page_has_its_checksum(&cluster);
}

#[test]
fn the_server_reads_synchronous_standby_names_as_we_do() {
    let cluster = Cluster::start();
    let set = |text: &str| {
        let value = text.replace('\'', "''");
        cluster.accepts(&format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'"))
    };
    let (mut good, mut bad) = (0, 0);
    for text in [
        "",
        " ",
        "a",
        "*",
        "\"*\"",
        "a, b",
        "a,",
        ",a",
        "a b",
        "1",
        "1, 2",
        "1a",
        "a1$",
        "a-b",
        "_a",
        "$a",
        "any",
        "\"any\"",
        "anyone",
        "FIRST",
        "first, a",
        "ANY 1 (a)",
        "any 1(a,*)",
        "ANY (a)",
        "ANY 1 a",
        "ANY 1 ()",
        "2 (a, b)",
        "2(1, 2)",
        "2 (a) b",
        "0 (a)",
        "00 (a)",
        "007 (a)",
        "FIRST 2147483647 (a)",
        "FIRST 2147483648 (a)",
        "(a)",
        "a;",
        "'a'",
        "\"",
        "\"a",
        "\"a\"\"b\"",
        "\"\"",
        "\"(,)\", \"x y\"",
        "größe, \"Ä\"",
        "a ,\tb\u{C}\r",
        "a\u{A0}b",
        "ANY 1 (a,)",
    ] {
        let ours = text.parse::<StandbyNames>();
        assert_eq!(set(text), ours.is_ok(), "{text:?}: {ours:?}");
        match ours {
            Ok(names) => {
                good += 1;
                assert!(set(&names.to_string()), "{names}");
                if let Some(rest) = names.without("a") {
                    assert!(set(&rest), "{rest}");
                }
            }
            Err(_) => bad += 1,
        }
    }
    assert!(good > 20 && bad > 15, "{good} {bad}");
}

#[tokio::test]
async fn the_end_of_a_timeline_leads_to_the_next() {
    let primary = Cluster::start();
    let standby = primary.standby();
    standby.promote();
    let size = SegmentSize::DEFAULT;
    let (one, two) = (TimelineId::FIRST, TimelineId::new(2).unwrap());

    let mut session = session(&standby).await;
    assert_eq!(session.identify_system().await.unwrap().timeline, two);
    let (name, content) = session.timeline_history(two).await.unwrap();
    assert_eq!(name, "00000002.history");
    let history = TimelineHistory::parse(two, &content).unwrap();
    let switch = history.switch_point_after(one).unwrap();

    let from = size.start_containing(switch);
    let mut stream = session.start_physical(None, from, one).await.unwrap();
    let mut end = from;
    let ended = loop {
        match next(&mut stream).await {
            StreamEvent::Wal { start, data, .. } => {
                assert_eq!(start, end);
                end = start.saturating_add(data.len() as u64);
            }
            StreamEvent::Keepalive { .. } => {}
            other => break other,
        }
    };
    let expected = StreamEvent::TimelineEnded {
        next_timeline: two,
        switch_point: switch,
    };
    assert_eq!((ended, end), (expected.clone(), switch));
    assert_eq!(next(&mut stream).await, expected);
    stream.send_status(confirm(end)).await.unwrap();

    // Exactly at the end there is nothing to copy.
    let session = stream.finish().await.unwrap();
    let mut stream = session.start_physical(None, switch, one).await.unwrap();
    assert_eq!(next(&mut stream).await, expected);
    let session = stream.finish().await.unwrap();

    let mut stream = session.start_physical(None, switch, two).await.unwrap();
    assert!(matches!(next(&mut stream).await, StreamEvent::Wal { start, .. } if start == switch));
    let session = stream.finish().await.unwrap();
    let beyond = switch.saturating_add(size.bytes());
    let error = session.start_physical(None, beyond, one).await.unwrap_err();
    assert!(error.is_not_in_history(), "{error}");
}
