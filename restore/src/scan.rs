//! Finds records in archived WAL: the first transaction past a time, the first record at an LSN, the last record there is.
//!
//! Headers of WAL objects say which times and which last record they hold, so only the objects around the answer are read. Every
//! byte passes [`WalReader`], so a stop point is never taken from damaged WAL.

mod read;

use std::collections::HashMap;

use futures::{StreamExt as _, stream};
use pg::lsn::Lsn;
use store::StoreError;
use store::catalog::Coverage;
use store::envelope::WalFacts;
use store::layout::{WalName, WalRange};
use store::manifest::Manifest;
use store::object::ErrorClass;
use store::repository::Repository;
use store::verify::is_wrong;

use crate::error::{RestoreError, Result};
use crate::route::{Piece, Route};

use read::{Candidate, Wanted};
pub(crate) use read::{Found, PAGE_BYTES, config, part_of};

/// Headers read at a time.
const HEADERS_IN_FLIGHT: usize = 16;
/// How far before a backup transactions are looked for.
const LOOK_BACK_BYTES: u64 = 64 << 20;
/// Headers that are read before the first of them is looked at.
const HEADER_WINDOW: usize = 64;

/// One lineage's WAL on the way to a timeline.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    repository: &'a Repository,
    coverage: &'a Coverage,
    route: &'a Route,
    facts: HashMap<(u32, Lsn, Lsn, bool, u64), WalFacts>,
    /// Heads that could not be read: an error to whoever comes to need them, and to nobody else.
    unread: HashMap<(u32, Lsn, Lsn, bool, u64), RestoreError>,
}

fn key(range: &WalRange) -> (u32, Lsn, Lsn, bool, u64) {
    (range.timeline.as_u32(), range.start, range.end, range.tail, range.epoch)
}

impl<'a> Scanner<'a> {
    /// A scanner.
    pub(crate) fn new(repository: &'a Repository, coverage: &'a Coverage, route: &'a Route) -> Self {
        Scanner {
            repository,
            coverage,
            route,
            facts: HashMap::new(),
            unread: HashMap::new(),
        }
    }

    /// Reads the headers of these pieces that are not known yet.
    async fn read_facts(&mut self, pieces: &[Piece]) -> Result<()> {
        let (repository, size) = (self.repository, self.route.size);
        let unknown: Vec<WalRange> = pieces
            .iter()
            .map(|piece| piece.range)
            .filter(|range| !self.facts.contains_key(&key(range)))
            .collect();
        let mut reads = stream::iter(unknown)
            .map(|range| async move { (range, repository.read_wal_header(&range, size).await) })
            .buffered(HEADERS_IN_FLIGHT);
        while let Some((range, read)) = reads.next().await {
            let unread = match read {
                Ok(Some(header)) => {
                    self.facts.insert(key(&range), header.wal.unwrap_or_default());
                    continue;
                }
                Ok(None) => vanished(&range),
                Err(error) if error.is_not_found() => vanished(&range),
                Err(error) if is_wrong(&error) => error.into(),
                Err(error) => return Err(error.into()),
            };
            self.unread.insert(key(&range), unread);
        }
        Ok(())
    }

    /// What the head of a piece says, or why it could not be read.
    fn facts_of(&mut self, piece: &Piece) -> Result<WalFacts> {
        match self.unread.remove(&key(&piece.range)) {
            Some(unread) => Err(unread),
            None => Ok(self.facts.get(&key(&piece.range)).cloned().unwrap_or_default()),
        }
    }

