//! One segment: list, decide, read; again when a tail was replaced meanwhile.

use pg::segment::SegmentNumber;
use pg::timeline::TimelineId;
use store::repository::Repository;

use super::{assemble, list_segment};
use crate::decide::{self, Verdict};
use crate::error::{RestoreError, Result};
use crate::state::State;

/// How often a segment is listed again.
const LISTINGS_MAX: u32 = 5;

/// The verdict on a segment, and its bytes when it is to be served.
pub(crate) async fn fetch_segment(repository: &Repository, state: &State, timeline: TimelineId, number: SegmentNumber) -> Result<(Verdict, Vec<u8>)> {
    let mut listing = 1;
    loop {
        let (coverage, has_later) = list_segment(repository, state, timeline, number).await?;
        let verdict = decide::segment(state, &coverage, timeline, number, has_later);
        let Verdict::Serve { pieces, .. } = &verdict else { return Ok((verdict, Vec::new())) };
        match assemble(repository, state, pieces, state.route.size.start_of(number)).await {
            Ok(bytes) => return Ok((verdict, bytes)),
            Err(RestoreError::Vanished { .. }) if listing < LISTINGS_MAX => listing += 1,
            Err(error) => return Err(error),
        }
    }
}
