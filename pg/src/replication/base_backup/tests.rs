//! Tests of the whole answer: scripted bytes of a server, by the decoder or by a socket.

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::tar::tests::{END, cut, file, header, joined, some_archive};
use super::*;
use crate::identity::ServerVersion;
use crate::replication::frame::{Decoder, Message};
use crate::replication::wire::{Socket, Wire};

const OID: u32 = 16_385;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn row(columns: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        let length = column.map_or(u32::MAX, |text| text.len() as u32);
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(column.unwrap_or_default().as_bytes());
    }
    message(b'D', &body)
}

fn result_set(rows: &[&[Option<&str>]]) -> Vec<u8> {
    let rows = rows.iter().flat_map(|columns| row(columns));
    [message(b'T', b"\0\0"), rows.collect(), message(b'C', b"SELECT\0")].concat()
}

fn position(lsn: &str) -> Vec<u8> {
    result_set(&[&[Some(lsn), Some("1")]])
}

fn announcement() -> Vec<u8> {
    let tablespaces = result_set(&[
        &[Some("16385"), Some("/srv/fast"), Some("7")],
        &[None, None, Some("23")],
    ]);
    [position("0/2000028"), tablespaces].concat()
}

fn copy_out() -> Vec<u8> {
    message(b'H', b"\0\0\0")
}

fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

