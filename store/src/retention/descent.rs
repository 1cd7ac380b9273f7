//! Which timeline came from which, which may still grow, and which backups reach which.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Backup, LineageId, TimelineOf};

/// All timelines of all lineages.
#[derive(Debug)]
pub(super) struct Descent {
    timelines: BTreeMap<(LineageId, u32), Timeline>,
    unknown: BTreeSet<LineageId>,
}

#[derive(Debug, Default)]
struct Timeline {
    parent: Option<(u32, u64)>,
    /// `None` while it may grow.
    ended_at: Option<Timestamp>,
}

impl Descent {
    /// Takes what the caller knows, and each timeline that backups or other timelines mention. The last timeline of the last lineage,
    /// and of the one with the newest backup, is taken to grow whatever the caller says.
    pub(super) fn new(backups: &[Backup], ancestry: &[TimelineOf], newest: Option<&Backup>) -> Self {
        let mut descent = Self {
            timelines: BTreeMap::new(),
            unknown: BTreeSet::new(),
        };
        for entry in ancestry {
            descent.add(entry);
        }
        for entry in ancestry {
            if let Some((parent, _)) = entry.parent {
                descent.timelines.entry((entry.lineage, parent)).or_default();
            }
        }
        for backup in backups {
            descent.timelines.entry((backup.lineage, backup.timeline)).or_default();
        }
        descent.find_unknown();
        let last = descent.timelines.last_key_value().map(|(key, _)| key.0);
        for lineage in last.into_iter().chain(newest.map(|backup| backup.lineage)) {
            let of_lineage = descent.timelines.range_mut((lineage, 0)..=(lineage, u32::MAX));
            if let Some((_, timeline)) = of_lineage.last() {
                timeline.ended_at = None;
            }
        }
        descent
    }

    /// Of two that contradict each other the later end counts; that two parents cannot be true is remembered.
    fn add(&mut self, entry: &TimelineOf) {
        let key = (entry.lineage, entry.timeline);
        let Some(known) = self.timelines.get_mut(&key) else {
            let (parent, ended_at) = (entry.parent, entry.ended_at);
            self.timelines.insert(key, Timeline { parent, ended_at });
            return;
        };
        if known.parent != entry.parent {
            self.unknown.insert(entry.lineage);
        }
        known.ended_at = known.ended_at.zip(entry.ended_at).map(|(a, b)| a.max(b));
    }

    /// PostgreSQL numbers a timeline higher than what it came from, so only the first of a lineage has no parent here.
    fn find_unknown(&mut self) {
        let mut before = None;
        for ((lineage, id), timeline) in &self.timelines {
            let is_first = before != Some(*lineage);
            before = Some(*lineage);
            if timeline.parent.map_or(!is_first, |(parent, _)| parent >= *id) {
                self.unknown.insert(*lineage);
            }
        }
    }

    /// Is it unknown what some timeline of this lineage came from?
    pub(super) fn is_unknown(&self, lineage: LineageId) -> bool {
        self.unknown.contains(&lineage)
    }

    /// All timelines, each after the one it came from.
    pub(super) fn timelines(&self) -> impl Iterator<Item = (LineageId, u32)> {
        self.timelines.keys().copied()
    }

    /// Timelines that may still be written.
    pub(super) fn growing(&self) -> impl Iterator<Item = (LineageId, u32)> {
        let growing = self
            .timelines
            .iter()
            .filter(|(_, timeline)| timeline.ended_at.is_none());
        growing.map(|(key, _)| *key)
    }

    /// Can this timeline have a moment at `time` or later, by what was said about its end?
    pub(super) fn lasts_until(&self, lineage: LineageId, timeline: u32, time: Timestamp) -> bool {
        let known = self.timelines.get(&(lineage, timeline));
        known
            .and_then(|known| known.ended_at)
            .is_none_or(|ended_at| ended_at >= time)
    }

    /// What this timeline came from, and the LSN of the switch.
    pub(super) fn parent(&self, lineage: LineageId, timeline: u32) -> Option<(u32, u64)> {
        let parent = self.timelines.get(&(lineage, timeline))?.parent;
        parent.filter(|(parent, _)| *parent < timeline)
    }

    /// The backups from which recovery can follow this timeline, in order of LSN: its own, and those of the timelines it came
    /// from that ended before the switch.
    pub(super) fn reaching<'a>(&self, backups: &[&'a Backup], lineage: LineageId, timeline: u32) -> Vec<&'a Backup> {
        let mut reaching: Vec<&'a Backup> = Vec::new();
        let (mut at, mut limit) = (timeline, u64::MAX);
        loop {
            let there = backups
                .iter()
                .filter(|backup| backup.lineage == lineage && backup.timeline == at);
            reaching.extend(there.filter(|backup| backup.end_lsn <= limit));
            let Some((parent, switch)) = self.parent(lineage, at) else {
                break;
            };
            (at, limit) = (parent, limit.min(switch));
        }
        reaching.sort_by_key(|backup| (backup.end_lsn, backup.id));
        reaching
    }
}
