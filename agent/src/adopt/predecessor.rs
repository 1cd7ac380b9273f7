//! Does the old production live? Two servers of one cluster must not both be production.
//!
//! Nothing in the repository beats like a heart: a quiet server stores nothing. So WAL that comes in while we look proves that it lives;
//! WAL that came in lately makes it possible, unless it was this host's own agent, which does not run any more; the rest only the operator
//! knows. An agent that lives all the same is taken over and ends by itself (`run::lease`).

use std::collections::BTreeSet;
use std::time::Duration;

use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, SegmentSize, segment_name};
use pg::timeline::TimelineId;
use serde::Serialize;
use store::envelope::Kind;
use store::id::LineageId;
use store::layout::{Lane, WalName};
use store::object::{ObjectMeta, list_all};
use store::records::{Lease, Lineage};
use store::repository::Repository;

use crate::exit::Failure;
use crate::open::{Context, host_name, segment_size};
use crate::{output, status};

/// WAL that is older than this was not stored just before we came.
const LATELY: Duration = Duration::from_secs(600);
/// How much longer than `ship_interval` is looked whether WAL comes in.
const WATCH_MARGIN: Duration = Duration::from_secs(4);
/// The longest such look.
const WATCH_MAX: Duration = Duration::from_secs(30);
/// Lineages that are looked at, the newest.
const LINEAGES_MAX: usize = 16;
/// Leases that are read to find the newest one of the lineage.
const LEASES_MAX: usize = 16;

/// What is known of whoever archived the lineage before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Predecessor {
    /// Host of the newest lease.
    pub(super) host: Option<String>,
    /// When its newest WAL was stored, by the store's clock, microseconds since 1970.
    pub(super) stored_us: Option<i64>,
    /// WAL came in while we looked.
    pub(super) is_growing: bool,
    /// It was the agent of this host, which has archived for this cluster before, and no agent runs here now.
    pub(super) is_ours: bool,
}

/// Whether it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Lives,
    MayLive { age: Duration },
    Quiet,
}

impl Predecessor {
    /// Judges. Pure.
    pub(super) fn judge(&self, now_us: i64) -> Judgement {
        if self.is_growing {
            return Judgement::Lives;
        }
        let Some(stored_us) = self.stored_us.filter(|_| !self.is_ours) else {
            return Judgement::Quiet;
        };
        // A store whose clock is ahead of ours has stored it just now.
        let age = Duration::from_micros(u64::try_from(now_us - stored_us).unwrap_or(0));
        if age < LATELY {
            return Judgement::MayLive { age };
        }
        Judgement::Quiet
    }

    /// Refuses while it lives, or may.
    pub(super) fn refuse_alive(&self, context: &Context, now_us: i64) -> anyhow::Result<()> {
        let name = &context.cluster.name;
        let host = self
            .host
            .as_deref()
            .map(|host| format!(" (host \"{host}\")"))
            .unwrap_or_default();
        match self.judge(now_us) {
            Judgement::Quiet => Ok(()),
            Judgement::Lives => Err(Failure::refused(
                format!("the old server of cluster \"{name}\" lives{host}: its WAL came into the repository while we looked"),
                "Stop it and its agent for good: of one cluster only one server may be production. Only if it cannot be reached, and nobody \
                 else can reach it, say --old-is-gone.",
            )
            .into()),
            Judgement::MayLive { age } => Err(Failure::refused(
                format!(
                    "the old server of cluster \"{name}\" may live{host}: its newest WAL was stored {} s ago",
                    age.as_secs()
                ),
                "See that it is off for good and cannot come back, then say --old-is-gone.",
            )
            .into()),
        }
    }
}

/// Looks at what is archived, of every lineage: whichever it was, of one cluster only one server may be production. The worst of them.
pub(super) async fn look(context: &Context, repository: &Repository) -> anyhow::Result<Predecessor> {
    let mut lineages = repository.lineages().await?;
    lineages.sort_by_key(|lineage| std::cmp::Reverse(lineage.id));
    lineages.truncate(LINEAGES_MAX);
    let looks = lineages.iter().map(|lineage| look_at(context, repository, lineage));
    let found = futures::future::try_join_all(looks).await?;
    let danger = |one: &Predecessor| (one.is_growing, one.stored_us.filter(|_| !one.is_ours), one.stored_us);
    Ok(found.into_iter().max_by_key(danger).unwrap_or_default())
}