fn ending() -> Vec<u8> {
    [
        position("0/2000100"),
        message(b'C', b"BASE_BACKUP\0"),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn error_message(sqlstate: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{sqlstate}\0Mbad\0\0").as_bytes())
}

fn notice() -> Vec<u8> {
    message(b'N', b"SWARNING\0VWARNING\0C01000\0Mskipping special file\0\0")
}

fn plain_data(archive: &[u8], cuts: &[Index]) -> Vec<u8> {
    let pieces = cut(archive, cuts);
    pieces.into_iter().flat_map(|piece| message(b'd', piece)).collect()
}

fn typed_data(archive: &[u8], cuts: &[Index]) -> Vec<u8> {
    let progress = message(b'd', b"p\0\0\0\0\0\0\x10\0");
    let piece = |piece: &[u8]| [message(b'd', &[b"d", piece].concat()), progress.clone()].concat();
    cut(archive, cuts).into_iter().flat_map(piece).collect()
}

fn new_archive(name: &str) -> Vec<u8> {
    message(b'd', format!("n{name}\0/srv/fast\0").as_bytes())
}

/// A whole answer of 13 or 14.
fn old_answer(tablespace: &[u8], main: &[u8], cuts: &[Index]) -> Vec<u8> {
    [
        announcement(),
        copy_out(),
        plain_data(tablespace, cuts),
        copy_done(),
        copy_out(),
        plain_data(main, cuts),
        copy_done(),
        ending(),
    ]
    .concat()
}

/// A whole answer of 15 or later, with archives as they travel.
fn new_answer(tablespace: &[u8], main: &[u8], suffix: &str, cuts: &[Index]) -> Vec<u8> {
    [
        announcement(),
        copy_out(),
        new_archive(&format!("16385{suffix}")),
        typed_data(tablespace, cuts),
        new_archive(&format!("base{suffix}")),
        typed_data(main, cuts),
        copy_done(),
        ending(),
    ]
    .concat()
}

fn ended(archive: &[u8]) -> Vec<u8> {
    [archive, &END].concat()
}

fn zstd(archive: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(archive, 3).unwrap()
}

/// All events of an answer, or the first error.
fn run(answer: &[u8], major: u32, is_compressed: bool) -> Result<Vec<BaseBackupEvent>, ReplicationError> {
    let mut conversation = Conversation::new(ServerVersion(major * 10_000), is_compressed);
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(answer);
    let mut events = Vec::new();
    while let Some(message) = decoder.decode()? {
        conversation.take(message)?;
        while let Some(event) = conversation.event()? {
            events.push(event);
        }
    }
    if conversation.is_over() {
        Ok(joined(events))
    } else {
        Err(ReplicationError::Closed)
    }
}

fn main_archive() -> Vec<u8> {
    [
        file(b"backup_label", b"label"),
        header(b"pg_tblspc/", b'5', 0),
        file(b"global/pg_control", &[9; 8192]),
    ]
    .concat()
}

fn tablespace_archive() -> Vec<u8> {
    [header(b"PG_15/", b'5', 0), file(b"PG_15/5/1", &[3; 70_000])].concat()
}

#[test]
fn both_protocols_give_the_same_events() {
    let (tablespace, main) = (tablespace_archive(), main_archive());
    let old = run(&old_answer(&tablespace, &main, &[]), 13, false).unwrap();
    let (tablespace, main) = (ended(&tablespace), ended(&main));
    let new = run(&new_answer(&tablespace, &main, ".tar", &[]), 15, false).unwrap();
    let compressed = new_answer(&zstd(&tablespace), &zstd(&main), ".tar.zst", &[]);
    assert_eq!(old, new);
    assert_eq!(old, run(&compressed, 18, true).unwrap());
    let order: Vec<String> = old
        .iter()
        .map(|event| match event {
            BaseBackupEvent::ArchiveStarted { tablespace } => format!("archive {tablespace:?}"),
            BaseBackupEvent::Entry(entry) => String::from_utf8(entry.path.clone()).unwrap(),
            BaseBackupEvent::Data(data) => data.len().to_string(),
            BaseBackupEvent::FileEnded => "file ended".to_owned(),
            BaseBackupEvent::ArchiveEnded => "archive ended".to_owned(),
            BaseBackupEvent::Ended { lsn, timeline } => format!("{lsn} {timeline}"),
            BaseBackupEvent::Notice(notice) => notice.message.clone(),
        })
        .collect();
    let expected = [
        "archive Some(16385)",
        "PG_15",
        "PG_15/5/1",
        "70000",
        "file ended",
        "archive ended",
        "archive None",
        "backup_label",
        "5",
        "file ended",
        "pg_tblspc",
        "global/pg_control",
        "8192",
        "file ended",
        "archive ended",
        "0/2000100 1",
    ];
    assert_eq!(order, expected);
}

proptest! {
    #[test]
    fn any_split_into_messages_gives_the_same_events(
        tablespace in some_archive(),
        main in some_archive(),
        cuts in proptest::collection::vec(any::<Index>(), 0..12),
    ) {
        let whole = run(&old_answer(&tablespace, &main, &[]), 14, false).unwrap();
        prop_assert_eq!(&run(&old_answer(&tablespace, &main, &cuts), 14, false).unwrap(), &whole);
        let (tablespace, main) = (ended(&tablespace), ended(&main));
        let answer = new_answer(&tablespace, &main, ".tar", &cuts);
        prop_assert_eq!(&run(&answer, 15, false).unwrap(), &whole);
        let answer = new_answer(&zstd(&tablespace), &zstd(&main), ".tar.zst", &cuts);
        prop_assert_eq!(&run(&answer, 16, true).unwrap(), &whole);
    }

    #[test]
    fn any_damage_to_an_answer_gives_an_end_or_an_error(
        main in some_archive(),
        is_compressed in any::<bool>(),
        at in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let (tablespace, main) = (ended(b""), ended(&main));
        let mut answer = if is_compressed {
            new_answer(&zstd(&tablespace), &zstd(&main), ".tar.zst", &[])
        } else {
            new_answer(&tablespace, &main, ".tar", &[])
        };
        let at = at.index(answer.len());
        answer[at] = byte;
        let _ = run(&answer, 17, is_compressed);
    }
}

#[test]
fn an_answer_cut_anywhere_has_no_end() {
    let main = [header(b"base/", b'5', 0), file(b"f", b"x")].concat();
    let old = old_answer(b"", &main, &[]);
    for end in 0..old.len() {
        assert!(run(&old[..end], 13, false).is_err(), "{end}");
    }
    assert!(run(&old, 13, false).is_ok());
    let new = new_answer(&zstd(&ended(b"")), &zstd(&ended(&main)), ".tar.zst", &[]);
    for end in 0..new.len() {
        assert!(run(&new[..end], 15, true).is_err(), "{end}");
    }
    assert!(run(&new, 15, true).is_ok());
}

#[test]
fn an_archive_that_ends_early_is_never_a_short_file() {
    let (tablespace, main) = (tablespace_archive(), main_archive());
    let is_early = |answer: Vec<u8>, major, is_compressed, which: &str| {
        let error = run(&answer, major, is_compressed).unwrap_err();
        assert_eq!(error.to_string(), format!("base backup of the {which} is damaged"));
        let ReplicationError::Archive { source, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(source, ArchiveError::Truncated);
    };
    let short = &tablespace[..tablespace.len() - 1024];
    is_early(old_answer(short, &main, &[]), 13, false, "tablespace 16385");
    is_early(
        old_answer(&tablespace, &main[..main.len() - 1], &[]),
        14,
        false,
        "data directory",
    );
    // Behind a whole entry, but without the blocks of zeros.
    let answer = new_answer(&tablespace, &ended(&main), ".tar", &[]);
    is_early(answer, 15, false, "tablespace 16385");
    let answer = new_answer(&ended(&tablespace), &main, ".tar", &[]);
    is_early(answer, 15, false, "data directory");
    // A whole tar in a frame that is not whole, and no frame at all.
    let (tablespace, main) = (zstd(&ended(&tablespace)), zstd(&ended(&main)));
    let answer = new_answer(&tablespace, &main[..main.len() - 1], ".tar.zst", &[]);
    is_early(answer, 17, true, "data directory");
    is_early(new_answer(b"", &main, ".tar.zst", &[]), 17, true, "tablespace 16385");
}

#[test]
fn compressed_bytes_may_grow_without_end_but_not_the_window() {
    let zeros = vec![0; 4 << 20];
    let main = ended(&file(b"zeros", &zeros));
    let events = run(&new_answer(&zstd(&ended(b"")), &zstd(&main), ".tar.zst", &[]), 18, true);
    let length: usize = events
        .unwrap()
        .iter()
        .map(|event| match event {
            BaseBackupEvent::Data(data) => data.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(length, zeros.len());
    // RFC 8878: magic, a descriptor without any field but the window's, a window of 16 MiB, and an
    // empty last block.
    let frame = b"\x28\xB5\x2F\xFD\x00\x70\x01\x00\x00";
    let error = run(&new_answer(frame, frame, ".tar.zst", &[]), 18, true).unwrap_err();
    let ReplicationError::Archive { source, .. } = error else {
        panic!("{error:?}");
    };
    assert!(source.to_string().contains("memory"), "{source}");
    let noise = run(&new_answer(b"no frame", b"", ".tar.zst", &[]), 18, true);
    assert!(matches!(noise, Err(ReplicationError::Archive { .. })), "{noise:?}");
}

fn refused(answer: &[&[u8]], major: u32) -> String {
    let error = run(&answer.concat(), major, false).unwrap_err();
    assert!(matches!(error, ReplicationError::Protocol { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn what_does_not_belong_is_refused() {
    let base = [new_archive("base.tar"), typed_data(&END, &[])].concat();
    let space = [new_archive("16385.tar"), typed_data(&END, &[])].concat();
    let start = [announcement(), copy_out()].concat();
    let done = [copy_done(), ending()].concat();
    assert!(run(&[&start[..], &space, &base, &done].concat(), 15, false).is_ok());
    // The order does not matter, the number does.
    assert!(run(&[&start[..], &base, &space, &done].concat(), 15, false).is_ok());
    for (archives, what) in [
        (base.clone(), "not all archives"),
        (Vec::new(), "not all archives"),
        ([&base[..], &base].concat(), "not announced"),
        (new_archive("16386.tar"), "not announced"),
        (new_archive("base.tar.zst"), "not announced"),
        (new_archive("../base.tar"), "not announced"),
        (typed_data(&END, &[]), "outside of an archive"),
        (message(b'd', b"m"), "manifest"),
        (message(b'd', b"x"), "copy data 'x'"),
        (message(b'd', b""), "empty copy data"),
        (copy_out(), "copy out response"),
        (row(&[]), "data row"),
    ] {
        let text = refused(&[&start, &archives, &done], 15);
        assert!(text.contains(what), "{text}");
    }
    // One copy too few, or too many, for a server that makes one for each.
    let one = [copy_out(), copy_done()].concat();
    refused(&[&announcement(), &one, &ending()], 13);
    refused(&[&announcement(), &one, &one, &one], 13);
    assert!(run(&[announcement(), one.clone(), one, ending()].concat(), 13, false).is_ok());
}

#[test]
fn result_sets_that_are_not_what_they_should_be_are_refused() {
    let first = position("0/2000028");
    for bad in [
        result_set(&[]),
        result_set(&[&[Some("0/2000028"), Some("0")]]),
        result_set(&[&[Some("here"), Some("1")]]),
        result_set(&[&[None, None]]),
        result_set(&[&[Some("0/1"), Some("1")], &[Some("0/1"), Some("1")]]),
        copy_out(),
        message(b'Z', b"I"),
    ] {
        refused(&[&bad, &copy_out()], 15);
    }
    let long = "x".repeat(1025);
    let main: &[Option<&str>] = &[None, None, None];
    for rows in [
        &[][..],
        &[&[Some("16385"), Some("/srv"), None][..]],
        &[main, main],
        &[main, &[Some("1"), Some("/a"), None], &[Some("1"), Some("/b"), None]],
        &[main, &[Some("0"), Some("/a"), None]],
        &[main, &[Some("4294967296"), Some("/a"), None]],
        &[main, &[Some("-1"), Some("/a"), None]],
        &[main, &[Some("1"), None, None]],
        &[main, &[Some("1"), Some(&long), None]],
        &[&[None, Some("/a"), None]],
        &[&[None, None, Some("-1")]],
    ] {
        refused(&[&first, &result_set(rows), &copy_out()], 15);
    }
    let end = [copy_out(), copy_done(), message(b'C', b"SELECT\0"), message(b'Z', b"I")].concat();
    refused(&[&first, &result_set(&[main]), &end], 13);
}

#[test]
fn errors_and_notices_come_out_in_the_middle() {
    let archive = ended(&file(b"f", &[1; 3000]));
    let begun = [
        announcement(),
        copy_out(),
        new_archive("16385.tar"),
        message(b'd', &[b"d", &archive[..700]].concat()),
    ]
    .concat();
    let rest = [
        message(b'd', &[b"d", &archive[700..]].concat()),
        new_archive("base.tar"),
        typed_data(&END, &[]),
        copy_done(),
        ending(),
    ]
    .concat();
    let error = run(
        &[begun.clone(), error_message("57P01"), rest.clone()].concat(),
        16,
        false,
    );
    let error = error.unwrap_err();
    assert_eq!(error.sqlstate(), Some("57P01"));
    assert!(error.is_transient());
    let events = run(&[begun, notice(), rest].concat(), 16, false).unwrap();
    let said = events.iter().position(
        |event| matches!(event, BaseBackupEvent::Notice(notice) if notice.message == "skipping special file"),
    );
    assert_eq!(said, Some(3));
    // Behind the last result set too: the server has not finished before it is ready.
    let late = new_answer(&END, &END, ".tar", &[]);
    let late = [&late[..late.len() - 6], &error_message("XX001")].concat();
    assert_eq!(run(&late, 15, false).unwrap_err().sqlstate(), Some("XX001"));
}

/// A session with a server that sends `answer` and closes.
async fn scripted(answer: Vec<u8>, major: u32) -> ReplicationSession {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let _ = theirs.write_all(&answer).await;
        let _ = theirs.shutdown().await;
        // Until we leave, so that the command is never sent into nothing.
        let mut command = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut command).await;
    });
    ReplicationSession {
        wire: Wire::new(Socket::Unix(ours)),
        server_version: ServerVersion(major * 10_000),
        command_timeout: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn a_scripted_server_gives_a_start_events_and_the_session_back() {
    let answer = new_answer(&ended(&tablespace_archive()), &ended(&main_archive()), ".tar", &[]);
    let expected = run(&answer, 15, false).unwrap();
    let session = scripted(answer, 15).await;
    let mut backup = session.start_base_backup(&BaseBackupOptions::new("x")).await.unwrap();
    let start = BaseBackupStart {
        lsn: Lsn::new(0x200_0028),
        timeline: TimelineId::FIRST,
        tablespaces: vec![Tablespace {
            oid: OID,
            location: b"/srv/fast".to_vec(),
            size_kib: Some(7),
        }],
        data_directory_size_kib: Some(23),
    };
    assert_eq!(backup.start(), &start);
    let mut events = Vec::new();
    // Each wait is given up at the first chance, to show that none loses an event.
    loop {
        let event = tokio::select! {
            biased;
            event = backup.next() => event.unwrap(),
            () = tokio::task::yield_now() => continue,
        };
        match event {
            Some(event) => events.push(event),
            None => break,
        }
    }
    assert_eq!(joined(events), expected);
    assert_eq!(backup.next().await.unwrap(), None);
    assert!(backup.into_session().is_some());
}

#[tokio::test]
async fn a_lost_connection_is_an_error_from_then_on() {
    let answer = new_answer(&ended(&tablespace_archive()), &ended(&main_archive()), ".tar", &[]);
    // In the middle of a message, and between two.
    let complete = announcement().len() + copy_out().len() + new_archive("16385.tar").len();
    for end in [complete + 400, complete] {
        let session = scripted(answer[..end].to_vec(), 15).await;
        let mut backup = session.start_base_backup(&BaseBackupOptions::new("x")).await.unwrap();
        let error = loop {
            match backup.next().await {
                Ok(event) => assert!(event.is_some()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReplicationError::Closed), "{error:?}");
        assert!(backup.next().await.is_err());
        assert!(backup.into_session().is_none());
    }
    let session = scripted(announcement(), 15).await;
    let error = session
        .start_base_backup(&BaseBackupOptions::new("x"))
        .await
        .unwrap_err();
    assert!(matches!(error, ReplicationError::Closed), "{error:?}");
    let session = scripted(error_message("22023"), 15).await;
    let error = session
        .start_base_backup(&BaseBackupOptions::new("x"))
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate(), Some("22023"));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let session = |socket| ReplicationSession {
        wire: Wire::new(Socket::Unix(socket)),
        server_version: ServerVersion(150_000),
        command_timeout: Duration::from_secs(5),
    };
    let mut options = BaseBackupOptions::new("x");
    options.silence_timeout = Duration::from_millis(20);
    theirs
        .write_all(&[announcement(), copy_out(), new_archive("base.tar")].concat())
        .await
        .unwrap();
    let mut backup = session(ours).start_base_backup(&options).await.unwrap();
    let started = BaseBackupEvent::ArchiveStarted { tablespace: None };
    assert_eq!(backup.next().await.unwrap(), Some(started));
    let error = backup.next().await.unwrap_err();
    assert!(matches!(error, ReplicationError::Timeout { .. }), "{error:?}");
    let (ours, _theirs) = UnixStream::pair().unwrap();
    options.start_timeout = Duration::from_millis(20);
    let error = session(ours).start_base_backup(&options).await.unwrap_err();
    assert_eq!(error.to_string(), "timeout after 20 ms: start of a base backup");
}

#[test]
fn a_message_of_the_copy_is_not_a_row() {
    let mut conversation = Conversation::new(ServerVersion(150_000), false);
    let error = conversation
        .take(Message::CopyData(Bytes::from_static(b"d")))
        .unwrap_err();
    assert_eq!(error.to_string(), "unexpected answer from the server: copy data");
}
