//! What the repository holds, read with the restore key, without a restore: objects against `pg_wal`, transactions by xid.
//!
//! Each object is read once, when it is seen first, whole ranges, tails and what lies behind a missing object alike. The
//! contiguous bytes of each timeline go through a [`WalReader`] that is kept from look to look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use pg::identity::{SystemIdentifier, wal_page_magic};
use pg::lsn::Lsn;
use pg::segment::{SegmentSize, segment_name};
use pg::timeline::TimelineId;
use store::catalog::Coverage;
use store::id::LineageId;
use store::keys::Role;
use store::keys::file::{RESTORE_KEY, read_opening};
use store::layout::WalRange;
use store::object::local::LocalStore;
use store::repository::Repository;
use wal::commit::XactKind;
use wal::reader::{WalItem, WalReader, WalReaderConfig};

use super::recorder::Commit;
use crate::seawall::Seawall;

/// The repository of one cluster, as far as it was read.
#[derive(Debug)]
pub struct Archive {
    repository: Repository,
    lineage: LineageId,
    size: SegmentSize,
    magic: u16,
    system_identifier: SystemIdentifier,
    seen: BTreeSet<String>,
    timelines: BTreeMap<TimelineId, Reading>,
}

/// One timeline's contiguous WAL.
#[derive(Debug)]
struct Reading {
    reader: WalReader,
    /// What ends before this belongs to the timeline before.
    begin: Lsn,
    /// End of the commit record by xid.
    commits: BTreeMap<u32, Lsn>,
}

/// What was there at one moment: names only, nothing of it is read yet.
#[derive(Debug)]
pub struct Look {
    coverage: Coverage,
    /// Objects that were not there at the look before.
    new: Vec<WalRange>,
}

/// The server's WAL files, to compare with.
#[derive(Debug, Clone, Copy)]
pub struct ServerWal<'a> {
    pub data_directory: &'a Path,
    /// What the server has of its WAL; everything when it is down.
    pub flushed: Option<u64>,
}

/// What a comparison with the server found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    pub objects: u64,
    pub bytes: u64,
    pub divergent: u64,
}

impl Archive {
    /// Opens it after a first backup: from its first byte on, the WAL is contiguous.
    pub async fn open(seawall: &Seawall, major: u32) -> Result<Self> {
        let store = Arc::new(LocalStore::open(seawall.repository())?);
        let key = seawall.config.scratch().join("keys").join(RESTORE_KEY);
        let repository = Repository::open_as_restorer(store, &read_opening(&key, Role::Restore)?).await?;
        let lineages = repository.lineages().await?;
        let lineage = lineages.first().context("there is no lineage")?;
        let mut archive = Self {
            lineage: lineage.id,
            size: SegmentSize::new(lineage.segment_bytes)?,
            magic: wal_page_magic(major).context("an unknown version of PostgreSQL")?,
            system_identifier: SystemIdentifier(lineage.system_identifier),
            repository,
            seen: BTreeSet::new(),
            timelines: BTreeMap::new(),
        };
        let look = archive.look().await?;
        let (timeline, first) = look.coverage.timelines.first_key_value().context("there is no WAL")?;
        let begin = first.begin().context("there is no WAL")?;
        archive.begin(*timeline, begin, Lsn::ZERO)?;
        Ok(archive)
    }

    /// Lists what is there now. The hot part of a cycle: the agent may be frozen meanwhile.
    pub async fn look(&self) -> Result<Look> {
        let coverage = self.repository.coverage(self.lineage).await?;
        let ranges = coverage.timelines.values().flat_map(|timeline| &timeline.ranges);
        let mut new = Vec::new();
        for range in ranges {
            if !self
                .seen
                .contains(self.repository.layout().wal(range, self.size)?.as_str())
            {
                new.push(*range);
            }
        }
        Ok(Look { coverage, new })
    }

    /// Reads what is new in `look`, compares it with the server's files, and takes note of the transactions in it.
    pub async fn read(&mut self, look: &Look, server: ServerWal<'_>) -> Result<Compared> {
        let lineages = self.repository.lineages().await?;
        ensure!(
            lineages.len() == 1,
            "another lineage was begun: {:?}",
            lineages.last().map(|lineage| &lineage.reason)
        );
        let mut compared = Compared::default();
        for range in &look.new {
            let bytes = self.repository.read_wal(range, self.size).await?;
            compared.objects += 1;
            compared.bytes += bytes.len() as u64;
            compared.divergent += divergent(range, &bytes, self.size, server)?;
            let name = self.repository.layout().wal(range, self.size)?;
            self.seen.insert(name.as_str().to_owned());
        }
        if compared.divergent > 0 {
            // A difference is told as such, not as a checksum that is wrong.
            return Ok(compared);
        }
        let timelines: Vec<TimelineId> = look.coverage.timelines.keys().copied().collect();
        for timeline in timelines {
            if !self.timelines.contains_key(&timeline) {
                let history = look.coverage.histories.get(&timeline);
                let last = history.and_then(|history| history.entries.last());
                let switch_point = last
                    .with_context(|| format!("WAL of timeline {timeline} came before its history"))?
                    .switch_point;
                self.begin(timeline, self.size.start_containing(switch_point), switch_point)?;
            }
            self.advance(look, timeline).await?;
        }
        Ok(compared)
    }

