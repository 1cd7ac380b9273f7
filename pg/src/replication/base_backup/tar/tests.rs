//! Tests of the tar reader: headers as a server writes them, lies, and any split of the input.

use proptest::prelude::*;

use super::*;

const MTIME_S: i64 = 1_700_000_000;

/// A number as src/port/tar.c writes it.
fn put_number(field: &mut [u8], mut number: u64) {
    field.fill(0);
    let (last, digits) = field.split_last_mut().unwrap();
    if number < 1 << (digits.len() * 3) {
        *last = b' ';
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number & 7) as u8;
            number >>= 3;
        }
    } else {
        for (place, byte) in field.iter_mut().rev().zip(number.to_le_bytes()) {
            *place = byte;
        }
        field[0] = 0x80;
    }
}

fn sealed(mut block: Block) -> Vec<u8> {
    let sum = header::checksum(&block);
    put_number(&mut block[148..156], sum);
    block.to_vec()
}

fn unsealed(name: &[u8], type_flag: u8, size: u64) -> Block {
    let mut block = [0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name);
    put_number(&mut block[100..108], 0o600);
    put_number(&mut block[124..136], size);
    put_number(&mut block[136..148], MTIME_S as u64);
    block[156] = type_flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[265..273].copy_from_slice(b"postgres");
    block
}

/// A header.
pub(in super::super) fn header(name: &[u8], type_flag: u8, size: u64) -> Vec<u8> {
    sealed(unsealed(name, type_flag, size))
}

/// A file with its header and padding.
pub(in super::super) fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, b'0', content.len() as u64);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

/// The end of an archive of 15 and later.
pub(in super::super) const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Pieces of data joined, so that the outcome does not depend on the split of the input.
pub(in super::super) fn joined(events: Vec<BaseBackupEvent>) -> Vec<BaseBackupEvent> {
    let mut all: Vec<BaseBackupEvent> = Vec::new();
    for event in events {
        match (all.last_mut(), event) {
            (Some(BaseBackupEvent::Data(before)), BaseBackupEvent::Data(more)) => {
                *before = [before.as_ref(), &more].concat().into();
            }
            (_, event) => all.push(event),
        }
    }
    all
}

fn read_pieces(pieces: &[&[u8]], ends_with_blocks: bool) -> Result<Vec<BaseBackupEvent>, ArchiveError> {
    let mut reader = TarReader::new(ends_with_blocks);
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(event) = reader.read(&mut input)? {
            events.push(event);
        }
        assert!(input.is_empty());
    }
    reader.finish()?;
    Ok(joined(events))
}

fn read(bytes: &[u8]) -> Result<Vec<BaseBackupEvent>, ArchiveError> {
    read_pieces(&[bytes], false)
}

fn entry(path: &[u8], kind: EntryKind) -> BaseBackupEvent {
    BaseBackupEvent::Entry(ArchiveEntry {
        path: path.to_vec(),
        kind,
        mode: 0o600,
        mtime_s: MTIME_S,
    })
}

