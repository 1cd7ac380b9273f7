//! Which WAL of one lineage is covered by objects, as pure arithmetic over their names.

use std::collections::BTreeMap;

use pg::lsn::Lsn;
use pg::timeline::{TimelineHistory, TimelineId};

use crate::id::LineageId;
use crate::layout::WalRange;

/// A range of WAL that is missing: later WAL of its timeline is there, or it was declared lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub start: Lsn,
    /// First byte that is there again.
    pub end: Lsn,
}

/// Coverage of one lineage.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// The lineage.
    pub lineage: LineageId,
    /// By timeline.
    pub timelines: BTreeMap<TimelineId, TimelineCoverage>,
    /// Histories of timelines that have ancestors.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Holes that an agent has declared, as it found them; WAL that came back later is no hole.
    pub declared: Vec<Hole>,
    /// WAL that the keeper has deleted: missing, and no loss.
    pub given_up: Vec<Hole>,
}

/// Coverage of one timeline.
#[derive(Clone, Debug, Default)]
pub struct TimelineCoverage {
    /// Objects and tails, sorted by start; at equal start whole objects and longer ranges first, then higher epochs.
    pub ranges: Vec<WalRange>,
}

impl Coverage {
    pub(super) fn new(lineage: LineageId) -> Self {
        Coverage {
            lineage,
            timelines: BTreeMap::new(),
            histories: BTreeMap::new(),
            declared: Vec::new(),
            given_up: Vec::new(),
        }
    }

    /// Coverage by these ranges, without histories.
    #[must_use]
    pub fn of_ranges(lineage: LineageId, ranges: impl IntoIterator<Item = WalRange>) -> Self {
        let mut coverage = Coverage::new(lineage);
        ranges.into_iter().for_each(|range| coverage.add(range));
        coverage.finish();
        coverage
    }

    pub(super) fn add(&mut self, range: WalRange) {
        self.timelines.entry(range.timeline).or_default().ranges.push(range);
    }

    pub(super) fn add_history(&mut self, history: TimelineHistory) {
        self.histories.insert(history.timeline, history);
    }

    /// Takes a declared hole in.
    pub fn add_hole(&mut self, hole: Hole) {
        self.declared.push(hole);
    }

    pub(super) fn finish(&mut self) {
        for timeline in self.timelines.values_mut() {
            timeline.sort();
        }
    }