    /// True when WAL that begins at `at` was durable once, by what the headers of later objects say: then it is not there because it was taken
    /// away. The newest know most.
    pub(crate) async fn was_archived(&self, at: Lsn) -> Result<bool> {
        let archived = self.coverage.timelines.get(&self.route.timeline());
        let mut later: Vec<&WalRange> = archived
            .iter()
            .flat_map(|timeline| &timeline.ranges)
            .filter(|range| range.start > at)
            .collect();
        later.sort_by_key(|range| std::cmp::Reverse((range.start, range.epoch)));
        for range in later.into_iter().take(HEADERS_IN_FLIGHT) {
            let header = match self.repository.read_wal_header(range, self.route.size).await {
                // Half an object of a host that died, or one that does not count: another one says it.
                Err(error) if error.damaged_object().is_some() => continue,
                read => read?,
            };
            let Some(header) = header else {
                continue;
            };
            if header.wal.and_then(|facts| facts.archived) > Some(at.as_u64()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first record from `manifest`'s start on whose time is later than `time_us` (or not earlier, when `exclusive`).
    pub(crate) async fn after_time(
        &mut self,
        manifest: &Manifest,
        time_us: i64,
        exclusive: bool,
    ) -> Result<Option<Found>> {
        let late = move |us: i64| if exclusive { us >= time_us } else { us > time_us };
        let holds = |facts: &WalFacts| facts.time_highest_us.is_some_and(late);
        let wanted = move |record: &Candidate<'_>| record.found.time_us.is_some_and(late);
        self.first(manifest, &holds, &wanted).await
    }

    /// The first record that begins at `lsn` or later.
    pub(crate) async fn at_lsn(&mut self, manifest: &Manifest, lsn: Lsn) -> Result<Option<Found>> {
        let holds = |facts: &WalFacts| facts.last_record.is_some_and(|last| last >= lsn.as_u64());
        let wanted = move |record: &Candidate<'_>| record.found.start >= lsn;
        self.first(manifest, &holds, &wanted).await
    }

    /// The record behind a backup that ends a transaction. Headers do not say which ones: all WAL is read up to it.
    pub(crate) async fn end_of_transaction(&mut self, manifest: &Manifest, xid: u32) -> Result<Option<Found>> {
        let end = Lsn::new(manifest.end_lsn);
        let wanted = move |record: &Candidate<'_>| record.xid == Some(xid) && record.found.start >= end;
        self.first(manifest, &|_| true, &wanted).await
    }

    /// The first restore point of a name behind a backup.
    pub(crate) async fn restore_point(&mut self, manifest: &Manifest, name: &str) -> Result<Option<Found>> {
        let (of_header, of_record) = (name.to_owned(), name.to_owned());
        let holds = move |facts: &WalFacts| facts.restore_points.iter().any(|point| point.name == of_header);
        // In the server's encoding; the header has it in this form.
        let is_it = move |bytes: &[u8]| String::from_utf8_lossy(bytes) == of_record;
        let end = Lsn::new(manifest.end_lsn);
        let wanted =
            move |record: &Candidate<'_>| record.restore_point.is_some_and(&is_it) && record.found.start >= end;
        self.first(manifest, &holds, &wanted).await
    }

    async fn first(
        &mut self,
        manifest: &Manifest,
        holds: &(dyn Fn(&WalFacts) -> bool + Sync),
        wanted: &Wanted,
    ) -> Result<Option<Found>> {
        let from = Lsn::new(manifest.start_lsn);
        let pieces = self.route.pieces(self.coverage, from, Lsn::new(u64::MAX));
        let mut known_start = from;
        let mut known_end = None;
        let mut last_commit = None;
        for window in pieces.chunks(HEADER_WINDOW) {
            self.read_facts(window).await?;
            for piece in window {
                let facts = self.facts_of(piece)?;
                if holds(&facts) || hides_a_record(piece, &facts, known_end) {
                    let seen = self
                        .search(manifest, known_start.max(from), piece.to, from, wanted)
                        .await?;
                    last_commit = seen.last_commit_us.or(last_commit);
                    if let Some(mut found) = seen.found {
                        found.commit_before_us = last_commit;
                        return Ok(Some(found));
                    }
                }
                if piece.reaches_end() {
                    known_start = facts.last_record.map_or(known_start, Lsn::new);
                    known_end = facts.last_record_end.map_or(known_end, |end| Some(Lsn::new(end)));
                    last_commit = facts.time_highest_us.or(last_commit);
                }
            }
        }
        Ok(None)
    }

    /// The last complete record before the first hole, not before `manifest`'s start.
    pub(crate) async fn last(&mut self, manifest: &Manifest) -> Result<Option<Found>> {
        let from = Lsn::new(manifest.start_lsn);
        let pieces = self.route.pieces(self.coverage, from, Lsn::new(u64::MAX));
        let mut last = None;
        for window in pieces.rchunks(HEADERS_IN_FLIGHT) {
            self.read_facts(window).await?;
            for piece in window.iter().rev() {
                let facts = self.facts_of(piece)?;
                if let (None, Some(start), true) = (&last, facts.last_record, piece.reaches_end()) {
                    last = Some(Found {
                        start: Lsn::new(start),
                        end: Lsn::new(facts.last_record_end.unwrap_or(start)),
                        time_us: None,
                        commit_before_us: None,
                    });
                }
                if let Some(found) = &mut last
                    && piece.reaches_end()
                    && facts.time_highest_us.is_some()
                {
                    found.commit_before_us = facts.time_highest_us;
                    return Ok(last.filter(|found| found.start >= from));
                }
            }
            if last.is_some() && window.len() == HEADERS_IN_FLIGHT && pieces.len() > HEADER_WINDOW {
                break; // an idle server: the time is only for people
            }
        }
        if last.is_none() {
            let end = pieces.last().map_or(from, |piece| piece.to);
            last = self.search(manifest, from, end, from, &|_| false).await?.last;
        }
        Ok(last.filter(|found| found.start >= from))
    }

    /// Time of the last transaction before a backup began, as far as archived WAL tells. What of it is damaged tells nothing, and no restore
    /// from that backup needs it; where others hold the same it is an error all the same, for who looks there.
    pub(crate) async fn before(&mut self, manifest: &Manifest) -> Result<Before> {
        let start = Lsn::new(manifest.start_lsn);
        let segment = self.route.size.start_containing(start);
        let reach = Lsn::new(segment.as_u64().saturating_sub(LOOK_BACK_BYTES));
        let earlier = self.route.pieces_back(self.coverage, segment, reach);
        for window in earlier.chunks(HEADER_WINDOW) {
            self.read_facts(window).await?;
        }
        let mut before = Before::default();
        for piece in &earlier {
            match self.facts_of(piece) {
                Ok(facts) => before.commit_us = before.commit_us.max(facts.time_highest_us),
                Err(error) => before.lacks(error, self.repository, self.coverage)?,
            }
        }
        let prefix = start.distance_from(segment);
        if prefix > PAGE_BYTES
            && prefix <= LOOK_BACK_BYTES
            && self.route.contiguous_end(self.coverage, segment) >= start
        {
            match self.search(manifest, segment, start, Lsn::ZERO, &|_| false).await {
                Ok(seen) => before.commit_us = before.commit_us.max(seen.last_commit_us),
                Err(error) => before.lacks(error, self.repository, self.coverage)?,
            }
        }
        Ok(before)
    }

    async fn search(
        &self,
        manifest: &Manifest,
        known_start: Lsn,
        to: Lsn,
        from: Lsn,
        wanted: &Wanted,
    ) -> Result<read::Seen> {
        let begin = Lsn::new(known_start.as_u64() / PAGE_BYTES * PAGE_BYTES);
        let pieces = self.route.pieces(self.coverage, begin, to);
        let config = read::config(manifest, self.route.timeline(), self.route.size, begin)?;
        let mut search = read::Search::new(config, from, wanted)?;
        for piece in pieces {
            let bytes = self
                .repository
                .read_wal(&piece.range, self.route.size)
                .await
                .map_err(|error| gone(error, &piece.range))?;
            if search.push(&piece, &bytes)? {
                break;
            }
        }
        Ok(search.finish())
    }
}

/// A record that came over from the piece before may be in no header: a stream that begins at a segment's start after a reconnect
/// cannot read it. Behind a segment switch this looks the same, and costs one more piece to read.
fn hides_a_record(piece: &Piece, facts: &WalFacts, known_end: Option<Lsn>) -> bool {
    let comes_over = known_end.is_some_and(|end| end < piece.from);
    comes_over && facts.first_record.is_none_or(|first| first >= piece.from.as_u64())
}

/// What is known of the time before a backup.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Before {
    /// Of the last transaction.
    pub(crate) commit_us: Option<i64>,
    /// Some of it could not be read: there may have been a later one.
    pub(crate) is_in_doubt: bool,
}

impl Before {
    /// Goes on without an object that cannot be read, unless others hold the same: then these are to be read.
    fn lacks(&mut self, error: RestoreError, repository: &Repository, coverage: &Coverage) -> Result<()> {
        let store = match &error {
            RestoreError::Store(store) if is_wrong(store) && !store.is_not_found() => store,
            _ => return Err(error),
        };
        let name = store.damaged_object();
        let range = name.and_then(|name| repository.layout().parse_wal(name));
        let is_held_twice = matches!(range, Some(WalName::Range(range)) if coverage.can_do_without(&range));
        if is_held_twice || matches!(store, StoreError::Untrusted { .. }) {
            return Err(error);
        }
        tracing::warn!(%error, "WAL from before the backup cannot be read; it is not needed");
        self.is_in_doubt = true;
        Ok(())
    }
}

/// A tail that was listed and is gone: its whole range has replaced it. Listing again finds it.
pub(crate) fn vanished(range: &WalRange) -> RestoreError {
    RestoreError::Vanished {
        start: range.start,
        end: range.end,
    }
}

/// Tells a tail that vanished from damage.
pub(crate) fn gone(error: StoreError, range: &WalRange) -> RestoreError {
    match &error {
        StoreError::Object(object) if object.class() == ErrorClass::NotFound && range.tail => vanished(range),
        _ => error.into(),
    }
}