fn first_entry(block: Block) -> Result<ArchiveEntry, ArchiveError> {
    let mut input = Bytes::from(sealed(block));
    match TarReader::new(false).read(&mut input)? {
        Some(BaseBackupEvent::Entry(entry)) => Ok(entry),
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_come_out_as_a_server_writes_them() {
    let mut link = unsealed(b"pg_tblspc/16385/", b'2', 0);
    link[157..167].copy_from_slice(b"/srv/a b\xFFc");
    let archive = [
        file(b"backup_label", b"START WAL"),
        file(b"empty", b""),
        header(b"base/", b'5', 0),
        header(b"./pg_wal/archive_status/", b'5', 0),
        sealed(link),
        file(b"base/1/PG_VERSION", &[7; 512]),
    ]
    .concat();
    let target = b"/srv/a b\xFFc".to_vec();
    let expected = [
        entry(b"backup_label", EntryKind::File { size: 9 }),
        BaseBackupEvent::Data(Bytes::from_static(b"START WAL")),
        BaseBackupEvent::FileEnded,
        entry(b"empty", EntryKind::File { size: 0 }),
        BaseBackupEvent::FileEnded,
        entry(b"base", EntryKind::Directory),
        entry(b"pg_wal/archive_status", EntryKind::Directory),
        entry(b"pg_tblspc/16385", EntryKind::Symlink { target }),
        entry(b"base/1/PG_VERSION", EntryKind::File { size: 512 }),
        BaseBackupEvent::Data(Bytes::from_static(&[7; 512])),
        BaseBackupEvent::FileEnded,
    ];
    assert_eq!(read(&archive).unwrap(), expected);
    let with_end = [archive, END.to_vec()].concat();
    assert_eq!(read_pieces(&[&with_end], true).unwrap(), expected);
    // A tablespace that was dropped meanwhile has an empty archive.
    assert_eq!(read(b""), Ok(Vec::new()));
    assert_eq!(read_pieces(&[&END], true), Ok(Vec::new()));
}

#[test]
fn names_may_fill_their_field_and_be_any_bytes() {
    let long = [b'x'; 99];
    assert_eq!(first_entry(unsealed(&long, b'0', 1)).unwrap().path, long);
    let mut directory = long.to_vec();
    directory.push(b'/');
    assert_eq!(first_entry(unsealed(&directory, b'5', 0)).unwrap().path, long);
    let odd = b"a \\ \n ' \xC3\x28 \xFF..";
    assert_eq!(first_entry(unsealed(odd, b'0', 1)).unwrap().path, odd);
    let mut prefixed = unsealed(b"name", b'0', 0);
    prefixed[345..348].copy_from_slice(b"a/b");
    assert_eq!(first_entry(prefixed).unwrap().path, b"a/b/name");
}

#[test]
fn large_sizes_and_odd_times_are_read() {
    for size in [0, 1, 0o77_777_777_777, 0o77_777_777_777 + 1, 1 << 40, i64::MAX as u64] {
        let entry = first_entry(unsealed(b"f", b'0', size)).unwrap();
        assert_eq!(entry.kind, EntryKind::File { size });
    }
    for mtime_s in [0, -1, i64::MIN, 1 << 33, i64::MAX] {
        let mut block = unsealed(b"f", b'0', 0);
        put_number(&mut block[136..148], mtime_s as u64);
        assert_eq!(first_entry(block).unwrap().mtime_s, mtime_s);
    }
    let mut block = unsealed(b"f", b'0', 0);
    put_number(&mut block[100..108], 0o7777);
    assert_eq!(first_entry(block).unwrap().mode, 0o7777);
}

#[test]
fn headers_that_lie_are_refused() {
    let bad = |change: &dyn Fn(&mut Block)| {
        let mut block = unsealed(b"f", b'0', 5);
        change(&mut block);
        first_entry(block).unwrap_err()
    };
    let number = |field| ArchiveError::Number { field };
    assert_eq!(bad(&|b| b[124] = 0xFF), number("size"));
    assert_eq!(bad(&|b| b[124] = b'8'), number("size"));
    assert_eq!(bad(&|b| b[124..136].fill(0)), number("size"));
    assert_eq!(bad(&|b| b[130] = b' '), number("size"));
    assert_eq!(bad(&|b| put_number(&mut b[124..136], 1 << 63)), number("size"));
    assert_eq!(bad(&|b| b[124..136].fill(0x80)), number("size"));
    assert_eq!(bad(&|b| put_number(&mut b[100..108], 0o10000)), number("mode"));
    assert_eq!(bad(&|b| b[136] = b'-'), number("time of the last change"));
    assert_eq!(bad(&|b| b[257] = b'U'), ArchiveError::NotUstar);
    assert_eq!(
        bad(&|b| b[257..265].copy_from_slice(b"ustar  \0")),
        ArchiveError::NotUstar
    );
    for type_flag in [0, b'1', b'3', b'L', b'x', b'g', b'S'] {
        assert_eq!(bad(&|b| b[156] = type_flag), ArchiveError::UnknownType { type_flag });
    }
    for type_flag in [b'2', b'5'] {
        assert_eq!(bad(&|b| b[156] = type_flag), ArchiveError::UnexpectedContent);
    }
    let mut broken = header(b"f", b'0', 0);
    broken[1] = b'x';
    assert_eq!(read(&broken), Err(ArchiveError::Checksum));
    broken[148..156].fill(b'x');
    assert_eq!(read(&broken), Err(number("checksum")));
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for (name, type_flag) in [
        (&b""[..], b'0'),
        (b"/etc/passwd", b'0'),
        (b"../x", b'0'),
        (b"a/../../x", b'0'),
        (b"a//x", b'0'),
        (b"a/./x", b'0'),
        (b"././x", b'0'),
        (b"a/", b'0'),
        (b"a//", b'5'),
        (b"./", b'5'),
        (b".", b'5'),
        (b"..", b'2'),
        (b"/", b'5'),
    ] {
        let error = first_entry(unsealed(name, type_flag, 0)).unwrap_err();
        let path = String::from_utf8_lossy(name).into_owned();
        assert_eq!(error, ArchiveError::UnsafePath { path });
    }
}

#[test]
fn an_archive_cut_anywhere_else_than_behind_an_entry_is_an_error() {
    let first = file(b"one", &[1; 700]);
    let archive = [&first[..], &file(b"two", b"x"), &file(b"none", b"")].concat();
    let whole = [0, first.len(), first.len() + 1024, archive.len()];
    for cut in 0..=archive.len() {
        let outcome = read(&archive[..cut]);
        assert_eq!(outcome.is_ok(), whole.contains(&cut), "{cut}: {outcome:?}");
    }
    let archive = [archive, END.to_vec()].concat();
    for cut in 0..archive.len() {
        let outcome = read_pieces(&[&archive[..cut]], true);
        assert_eq!(outcome, Err(ArchiveError::Truncated), "{cut}");
    }
    assert!(read_pieces(&[&archive], true).is_ok());
}

#[test]
fn a_size_that_is_not_the_content_is_found() {
    let content = [b'c'; 1000];
    let with_size = |size| {
        let header = header(b"f", b'0', size);
        [&header[..], &content, &[0; 24], &file(b"next", b"n"), &END].concat()
    };
    assert!(read_pieces(&[&with_size(1000)], true).is_ok());
    // Short by a little: the rest is where zeros must be. By a block: it is where a header must be.
    assert_eq!(read_pieces(&[&with_size(999)], true), Err(ArchiveError::Padding));
    assert!(read_pieces(&[&with_size(400)], true).is_err());
    // Too long: it takes the next header for content, and all that comes when it is huge.
    assert_eq!(read_pieces(&[&with_size(1030)], true), Err(ArchiveError::Padding));
    for size in [1 << 40, i64::MAX as u64] {
        assert_eq!(read_pieces(&[&with_size(size)], true), Err(ArchiveError::Truncated));
    }
}

#[test]
fn nothing_but_zeros_may_follow_the_end() {
    let with = |rest: &[u8]| [&file(b"f", b"x")[..], &END, rest].concat();
    assert!(read_pieces(&[&with(&[0; 9000])], true).is_ok());
    assert_eq!(read_pieces(&[&with(b"x")], true), Err(ArchiveError::Padding));
    assert_eq!(
        read_pieces(&[&with(&file(b"g", b"y"))], true),
        Err(ArchiveError::Padding)
    );
    let one_block = [&[0; BLOCK_BYTES][..], &file(b"f", b"x")].concat();
    assert_eq!(read(&one_block), Err(ArchiveError::Padding));
    assert_eq!(read(&[0; BLOCK_BYTES]), Err(ArchiveError::Truncated));
}

#[test]
fn a_small_piece_does_not_keep_a_large_buffer() {
    let archive = Bytes::from(file(b"f", &[1; 3 * COPY_BELOW_BYTES]));
    let range = archive.as_ptr_range();
    let pieces = |split: usize| {
        let (mut head, mut tail) = (archive.slice(..split), archive.slice(split..));
        let mut reader = TarReader::new(false);
        let mut pieces = Vec::new();
        for input in [&mut head, &mut tail] {
            while let Some(event) = reader.read(input).unwrap() {
                if let BaseBackupEvent::Data(piece) = event {
                    pieces.push((piece.len(), range.contains(&piece.as_ptr())));
                }
            }
        }
        pieces
    };
    assert_eq!(pieces(0), [(3 * COPY_BELOW_BYTES, true)]);
    let split = BLOCK_BYTES + COPY_BELOW_BYTES - 1;
    assert_eq!(
        pieces(split),
        [(COPY_BELOW_BYTES - 1, false), (2 * COPY_BELOW_BYTES + 1, true)]
    );
}

/// The parts of an archive; names do not matter for the split.
pub(in super::super) fn some_archive() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (0_usize..3).prop_map(|blocks| vec![b'b'; blocks * BLOCK_BYTES]),
        (1000_usize..1100).prop_map(|bytes| vec![b'c'; bytes]),
    ];
    let single = prop_oneof![
        content.prop_map(|content| file(b"some/file", &content)),
        Just(header(b"some/", b'5', 0)),
    ];
    proptest::collection::vec(single, 0..6).prop_map(|parts| parts.concat())
}

