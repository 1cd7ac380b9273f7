//! The WAL that stays with the kept backups.

use std::collections::BTreeMap;

use super::descent::Descent;
use super::{Backup, Kept, LineageId, Reason};

/// WAL that stays, in LSNs; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalRange {
    /// What one backup needs to become consistent, or several that overlap.
    StartToEnd {
        /// First byte.
        start: u64,
        /// First byte that is not needed.
        end: u64,
    },
    /// Everything from here on, also what will come.
    Continuous {
        /// First byte.
        from: u64,
    },
}

impl WalRange {
    /// Does any byte from `start` to before `end` lie in it?
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        match *self {
            WalRange::StartToEnd {
                start: first,
                end: last,
            } => start < last && first < end,
            WalRange::Continuous { from } => from < end,
        }
    }
}

/// WAL of one timeline that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalKeep {
    /// Lineage.
    pub lineage: LineageId,
    /// Timeline.
    pub timeline: u32,
    /// Sorted, without overlaps; nothing comes after a continuous one. Empty: all of its WAL goes.
    pub ranges: Vec<WalRange>,
}

type ByTimeline<T> = BTreeMap<(LineageId, u32), T>;

/// Everything of every timeline.
pub(super) fn everything(descent: &Descent) -> Vec<WalKeep> {
    let all = descent.timelines().map(|(lineage, timeline)| WalKeep {
        lineage,
        timeline,
        ranges: vec![WalRange::Continuous { from: 0 }],
    });
    all.collect()
}

/// What the kept backups need.
pub(super) fn plan(backups: &[Backup], kept: &Kept, descent: &Descent, has_window: bool) -> Vec<WalKeep> {
    let continuous = continuous(backups, kept, descent, has_window);
    let mut pieces = start_to_end(backups, kept, descent);
    let keeps = descent.timelines().map(|(lineage, timeline)| {
        let key = (lineage, timeline);
        let ranges = merge(pieces.remove(&key).unwrap_or_default(), continuous.get(&key).copied());
        WalKeep {
            lineage,
            timeline,
            ranges,
        }
    });
    keeps.collect()
}

/// Is every moment after this backup to stay restorable?
fn leads_on(reason: Reason, has_window: bool) -> bool {
    match reason {
        Reason::Newest | Reason::NewestProven | Reason::WindowBase | Reason::Window | Reason::FromTheFuture => true,
        Reason::Within | Reason::Last => !has_window,
        Reason::Pinned | Reason::Daily | Reason::Weekly | Reason::Monthly | Reason::Yearly => false,
        // Everything is kept in another way.
        Reason::UnknownDescent | Reason::NoRules => true,
    }
}

/// For each timeline the LSN from which all of its WAL stays.
fn continuous(backups: &[Backup], kept: &Kept, descent: &Descent, has_window: bool) -> ByTimeline<u64> {
    let mut from = ByTimeline::new();
    let mut all_from = |key: (LineageId, u32), lsn: u64| {
        let known = from.entry(key).or_insert(lsn);
        *known = lsn.min(*known);
    };
    for backup in backups {
        let mut reasons = kept.get(&backup.id).into_iter().flatten();
        if reasons.any(|reason| leads_on(*reason, has_window)) {
            all_from((backup.lineage, backup.timeline), backup.start_lsn);
        }
    }
    let all: Vec<&Backup> = backups.iter().collect();
    for (lineage, timeline) in descent.growing() {
        let reaching = descent.reaching(&all, lineage, timeline);
        if reaching.is_empty() {
            all_from((lineage, timeline), 0);
        }
    }
    for (lineage, timeline) in descent.timelines().filter(|(lineage, _)| descent.is_unknown(*lineage)) {
        all_from((lineage, timeline), 0);
    }
    // Parents come before their children.
    for (lineage, timeline) in descent.timelines() {
        let Some((parent, switch)) = descent.parent(lineage, timeline) else {
            continue;
        };
        if from.get(&(lineage, parent)).is_some_and(|from| *from <= switch) {
            from.insert((lineage, timeline), 0);
        }
    }
    from
}

/// What each kept backup needs to become consistent. One that began before the switch to its timeline needs what came before, too.
fn start_to_end(backups: &[Backup], kept: &Kept, descent: &Descent) -> ByTimeline<Vec<(u64, u64)>> {
    let mut pieces = ByTimeline::<Vec<_>>::new();
    for backup in backups.iter().filter(|backup| kept.contains_key(&backup.id)) {
        let (mut timeline, mut end) = (backup.timeline, backup.end_lsn);
        loop {
            let there = pieces.entry((backup.lineage, timeline)).or_default();
            there.push((backup.start_lsn, end));
            match descent.parent(backup.lineage, timeline) {
                Some((parent, switch)) if backup.start_lsn < switch => (timeline, end) = (parent, switch),
                _ => break,
            }
        }
    }
    pieces
}

/// Sorts, and joins what overlaps or touches.
fn merge(mut pieces: Vec<(u64, u64)>, continuous: Option<u64>) -> Vec<WalRange> {
    pieces.retain(|(start, end)| start < end);
    pieces.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in pieces {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    let mut from = continuous;
    while let (Some(lsn), Some((start, end))) = (from, joined.last().copied())
        && end >= lsn
    {
        joined.pop();
        from = Some(lsn.min(start));
    }
    let mut ranges: Vec<WalRange> = joined
        .into_iter()
        .map(|(start, end)| WalRange::StartToEnd { start, end })
        .collect();
    ranges.extend(from.map(|from| WalRange::Continuous { from }));
    ranges
}
