//! Real WAL: whole segments, one after the other, read and verified before anything is measured.

use std::io;
use std::path::Path;

use bytes::Bytes;
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::limits::WAL_OBJECT_BYTES_MAX;
use wal::page::PageHeader;
use wal::reader::{WalItem, WalReader, WalReaderConfig};

use crate::server::pgbench_wal;

/// A directory of segments to measure with.
pub const DIRECTORY_VARIABLE: &str = "SEAWALL_BENCH_WAL";
/// The programs of a PostgreSQL that makes some.
pub const SERVER_VARIABLE: &str = "SEAWALL_PG15_BIN";
/// What a WAL sender puts into one message (`MAX_SEND_SIZE` in `walsender.c`).
const MESSAGE_BYTES: usize = 128 << 10;

/// Contiguous WAL of one timeline, from the start of a segment to the end of one.
#[derive(Debug)]
pub struct WalData {
    /// What it is and where it begins.
    pub config: WalReaderConfig,
    /// All of it.
    pub bytes: Bytes,
    /// Records that end in it.
    pub records: u64,
}

impl WalData {
    /// About `bytes` of WAL: from the directory of [`DIRECTORY_VARIABLE`], else from a server in [`SERVER_VARIABLE`].
    ///
    /// # Errors
    /// There is neither, or no WAL came of it.
    pub fn find(bytes: u64) -> io::Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(directory) = set(DIRECTORY_VARIABLE) {
            return read(Path::new(&directory), "", bytes);
        }
        let bin = set(SERVER_VARIABLE).ok_or_else(|| {
            io::Error::other(format!(
                "there is no WAL to measure with: set {DIRECTORY_VARIABLE} to a directory of segments, or {SERVER_VARIABLE} to \
                 PostgreSQL's programs (make bench does it)"
            ))
        })?;
        // The last segment is not full.
        let server = pgbench_wal(Path::new(&bin), bytes + (32 << 20))?;
        read(&server.directory, &server.first, bytes)
    }

    /// Bytes of the ranges that become objects.
    #[must_use]
    pub fn object_bytes(&self) -> usize {
        usize::try_from(self.config.segment_size.bytes().min(WAL_OBJECT_BYTES_MAX)).unwrap_or(usize::MAX)
    }

    /// The WAL as a server sends it.
    pub fn messages(&self) -> impl Iterator<Item = (Lsn, Bytes)> {
        (0..self.bytes.len()).step_by(MESSAGE_BYTES).map(|at| {
            let end = self.bytes.len().min(at + MESSAGE_BYTES);
            let start = self.config.start.saturating_add(at as u64);
            (start, self.bytes.slice(at..end))
        })
    }
}

/// The segments from `first` on, as long as they follow each other and are whole.
fn read(directory: &Path, first: &str, bytes_max: u64) -> io::Result<WalData> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.len() == 24 && name.bytes().all(|c| c.is_ascii_hexdigit()) && name.as_str() >= first {
            names.push(name);
        }
    }
    names.sort();
    let mut data = Vec::new();
    let mut records = 0;
    let mut open: Option<(WalReaderConfig, WalReader)> = None;
    for name in names {
        let segment = std::fs::read(directory.join(&name))?;
        if data.len() + segment.len() > usize::try_from(bytes_max).unwrap_or(usize::MAX) {
            break;
        }
        let (config, mut reader) = match open.take() {
            Some(open) => open,
            None => begin(&name, &segment)?,
        };
        let mut seen = 0;
        let mut count = |item| seen += u64::from(matches!(item, WalItem::Record(_)));
        let is_whole = segment.len() as u64 == config.segment_size.bytes()
            && reader.push(reader.position(), &segment, &mut count).is_ok();
        open = Some((config, reader));
        // Behind the end of WAL there are old segments under new names.
        if !is_whole {
            break;
        }
        records += seen;
        data.extend_from_slice(&segment);
    }
    match open {
        Some((config, _)) if !data.is_empty() => Ok(WalData {
            config,
            bytes: data.into(),
            records,
        }),
        _ => Err(io::Error::other(format!(
            "no whole segment of WAL in {}",
            directory.display()
        ))),
    }
}

fn begin(name: &str, segment: &[u8]) -> io::Result<(WalReaderConfig, WalReader)> {
    let header = PageHeader::parse(segment).map_err(io::Error::other)?;
    let timeline = name.get(..8).and_then(TimelineId::from_hex8);
    let (Some(long), Some(timeline)) = (header.long, timeline) else {
        return Err(io::Error::other(format!("{name} is no WAL segment")));
    };
    let config = WalReaderConfig {
        magic: header.magic,
        system_identifier: pg::identity::SystemIdentifier(long.system_identifier),
        segment_size: SegmentSize::new(u64::from(long.segment_bytes)).map_err(io::Error::other)?,
        timeline,
        start: header.page_lsn,
    };
    Ok((config, WalReader::new(config).map_err(io::Error::other)?))
}