/// Cuts bytes into pieces, some of them empty.
pub(in super::super) fn cut<'a>(bytes: &'a [u8], cuts: &[proptest::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut begin = 0;
    let piece = |end| {
        let piece = &bytes[begin..end];
        begin = end;
        piece
    };
    ends.into_iter().map(piece).collect()
}

proptest! {
    #[test]
    fn any_split_of_the_input_gives_the_same_events(
        archive in some_archive(),
        ends in any::<bool>(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
    ) {
        let archive = if ends { [archive, END.to_vec()].concat() } else { archive };
        let whole = read_pieces(&[&archive], ends);
        prop_assert!(whole.is_ok());
        prop_assert_eq!(read_pieces(&cut(&archive, &cuts), ends), whole);
    }

    #[test]
    fn any_bytes_and_any_damage_give_events_or_an_error(
        noise in proptest::collection::vec(any::<u8>(), 0..1200),
        mut archive in some_archive(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let _ = read(&noise);
        if !archive.is_empty() {
            let at = at.index(archive.len());
            archive[at] = byte;
            let _ = read(&archive);
        }
    }
}

#[test]
fn every_single_split_gives_the_same_events() {
    let archive = [
        file(b"one", &[1; 513]),
        header(b"dir/", b'5', 0),
        file(b"two", b""),
        END.to_vec(),
    ]
    .concat();
    let whole = read_pieces(&[&archive], true).unwrap();
    for at in 0..=archive.len() {
        let (head, tail) = archive.split_at(at);
        assert_eq!(read_pieces(&[head, tail], true).unwrap(), whole, "{at}");
    }
    let bytes: Vec<&[u8]> = archive.chunks(1).collect();
    assert_eq!(read_pieces(&bytes, true).unwrap(), whole);
}
