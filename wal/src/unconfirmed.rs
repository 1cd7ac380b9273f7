//! What was stored and never confirmed is read before it counts.
//!
//! A connection that breaks can leave half an object, or other bytes, under its name, and the agent may die before it learns of it.
//! Its name would then say that the WAL is there. So what lies behind the confirmed position, which is at most what was on its way
//! when the last session ended, is read and checked on every connect; the rest has been proven when it was confirmed.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use store::StoreError;
use store::catalog::Coverage;
use store::layout::WalRange;
use store::object::ErrorClass;
use store::repository::Repository;

/// A session may have had more on its way than the present limits allow.
const WINDOW_MIN: u64 = 64 << 20;
/// Objects that are read at once.
const AT_ONCE: usize = 2;

/// Takes damaged objects out of the newest timeline's coverage, among those behind `confirmed` that a session with at most `window`
/// bytes on their way can have left.
pub(crate) async fn drop_damaged(
    repository: &Repository,
    coverage: &mut Coverage,
    confirmed: Option<Lsn>,
    window: u64,
    size: SegmentSize,
) -> Result<(), StoreError> {
    let ranges = unproven(coverage, confirmed, window.max(WINDOW_MIN));
    let mut checks = stream::iter(ranges)
        .map(|range| async move {
            match repository.check_wal(&range, size).await {
                Ok(()) => Ok(None),
                // A tail that its whole range has replaced meanwhile.
                Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(Some(range)),
                Err(error @ StoreError::Untrusted { .. }) => {
                    tracing::warn!(%error, "an object does not count; its WAL is archived again when it is streamed");
                    Ok(Some(range))
                }
                Err(error) if error.damaged_object().is_some() => {
                    tracing::error!(%error, "an object that was never confirmed is damaged; its WAL is archived again");
                    Ok(Some(range))
                }
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(checked) = checks.try_next().await? {
        if let Some(range) = checked {
            coverage.remove(&range);
        }
    }
    Ok(())
}

fn unproven(coverage: &Coverage, confirmed: Option<Lsn>, window: u64) -> Vec<WalRange> {
    let newest = coverage.newest_timeline();
    let Some(timeline) = newest.and_then(|timeline| coverage.timelines.get(&timeline)) else {
        return Vec::new();
    };
    let end = timeline.end().unwrap_or(Lsn::ZERO).as_u64();
    let from = confirmed.unwrap_or(Lsn::ZERO).as_u64().max(end.saturating_sub(window));
    let ranges = timeline.ranges.iter();
    ranges.filter(|range| range.end.as_u64() > from).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::timeline::TimelineId;
    use store::id::LineageId;

    #[test]
    fn what_was_confirmed_is_not_read_again_and_no_more_than_the_window_is() {
        let range = |start: u64, end: u64| WalRange {
            lineage: LineageId::default(),
            timeline: TimelineId::FIRST,
            start: Lsn::new(start),
            end: Lsn::new(end),
            epoch: 1,
            tail: false,
        };
        let ranges = [range(0, 10), range(10, 20), range(20, 30), range(40, 50)];
        let coverage = Coverage::of_ranges(LineageId::default(), ranges);
        let starts = |confirmed: Option<u64>, window: u64| -> Vec<u64> {
            let found = unproven(&coverage, confirmed.map(Lsn::new), window);
            found.iter().map(|range| range.start.as_u64()).collect()
        };
        assert_eq!(starts(Some(50), 100), [0; 0]);
        assert_eq!(starts(Some(20), 100), [20, 40]);
        assert_eq!(starts(Some(5), 25), [20, 40]);
        assert_eq!(starts(None, 100), [0, 10, 20, 40]);
    }
}