    /// Where the contiguous WAL of a timeline ends, as far as it was read.
    pub fn end(&self, timeline: u32) -> u64 {
        let timeline = TimelineId::new(timeline);
        let reading = timeline.and_then(|timeline| self.timelines.get(&timeline));
        reading.map_or(0, |reading| reading.reader.position().as_u64())
    }

    /// True when the commit record lies in the contiguous WAL that was read.
    pub fn holds(&self, commit: &Commit) -> bool {
        self.commit_end(commit).is_some()
    }

    /// Where the commit record ends, if it lies there.
    pub fn commit_end(&self, commit: &Commit) -> Option<Lsn> {
        let timeline = TimelineId::new(commit.timeline);
        let reading = timeline.and_then(|timeline| self.timelines.get(&timeline));
        reading.and_then(|reading| reading.commits.get(&commit.xid).copied())
    }

    fn begin(&mut self, timeline: TimelineId, start: Lsn, begin: Lsn) -> Result<()> {
        let reader = WalReader::new(WalReaderConfig {
            magic: self.magic,
            system_identifier: self.system_identifier,
            segment_size: self.size,
            timeline,
            start,
        })?;
        let commits = BTreeMap::new();
        self.timelines.insert(timeline, Reading { reader, begin, commits });
        Ok(())
    }

    async fn advance(&mut self, look: &Look, timeline: TimelineId) -> Result<()> {
        let (Some(reading), Some(coverage)) = (
            self.timelines.get_mut(&timeline),
            look.coverage.timelines.get(&timeline),
        ) else {
            return Ok(());
        };
        let start = reading.reader.position();
        let Some(end) = coverage.contiguous_end(start) else {
            return Ok(());
        };
        for range in coverage.cover(start, end).context("the contiguous WAL has a hole")? {
            let bytes = self.repository.read_wal(&range, self.size).await?;
            let at = reading.reader.position();
            let skip = usize::try_from(at.distance_from(range.start))?;
            let (begin, commits) = (reading.begin, &mut reading.commits);
            reading.reader.push(at, &bytes[skip..], &mut |item| {
                if let WalItem::Xact(event) = item
                    && event.kind == XactKind::Commit
                    && event.lsn_end > begin
                {
                    commits.insert(event.xid, event.lsn_end);
                }
            })?;
        }
        Ok(())
    }
}

/// How many bytes of an object are not what the server has there.
fn divergent(range: &WalRange, bytes: &[u8], size: SegmentSize, server: ServerWal<'_>) -> Result<u64> {
    let known = server
        .flushed
        .map_or(range.end, |flushed| range.end.min(Lsn::new(flushed)));
    let len = usize::try_from(known.distance_from(range.start))?.min(bytes.len());
    let segment = size.segment_of(range.start);
    let name = segment_name(range.timeline, segment, size);
    let path = server.data_directory.join("pg_wal").join(name);
    let mut on_server = vec![0; len];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut on_server, range.start.distance_from(size.start_of(segment))))
        .with_context(|| format!("{} cannot be compared with", path.display()))?;
    let differing = bytes.iter().zip(&on_server).filter(|(a, b)| a != b).count();
    // What the server does not have at all is as bad as other bytes.
    Ok((differing + (bytes.len() - len)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn other_bytes_and_bytes_past_the_servers_end_are_divergent() {
        let scratch = Scratch::create().unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let timeline = TimelineId::FIRST;
        let start = Lsn::new((3 << 20) + 8192);
        let mut segment = vec![0; 1 << 20];
        segment[8192..8196].copy_from_slice(b"abcd");
        let name = segment_name(timeline, size.segment_of(start), size);
        scratch.write(Path::new("pg_wal").join(name), segment).unwrap();
        let range = WalRange {
            lineage: LineageId::default(),
            timeline,
            start,
            end: start.saturating_add(4),
            epoch: 1,
            tail: true,
        };
        let against = |bytes: &[u8], flushed: Option<u64>| {
            let data_directory = scratch.path();
            divergent(
                &range,
                bytes,
                size,
                ServerWal {
                    data_directory,
                    flushed,
                },
            )
            .unwrap()
        };
        assert_eq!(against(b"abcd", None), 0);
        assert_eq!(against(b"abcd", Some(start.as_u64() + 4)), 0);
        assert_eq!(against(b"axcy", None), 2);
        assert_eq!(against(b"abcd", Some(start.as_u64() + 1)), 3);
        let elsewhere = ServerWal {
            data_directory: Path::new("/nowhere"),
            flushed: None,
        };
        assert!(divergent(&range, b"abcd", size, elsewhere).is_err());
    }
}