    /// The newest timeline that has WAL.
    #[must_use]
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        self.timelines.keys().next_back().copied()
    }

    /// Where the archive ends: last covered byte of the newest timeline, plus one.
    #[must_use]
    pub fn newest_end(&self) -> Option<Lsn> {
        self.timelines.get(&self.newest_timeline()?)?.end()
    }

    /// Takes an object out, as if it were not there: it is damaged.
    pub fn remove(&mut self, damaged: &WalRange) {
        if let Some(timeline) = self.timelines.get_mut(&damaged.timeline) {
            timeline.ranges.retain(|range| range != damaged);
            if timeline.ranges.is_empty() {
                self.timelines.remove(&damaged.timeline);
            }
        }
    }

    /// True when other objects of its timeline hold all that this one holds.
    #[must_use]
    pub fn can_do_without(&self, range: &WalRange) -> bool {
        let Some(timeline) = self.timelines.get(&range.timeline) else {
            return false;
        };
        let others = timeline.ranges.iter().filter(|other| *other != range).copied();
        let others = TimelineCoverage {
            ranges: others.collect(),
        };
        timeline.ranges.contains(range) && others.missing(range.start, range.end).is_empty()
    }

    /// What of `[start, end)` on a timeline no object covers.
    #[must_use]
    pub fn missing(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> Vec<(Lsn, Lsn)> {
        match self.timelines.get(&timeline) {
            Some(archived) => archived.missing(start, end),
            None if start < end => vec![(start, end)],
            None => Vec::new(),
        }
    }

    /// What of `[start, end)` on a timeline no object covers and nobody has declared lost, or given up.
    #[must_use]
    pub fn undeclared(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> Vec<(Lsn, Lsn)> {
        let mut missing = self.missing(timeline, start, end);
        missing.retain(|(start, end)| !self.is_declared(timeline, *start, *end));
        missing
    }

    fn is_declared(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> bool {
        let known = self.declared.iter().chain(&self.given_up);
        are_in(known.filter(|hole| hole.timeline == timeline), start, end)
    }

    fn is_given_up(&self, hole: &Hole) -> bool {
        let given_up = self.given_up.iter().filter(|known| known.timeline == hole.timeline);
        are_in(given_up, hole.start, hole.end)
    }

    /// Where the first hole of a timeline begins that nobody has declared.
    #[must_use]
    pub fn first_undeclared_hole(&self, timeline: TimelineId) -> Option<Lsn> {
        let archived = self.timelines.get(&timeline)?;
        // Where the timeline before it is archived too, nothing is missing between the two.
        let switch = self
            .histories
            .get(&timeline)
            .and_then(|history| history.ancestry().last().map(|last| last.1));
        let follows = self.timelines.range(..timeline).next().is_some();
        let begin = archived.begin()?;
        let gap = switch
            .filter(|switch| follows && *switch < begin)
            .map(|switch| (switch, begin));
        let mut holes = gap.into_iter().chain(archived.holes());
        holes
            .find(|(start, end)| !self.is_declared(timeline, *start, *end))
            .map(|(start, _)| start)
    }

    /// Holes of all timelines: those that the names show, and the declared ones as far as nothing covers them. What was given up is none.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        let mut holes: Vec<Hole> = self
            .timelines
            .iter()
            .flat_map(|(timeline, coverage)| {
                coverage.holes().into_iter().map(|(start, end)| Hole {
                    timeline: *timeline,
                    start,
                    end,
                })
            })
            .collect();
        let known = holes.clone();
        for declared in &self.declared {
            let uncovered = match self.timelines.get(&declared.timeline) {
                Some(coverage) => coverage.missing(declared.start, declared.end),
                None => vec![(declared.start, declared.end)],
            };
            for (start, end) in uncovered {
                let is_known =
                    |hole: &Hole| hole.timeline == declared.timeline && hole.start <= start && end <= hole.end;
                if !known.iter().any(is_known) {
                    holes.push(Hole {
                        timeline: declared.timeline,
                        start,
                        end,
                    });
                }
            }
        }
        holes.retain(|hole| !self.is_given_up(hole));
        holes.sort_by_key(|hole| (hole.timeline, hole.start));
        holes.dedup();
        holes
    }

    /// The end of the declared hole that begins at or before `at` and ends behind it, if any: there the archive goes on.
    #[must_use]
    pub fn behind_declared_hole(&self, timeline: TimelineId, at: Lsn) -> Option<Lsn> {
        let holes = self.declared.iter();
        holes
            .filter(|hole| hole.timeline == timeline && hole.start <= at && at < hole.end)
            .map(|hole| hole.end)
            .max()
    }

    /// Where contiguous WAL from `from` on ends, on the way to `timeline`: follows the ancestors of `timeline` up to their switch
    /// points. `None` when `from` itself is not covered.
    #[must_use]
    pub fn contiguous_end(&self, timeline: TimelineId, from: Lsn) -> Option<Lsn> {
        let mut at = from;
        for (part, begin, end) in self.path(timeline) {
            let is_past = end.is_some_and(|end| end <= at);
            if is_past {
                continue;
            }
            if begin > at {
                break;
            }
            let reached = self
                .timelines
                .get(&part)
                .and_then(|coverage| coverage.contiguous_end(at));
            let Some(reached) = reached else { break };
            at = end.map_or(reached, |end| reached.min(end));
            if end.is_none_or(|end| at < end) {
                break;
            }
        }
        (at > from).then_some(at)
    }

    /// Ancestors of a timeline and itself, oldest first: timeline, begin, end.
    #[must_use]
    pub fn path(&self, timeline: TimelineId) -> Vec<(TimelineId, Lsn, Option<Lsn>)> {
        match self.histories.get(&timeline) {
            Some(history) => history.ancestry(),
            None => vec![(timeline, Lsn::ZERO, None)],
        }
    }

    /// The objects that cover `[start, end)` on the way to `timeline`, in order. `None` when something is missing.
    #[must_use]
    pub fn cover(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> Option<Vec<WalRange>> {
        let mut out = Vec::new();
        let mut at = start;
        for (part, _, part_end) in self.path(timeline) {
            let until = part_end.map_or(end, |part_end| part_end.min(end));
            if until <= at {
                continue;
            }
            let part = self.timelines.get(&part)?.cover(at, until)?;
            out.extend(part);
            at = until;
        }
        (at >= end).then_some(out)
    }
}

/// True when these holes, one after the other, reach over all of a range.
fn are_in<'h>(holes: impl Iterator<Item = &'h Hole> + Clone, start: Lsn, end: Lsn) -> bool {
    let mut at = start;
    let behind = |at: Lsn| {
        let here = holes.clone().filter(|hole| hole.start <= at && at < hole.end);
        here.map(|hole| hole.end).max()
    };
    while let Some(next) = behind(at) {
        at = next;
    }
    at >= end
}

impl TimelineCoverage {
    fn sort(&mut self) {
        self.ranges.sort_by(|a, b| {
            a.start
                .cmp(&b.start)
                .then(b.end.cmp(&a.end))
                .then(a.tail.cmp(&b.tail))
                .then(b.epoch.cmp(&a.epoch))
        });
    }

    /// Where contiguous WAL from `from` on ends; `None` when `from` is not covered.
    #[must_use]
    pub fn contiguous_end(&self, from: Lsn) -> Option<Lsn> {
        let mut at = from;
        for range in &self.ranges {
            if range.start > at {
                break;
            }
            at = at.max(range.end);
        }
        (at > from).then_some(at)
    }

    /// First covered byte.
    #[must_use]
    pub fn begin(&self) -> Option<Lsn> {
        self.ranges.first().map(|range| range.start)
    }

    /// Last covered byte, plus one.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        self.ranges.iter().map(|range| range.end).max()
    }

    /// Missing ranges between the first and the last covered byte.
    #[must_use]
    pub fn holes(&self) -> Vec<(Lsn, Lsn)> {
        let mut holes = Vec::new();
        let Some(mut at) = self.begin() else { return holes };
        for range in &self.ranges {
            if range.start > at {
                holes.push((at, range.start));
            }
            at = at.max(range.end);
        }
        holes
    }

    /// What of `[start, end)` no object covers.
    #[must_use]
    pub fn missing(&self, start: Lsn, end: Lsn) -> Vec<(Lsn, Lsn)> {
        let mut out = Vec::new();
        let mut at = start;
        for range in &self.ranges {
            if range.start >= end {
                break;
            }
            if range.start > at {
                out.push((at, range.start));
            }
            at = at.max(range.end);
        }
        if at < end {
            out.push((at, end));
        }
        out
    }

    /// A small set of objects that cover `[start, end)`, in order: at each point the one that reaches furthest, whole objects
    /// before tails.
    #[must_use]
    pub fn cover(&self, start: Lsn, end: Lsn) -> Option<Vec<WalRange>> {
        let mut out = Vec::new();
        let mut at = start;
        while at < end {
            let best = self
                .ranges
                .iter()
                .take_while(|range| range.start <= at)
                .filter(|range| range.end > at)
                .max_by(|a, b| b.tail.cmp(&a.tail).then(a.end.cmp(&b.end)).then(a.epoch.cmp(&b.epoch)))?;
            out.push(*best);
            at = best.end;
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests;
