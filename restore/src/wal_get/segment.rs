//! One segment: list, decide, read; again when a tail was replaced meanwhile.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, segment_name};
use pg::timeline::TimelineId;
use store::catalog::Coverage;
use store::layout::{Lane, Layout, WalName, WalRange};
use store::object::{ObjectMeta, list_all};
use store::repository::Repository;

use super::ahead::Ahead;
use crate::decide::{self, Verdict};
use crate::detour::Detours;
use crate::error::{RestoreError, Result};
use crate::new_tablespaces;
use crate::route::{Part, Piece};
use crate::scan::{gone, vanished};
use crate::state::State;

/// How often a segment is listed again.
const LISTINGS_MAX: u32 = 5;
/// Listings of one segment on their way at a time.
const LISTINGS_IN_FLIGHT: usize = 8;

/// The verdict on a segment, and its bytes when it is to be served.
pub(crate) async fn fetch_segment(
    repository: &Repository,
    state: &State,
    pgdata: &std::path::Path,
    timeline: TimelineId,
    number: SegmentNumber,
) -> Result<(Verdict, Vec<u8>)> {
    let start = state.route.size.start_of(number);
    let mut listing = 1;
    let mut detours = Detours::default();
    loop {
        let (mut coverage, has_later) = list_segment(repository, state, timeline, number).await?;
        detours.apply(&mut coverage);
        let verdict = decide::segment(state, &coverage, timeline, number, has_later);
        let Verdict::Serve { pieces, .. } = &verdict else {
            return Ok((verdict, Vec::new()));
        };
        match assemble(repository, state, pieces, start).await {
            Ok(bytes) => {
                new_tablespaces::refuse_foreign(state, pgdata, &bytes, start, timeline)?;
                return Ok((verdict, bytes));
            }
            Err(RestoreError::Vanished { .. }) if listing < LISTINGS_MAX => listing += 1,
            Err(error) if detours.around(repository, &coverage, &error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same by a listing that serves for many; whatever that does not settle is listed anew.
pub(crate) async fn fetch_ahead(
    repository: &Repository,
    state: &State,
    pgdata: &std::path::Path,
    (timeline, number): (TimelineId, SegmentNumber),
    ahead: &Ahead,
) -> Result<(Verdict, Vec<u8>)> {
    let start = state.route.size.start_of(number);
    let verdict = ahead.verdict(state, timeline, number);
    if let Verdict::Serve { pieces, is_open: false } = &verdict
        && let Ok(bytes) = assemble(repository, state, pieces, start).await
    {
        new_tablespaces::refuse_foreign(state, pgdata, &bytes, start, timeline)?;
        return Ok((verdict, bytes));
    }
    fetch_segment(repository, state, pgdata, timeline, number).await
}

/// Reads the pieces of a segment, checked, zeros behind them.
async fn assemble(repository: &Repository, state: &State, pieces: &[Piece], start: Lsn) -> Result<Vec<u8>> {
    let size = state.route.size;
    let segment_bytes = usize::try_from(size.bytes()).unwrap_or(usize::MAX);
    let mut out = Vec::new();
    let mut parts = stream::iter(pieces.to_vec())
        .map(|piece| async move {
            let bytes = repository
                .read_wal(&piece.range, size)
                .await
                .map_err(|error| gone(error, &piece.range))?;
            Ok::<_, RestoreError>((piece, bytes))
        })
        .buffered(4);
    while let Some((piece, bytes)) = parts.try_next().await? {
        if bytes.len() as u64 == size.bytes() && piece.from == start && piece.to == size.end_of(size.segment_of(start))
        {
            // The whole segment in one object, as nearly always.
            out = bytes;
            break;
        }
        if out.is_empty() {
            out.resize(segment_bytes, 0);
        }
        let short = || vanished(&piece.range);
        let index = |lsn: Lsn, base: Lsn| usize::try_from(lsn.distance_from(base)).unwrap_or(usize::MAX);
        let from = bytes
            .get(index(piece.from, piece.range.start)..index(piece.to, piece.range.start))
            .ok_or_else(short)?;
        let to = out
            .get_mut(index(piece.from, start)..index(piece.to, start))
            .ok_or_else(short)?;
        to.copy_from_slice(from);
    }
    // xlp_pageaddr of the first page: these bytes belong here.
    let address = out
        .get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    if address != Some(start.as_u64()) {
        return Err(RestoreError::damaged(
            format!("the segment at {start}"),
            "its first page belongs elsewhere",
        ));
    }
    Ok(out)
}

/// Everything of one segment on a timeline and its ancestors, by listing, and whether the timeline has WAL behind it.
async fn list_segment(
    repository: &Repository,
    state: &State,
    timeline: TimelineId,
    number: SegmentNumber,
) -> Result<(Coverage, bool)> {
    let size = state.route.size;
    let route = state.route_to(timeline);
    let (start, end) = (size.start_of(number), size.end_of(number));
    let holds = |part: &&Part| part.begin < end && part.end.is_none_or(|part_end| part_end > start);
    let parts = route.parts.iter().filter(holds);
    let lanes: Vec<(TimelineId, Lane)> = parts
        .flat_map(|part| [(part.timeline, Lane::Wal), (part.timeline, Lane::Tail)])
        .collect();
    let of_segment = stream::iter(lanes)
        .map(|(timeline, lane)| list_ranges(repository, state, timeline, lane, number))
        .buffered(LISTINGS_IN_FLIGHT)
        .try_collect::<Vec<_>>();
    let later = |lane| has_behind(repository, state, timeline, lane, number);
    // All at once: each of them waits for the store.
    let (listed, wal_later, tail_later) = tokio::try_join!(of_segment, later(Lane::Wal), later(Lane::Tail))?;
    let coverage = Coverage::of_ranges(state.lineage, listed.into_iter().flatten());
    Ok((coverage, wal_later || tail_later))
}

/// What a lane has of a segment.
async fn list_ranges(
    repository: &Repository,
    state: &State,
    timeline: TimelineId,
    lane: Lane,
    number: SegmentNumber,
) -> Result<Vec<WalRange>> {
    let layout = repository.layout();
    let segment = segment_name(timeline, number, state.route.size);
    let prefix = layout.segment_prefix(lane, state.lineage, timeline, &segment);
    let listed = list_all(repository.store().as_ref(), &prefix)
        .await
        .map_err(store::StoreError::from)?;
    Ok(ranges(layout, &listed))
}

/// What of a listing holds WAL.
pub(super) fn ranges(layout: &Layout, listed: &[ObjectMeta]) -> Vec<WalRange> {
    let range = |meta: &ObjectMeta| match layout.parse_wal(meta.name.as_str()) {
        Some(WalName::Range(range)) => Some(range),
        _ => None,
    };
    listed.iter().filter_map(range).collect()
}

/// True when a lane has anything of a later segment.
async fn has_behind(
    repository: &Repository,
    state: &State,
    timeline: TimelineId,
    lane: Lane,
    number: SegmentNumber,
) -> Result<bool> {
    let layout = repository.layout();
    let segment = segment_name(timeline, number, state.route.size);
    let prefix = format!("{}{}/", layout.wal_prefix(lane, state.lineage), timeline.hex8());
    // '0' sorts right behind '/': what comes after it is in a later segment, or the history.
    let page = repository
        .store()
        .list_page(&prefix, Some(&format!("{prefix}{segment}0")), 2)
        .await
        .map_err(store::StoreError::from)?;
    Ok(!ranges(layout, &page.objects).is_empty())
}
