//! Compares what was shown with what the store's log proves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Instant, SystemTime};

use anyhow::{Result, bail, ensure};
use tests::cluster::lsn_text;
use tests::fault_s3::RequestLog;
use tests::oracle::Commit;
use tests::stored_wal::{StoredPrefix, WalKey};

use super::sampler::Sample;

/// A completed PUT: when its object became durable, and its key.
type Put = (Instant, String);

/// What the samples showed.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    by_mode: BTreeMap<&'static str, usize>,
    synchronous: BTreeMap<&'static str, usize>,
    distinct: BTreeSet<u64>,
    /// Samples while more had been received than was stored: a lie would have shown.
    behind: usize,
    /// Samples while an object lay behind a hole.
    over_hole: usize,
}

/// The stored prefix at growing instants.
struct Timeline<'a> {
    puts: std::iter::Peekable<std::slice::Iter<'a, Put>>,
    prefix: StoredPrefix,
    histories: BTreeSet<(String, u32)>,
}

impl<'a> Timeline<'a> {
    fn new(puts: &'a [Put], start: u64) -> Self {
        Self {
            puts: puts.iter().peekable(),
            prefix: StoredPrefix::new(start),
            histories: BTreeSet::new(),
        }
    }

    fn advance(&mut self, instant: Instant) -> Result<&StoredPrefix> {
        while let Some((_, key)) = self.puts.next_if(|(durable, _)| *durable <= instant) {
            if let Some(wal) = WalKey::parse(key) {
                self.prefix.add(wal.start, wal.end);
                self.histories.insert((wal.lineage, wal.timeline));
            }
        }
        ensure!(
            self.histories.len() <= 1,
            "one history was streamed, not {:?}",
            self.histories
        );
        Ok(&self.prefix)
    }
}

impl Verdict {
    /// Fails on the first position that was not stored before it was shown.
    pub(crate) fn of(samples: &[Sample], puts: &[Put], start: u64, log: &RequestLog) -> Result<Self> {
        let mut verdict = Self::default();
        let mut timeline = Timeline::new(puts, start);
        for (number, sample) in samples.iter().enumerate() {
            let prefix = timeline.advance(sample.received)?;
            for (what, lsn) in [("write", sample.write), ("flush", sample.flush)] {
                if lsn > prefix.end() {
                    bail!(
                        "sample {number} in mode {}: PostgreSQL shows {what} {} but only {} was stored then; faults under way: {:?}",
                        sample.mode,
                        lsn_text(lsn),
                        lsn_text(prefix.end()),
                        log.faults_at(sample.received)
                    );
                }
            }
            ensure!(
                sample.replay.is_none(),
                "sample {number}: we apply nothing, but replay is {:?}",
                sample.replay
            );
            verdict.behind += usize::from(sample.server > prefix.end());
            verdict.over_hole += usize::from(prefix.has_hole());
            verdict.distinct.insert(sample.flush);
            *verdict.by_mode.entry(sample.mode).or_default() += 1;
            *verdict.synchronous.entry(sample.mode).or_default() += usize::from(sample.is_sync);
        }
        Ok(verdict)
    }

    /// Fails unless a lie would have been seen.
    pub(crate) fn assert_meaningful(&self, modes: &[&'static str]) -> Result<()> {
        let total: usize = self.by_mode.values().sum();
        ensure!(total >= super::SAMPLES, "{self}");
        for mode in modes {
            ensure!(
                self.by_mode.get(mode).is_some_and(|count| *count > total / 5),
                "{mode}: {self}"
            );
            ensure!(
                self.synchronous.get(mode).is_some_and(|count| *count > total / 20),
                "{mode}: {self}"
            );
        }
        ensure!(self.distinct.len() > total / 50, "{self}");
        ensure!(self.behind > total / 10, "{self}");
        ensure!(self.over_hole > total / 100, "{self}");
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "samples by mode {:?}, of them synchronous {:?}; {} distinct flush positions; {} samples while WAL waited to be stored, {} while \
             an object lay behind a hole; none ahead of what was stored",
            self.by_mode,
            self.synchronous,
            self.distinct.len(),
            self.behind,
            self.over_hole
        )
    }
}

/// A commit that waited for us and returned was stored: its record begins before the stored prefix ends.
pub(crate) fn check_acknowledged(
    commits: &[Commit],
    puts: &[Put],
    start: u64,
    from: Instant,
    until: Instant,
) -> Result<()> {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let instant = |at: SystemTime| now - wall.duration_since(at).unwrap_or_default();
    let mut waited: Vec<(Instant, &Commit)> = commits
        .iter()
        .filter(|commit| instant(commit.sent_at) >= from)
        .filter_map(|commit| Some((instant(commit.acknowledged_at?), commit)))
        .filter(|(acknowledged, _)| *acknowledged <= until)
        .collect();
    waited.sort_by_key(|(acknowledged, _)| *acknowledged);
    ensure!(waited.len() > 20, "only {} commits waited for us", waited.len());
    let mut timeline = Timeline::new(puts, start);
    for (acknowledged, commit) in waited {
        let stored = timeline.advance(acknowledged)?.end();
        ensure!(
            commit.lsn_before < stored,
            "commit {} at or behind {} was acknowledged when only {} was stored",
            commit.n,
            lsn_text(commit.lsn_before),
            lsn_text(stored)
        );
    }
    Ok(())
}