/// Looks at what is archived of a lineage, twice.
async fn look_at(context: &Context, repository: &Repository, lineage: &Lineage) -> anyhow::Result<Predecessor> {
    let Some(newest) = Newest::find(repository, lineage).await? else {
        return Ok(Predecessor::default());
    };
    let leases = leases_of(repository, lineage.id).await?;
    let before = newest.objects(repository).await?;
    let pause = (context.cluster.wal.ship_interval + WATCH_MARGIN).min(WATCH_MAX);
    tokio::time::sleep(pause).await;
    let after = newest.objects(repository).await?;
    let names = |objects: &[ObjectMeta]| -> BTreeSet<_> { objects.iter().map(|meta| meta.name.clone()).collect() };
    // What was stored last must be our own agent's.
    let newest_epoch = after.iter().max_by_key(|meta| meta.modified_unix_ms).and_then(|meta| {
        match repository.layout().parse_wal(meta.name.as_str()) {
            Some(WalName::Range(range)) => Some(range.epoch),
            _ => None,
        }
    });
    let is_own = |lease: &Lease| Some(lease.epoch) == newest_epoch && lease.host == host_name();
    let is_here = leases.iter().any(is_own);
    Ok(Predecessor {
        host: leases.into_iter().next().map(|lease| lease.host),
        stored_us: after.iter().map(|meta| meta.modified_unix_ms * 1000).max(),
        is_growing: !names(&after).is_subset(&names(&before)),
        is_ours: is_here && status::archived_lineage(context).is_some(),
    })
}

/// Where the newest archived WAL of a lineage is.
struct Newest {
    lineage: LineageId,
    timeline: TimelineId,
    size: SegmentSize,
    segment: SegmentNumber,
}

impl Newest {
    async fn find(repository: &Repository, lineage: &Lineage) -> anyhow::Result<Option<Self>> {
        let coverage = repository.coverage(lineage.id).await?;
        let size = segment_size(lineage)?;
        let newest = coverage.newest_timeline().zip(coverage.newest_end());
        Ok(newest.map(|(timeline, end)| Newest {
            lineage: lineage.id,
            timeline,
            size,
            segment: size.segment_of(Lsn::new(end.as_u64().saturating_sub(1))),
        }))
    }

    /// What is stored of its segment and of the next one.
    async fn objects(&self, repository: &Repository) -> anyhow::Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        for number in [self.segment, SegmentNumber(self.segment.0 + 1)] {
            let segment = segment_name(self.timeline, number, self.size);
            for lane in [Lane::Wal, Lane::Tail] {
                let prefix = repository
                    .layout()
                    .segment_prefix(lane, self.lineage, self.timeline, &segment);
                found.extend(list_all(repository.store().as_ref(), &prefix).await?);
            }
        }
        Ok(found)
    }
}

/// The newest epochs of a lineage, newest first.
async fn leases_of(repository: &Repository, lineage: LineageId) -> anyhow::Result<Vec<Lease>> {
    let prefix = repository.layout().prefix("leases");
    let leases = list_all(repository.store().as_ref(), &prefix).await?;
    let mut found = Vec::new();
    for meta in leases.iter().rev().take(LEASES_MAX) {
        match repository.read_record::<Lease>(&meta.name, Kind::Lease).await {
            Ok(lease) if lease.lineage.is_none_or(|of| of == lineage) => found.push(lease),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a lease could not be read"),
        }
    }
    Ok(found)
}

impl std::fmt::Display for Predecessor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(stored_us) = self.stored_us else {
            return f.write_str("nothing is archived yet");
        };
        write!(f, "its newest WAL was stored at {}", output::time_us(stored_us))?;
        if let Some(host) = &self.host {
            write!(f, " by host \"{host}\"")?;
        }
        f.write_str(match (self.is_growing, self.is_ours) {
            (true, _) => "; IT LIVES: WAL came in while we looked",
            (false, true) => ", this one, where no agent runs now",
            (false, false) => "; none came in while we looked",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_000_000_000_000;

    fn stored(seconds_ago: i64) -> Predecessor {
        Predecessor {
            stored_us: Some(NOW_US - seconds_ago * 1_000_000),
            ..Predecessor::default()
        }
    }

    #[test]
    fn wal_that_comes_in_proves_that_it_lives_whoever_it_was() {
        let growing = Predecessor {
            is_growing: true,
            is_ours: true,
            ..stored(5000)
        };
        assert_eq!(growing.judge(NOW_US), Judgement::Lives);
    }

    #[test]
    fn wal_of_lately_is_suspicious_unless_it_was_our_own_agent() {
        let age = Duration::from_secs(30);
        assert_eq!(stored(30).judge(NOW_US), Judgement::MayLive { age });
        assert_eq!(stored(3600).judge(NOW_US), Judgement::Quiet);
        let ours = Predecessor {
            is_ours: true,
            ..stored(30)
        };
        assert_eq!(ours.judge(NOW_US), Judgement::Quiet);
    }

    #[test]
    fn a_store_whose_clock_is_ahead_has_stored_it_just_now() {
        let age = Duration::ZERO;
        assert_eq!(stored(-60).judge(NOW_US), Judgement::MayLive { age });
    }

    #[test]
    fn where_nothing_is_archived_nobody_was_before_us() {
        assert_eq!(Predecessor::default().judge(NOW_US), Judgement::Quiet);
    }
}
