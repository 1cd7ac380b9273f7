//! Listings that serve for many segments: a prefetcher asks for one after the other, and four listings for each would take longer than
//! to read it.

use std::collections::HashSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use pg::segment::{SegmentNumber, segment_name};
use pg::timeline::TimelineId;
use store::catalog::Coverage;
use store::layout::{Lane, WalRange};
use store::repository::Repository;

use super::segment::ranges;
use crate::decide::{self, Verdict};
use crate::error::Result;
use crate::state::State;

/// Names of one listing.
const PAGE: usize = 1000;
/// Listings on their way at a time.
const IN_FLIGHT: usize = 8;

/// What is archived from a segment on, on the way of a restore, as far as one page of names tells.
#[derive(Debug)]
pub(crate) struct Ahead {
    coverage: Coverage,
    from: SegmentNumber,
    /// The first segment of which not everything was listed.
    to: Option<SegmentNumber>,
    /// Timelines that have more behind it.
    has_more: HashSet<TimelineId>,
}

impl Ahead {
    /// Lists.
    ///
    /// # Errors
    /// The store.
    pub(crate) async fn list(repository: &Repository, state: &State, from: SegmentNumber) -> Result<Ahead> {
        let start = state.route.size.start_of(from);
        let is_ahead = |part: &&crate::route::Part| part.end.is_none_or(|end| end > start);
        let parts = state.route.parts.iter().filter(is_ahead);
        let lanes: Vec<(TimelineId, Lane)> = parts
            .flat_map(|part| [(part.timeline, Lane::Wal), (part.timeline, Lane::Tail)])
            .collect();
        let pages: Vec<Page> = stream::iter(lanes)
            .map(|(timeline, lane)| page(repository, state, timeline, lane, from))
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Ahead::of(state, from, pages))
    }

    fn of(state: &State, from: SegmentNumber, pages: Vec<Page>) -> Ahead {
        let mut ahead = Ahead {
            coverage: Coverage::of_ranges(state.lineage, pages.iter().flat_map(|page| page.ranges.iter().copied())),
            from,
            to: None,
            has_more: HashSet::new(),
        };
        for page in pages.iter().filter(|page| page.is_cut) {
            ahead.has_more.insert(page.timeline);
            // Of the last one there may be more; where nothing was understood, nothing is known.
            let last = page.ranges.last();
            let last = last.map_or(from, |last| state.route.size.segment_of(last.start));
            ahead.to = Some(ahead.to.map_or(last, |to| to.min(last)));
        }
        ahead
    }

    /// Was everything of this segment listed?
    pub(crate) fn holds(&self, number: SegmentNumber) -> bool {
        self.from <= number && self.to.is_none_or(|to| number < to)
    }

    /// What of it is to be served, by this listing. The store may have more by now: any other verdict wants a new one.
    pub(crate) fn verdict(&self, state: &State, timeline: TimelineId, number: SegmentNumber) -> Verdict {
        let end = state.route.size.end_of(number);
        let own = self.coverage.timelines.get(&timeline);
        let is_followed = own.is_some_and(|own| own.ranges.iter().any(|range| range.start >= end));
        let has_later = is_followed || self.has_more.contains(&timeline);
        decide::segment(state, &self.coverage, timeline, number, has_later)
    }
}

/// One page of a lane.
#[derive(Debug)]
struct Page {
    timeline: TimelineId,
    ranges: Vec<WalRange>,
    /// There is more behind it.
    is_cut: bool,
}

/// Lists a lane from a segment on.
async fn page(
    repository: &Repository,
    state: &State,
    timeline: TimelineId,
    lane: Lane,
    from: SegmentNumber,
) -> Result<Page> {
    let layout = repository.layout();
    let prefix = format!("{}{}/", layout.wal_prefix(lane, state.lineage), timeline.hex8());
    // The names of a segment's objects begin with its name and '/', and '.' sorts right before that.
    let after = format!("{prefix}{}.", segment_name(timeline, from, state.route.size));
    let listed = repository.store().list_page(&prefix, Some(&after), PAGE).await;
    let listed = listed.map_err(store::StoreError::from)?;
    Ok(Page {
        timeline,
        ranges: ranges(layout, &listed.objects),
        is_cut: listed.next.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use pg::lsn::Lsn;

    use super::*;
    use crate::route::tests::{MIB, tli};
    use crate::state::tests::state;

    fn page(timeline: u32, segments: std::ops::Range<u64>, is_cut: bool) -> Page {
        let range = |number: u64| WalRange {
            lineage: state().lineage,
            timeline: tli(timeline),
            start: Lsn::new(number * MIB),
            end: Lsn::new((number + 1) * MIB),
            tail: false,
            epoch: 1,
        };
        Page {
            timeline: tli(timeline),
            ranges: segments.map(range).collect(),
            is_cut,
        }
    }

    #[test]
    fn a_page_that_was_cut_says_nothing_about_its_last_segment() {
        let state = state();
        let from = SegmentNumber(1);
        let whole = Ahead::of(&state, from, vec![page(1, 1..4, false), page(2, 3..9, false)]);
        assert!(whole.holds(from) && whole.holds(SegmentNumber(1000)) && !whole.holds(SegmentNumber(0)));
        let cut = Ahead::of(&state, from, vec![page(1, 1..4, false), page(2, 3..6, true)]);
        assert!(cut.holds(SegmentNumber(4)) && !cut.holds(SegmentNumber(5)));
        let serve = |ahead: &Ahead, number| ahead.verdict(&state, tli(2), SegmentNumber(number));
        assert!(matches!(serve(&cut, 4), Verdict::Serve { is_open: false, .. }));
        // Not there by this listing, and needed: WAL behind it makes that worse.
        let hole = Ahead::of(&state, from, vec![page(2, 3..4, false), page(2, 5..6, false)]);
        assert!(matches!(serve(&hole, 4), Verdict::Stop(_)));
        let nothing = Ahead::of(&state, from, vec![page(2, 0..0, true)]);
        assert!(!nothing.holds(from));
    }
}
