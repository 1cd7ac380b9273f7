//! Which lineage the server's WAL belongs to: decided by the code that decides it for `run`, without writing anything.

use std::sync::Arc;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::identity::ServerVersion;
use pg::lsn::Lsn;
use pg::replication::{ReplicationSession, SystemIdentity};
use pg::segment::SegmentSize;
use pg::timeline::{TimelineHistory, TimelineId};
use store::records::Lineage;
use store::repository::Repository;
use wal::lane::{LaneEnd, LaneInputs};
use wal::lineage::check_identity;

use crate::exit::Failure;
use crate::open::Context;
use crate::run::lineages::{self, Opening};
use crate::sql;

/// What the server says it is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) identity: SystemIdentity,
    pub(super) version: ServerVersion,
    pub(super) size: SegmentSize,
    pub(super) history: TimelineHistory,
}

/// The branch of an older timeline that the server does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) timeline: TimelineId,
    /// Where the server's timeline left it.
    pub(super) left: Lsn,
    /// Up to where it is archived.
    pub(super) archived: Lsn,
}

/// How the archive goes on.
#[derive(Debug, Clone)]
pub(super) enum Course {
    /// Somebody streams from the server's slot already.
    Streamed { lineage: Lineage },
    /// The server's history is the archived one.
    GoesOn { lineage: Lineage, branch: Option<Branch> },
    /// Another history of the same cluster: a new lineage, which the daemon begins when it connects.
    Parts { from: Lineage, reason: String },
    /// Another cluster, as after pg_upgrade: a new lineage, which no daemon would begin.
    Other { from: Lineage, reason: String },
}

impl Course {
    /// The lineage that was there before.
    pub(super) fn known(&self) -> &Lineage {
        match self {
            Course::Streamed { lineage } | Course::GoesOn { lineage, .. } => lineage,
            Course::Parts { from, .. } | Course::Other { from, .. } => from,
        }
    }

    /// Why a new lineage begins, if one does.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Course::Parts { reason, .. } | Course::Other { reason, .. } => Some(reason),
            Course::Streamed { .. } | Course::GoesOn { .. } => None,
        }
    }
}

impl Server {
    /// Asks it.
    pub(super) async fn look(connect: &ConnectOptions) -> anyhow::Result<Self> {
        let mut session = ReplicationSession::connect(connect)
            .await
            .context("cannot open a replication connection")?;
        let identity = session.identify_system().await?;
        let size = session.segment_size().await?;
        let history = if identity.timeline == TimelineId::FIRST {
            TimelineHistory::root(identity.timeline)
        } else {
            let (_, bytes) = session.timeline_history(identity.timeline).await?;
            TimelineHistory::parse(identity.timeline, &bytes).context("the server's timeline history makes no sense")?
        };
        let version = session.server_version();
        let _ = session.close().await;
        Ok(Server {
            identity,
            version,
            size,
            history,
        })
    }

    fn is_of(&self, lineage: &Lineage) -> bool {
        check_identity(lineage, &self.identity, self.version.major(), self.size).is_ok()
    }

    /// What makes it another cluster than the lineage's.
    fn differs(&self, lineage: &Lineage) -> String {
        let (new, old) = (self.version.major(), ServerVersion(lineage.server_version).major());
        let mut differences = Vec::new();
        if new != old {
            differences.push(format!("PostgreSQL {new} instead of {old}"));
        }
        if self.identity.system_identifier.as_u64() != lineage.system_identifier {
            let found = self.identity.system_identifier;
            differences.push(format!(
                "system identifier {found} instead of {}",
                lineage.system_identifier
            ));
        }
        if self.size.bytes() != lineage.segment_bytes {
            let (found, expected) = (self.size.bytes(), lineage.segment_bytes);
            differences.push(format!("WAL segments of {found} bytes instead of {expected}"));
        }
        format!("adopted as another cluster: {}", differences.join(", "))
    }
}

/// The lineage of this server as far as names and identities tell: the newest that could be its own, or the newest of all.
pub(super) fn plan_lineage<'a>(server: &Server, lineages: &'a [Lineage]) -> Option<Result<&'a Lineage, &'a Lineage>> {
    let newest = lineages.iter().max_by_key(|lineage| lineage.id)?;
    let own = lineages.iter().filter(|lineage| server.is_of(lineage));
    Some(own.max_by_key(|lineage| lineage.id).ok_or(newest))
}

/// Finds out. Reads only.
pub(super) async fn find(
    context: &Context,
    connect: &ConnectOptions,
    repository: &Arc<Repository>,
    server: &Server,
    slot: Option<sql::Slot>,
) -> anyhow::Result<Course> {
    let lineages = repository.lineages().await?;
    let lineage = match plan_lineage(server, &lineages) {
        Some(Ok(own)) => own.clone(),
        Some(Err(newest)) => {
            return Ok(Course::Other {
                from: newest.clone(),
                reason: server.differs(newest),
            });
        }
        None => {
            return Err(
                Failure::refused("the repository has no lineage of this cluster", "Run `wal-agent init`.").into(),
            );
        }
    };
    let inputs = LaneInputs {
        slot_restart: slot.and_then(|slot| slot.restart),
        ..lineages::inputs(context, connect, repository, lineage)?
    };
    let from = inputs.lineage.clone();
    let reason = match lineages::open(Box::new(inputs)).await? {
        Opening::Ready(inputs, _) => {
            let lineage = inputs.lineage.clone();
            let branch = branch(repository, &lineage, server).await?;
            return Ok(Course::GoesOn { lineage, branch });
        }
        Opening::Ended(LaneEnd::Diverged { reason, .. } | LaneEnd::Untied { reason, .. }) => reason,
        Opening::Ended(end) => return Err(anyhow::anyhow!("the archive cannot be continued: {end:?}")),
    };
    Ok(Course::Parts { from, reason })
}

/// What the server left behind of the newest archived timeline.
async fn branch(repository: &Repository, lineage: &Lineage, server: &Server) -> anyhow::Result<Option<Branch>> {
    let coverage = repository.coverage(lineage.id).await?;
    let newest = coverage
        .newest_timeline()
        .filter(|newest| *newest != server.identity.timeline);
    let end = coverage.newest_end();
    Ok(newest.zip(end).and_then(|(timeline, archived)| {
        let left = server.history.switch_point_after(timeline)?;
        Some(Branch {
            timeline,
            left,
            archived,
        })
    }))
}

#[cfg(test)]
mod tests {
    use pg::identity::SystemIdentifier;
    use store::id::LineageId;

    use super::*;

    fn lineage(number: u64, system_identifier: u64, server_version: u32) -> Lineage {
        Lineage {
            id: LineageId::from_parts(number, [0; 10]),
            system_identifier,
            server_version,
            segment_bytes: 1 << 20,
            parent: None,
            fork_lsn: None,
            reason: "init".into(),
            created_us: 1,
            timeline: 1,
            begin_lsn: 0,
        }
    }

    fn server(system_identifier: u64, version: u32) -> Server {
        Server {
            identity: SystemIdentity {
                system_identifier: SystemIdentifier(system_identifier),
                timeline: TimelineId::FIRST,
                flush_lsn: Lsn::new(1 << 24),
            },
            version: ServerVersion(version),
            size: SegmentSize::new(1 << 20).unwrap(),
            history: TimelineHistory::root(TimelineId::FIRST),
        }
    }

    #[test]
    fn the_newest_lineage_of_the_same_cluster_is_gone_on_with() {
        let known = [lineage(1, 7, 150_002), lineage(2, 7, 150_002), lineage(3, 8, 170_001)];
        let found = plan_lineage(&server(7, 150_018), &known).unwrap();
        assert_eq!(found.unwrap().id, known[1].id);
    }

    #[test]
    fn a_server_after_pg_upgrade_leaves_the_newest_lineage_and_says_why() {
        let known = [lineage(1, 7, 150_002), lineage(2, 7, 150_002)];
        let upgraded = server(9, 180_000);
        let left = plan_lineage(&upgraded, &known).unwrap().unwrap_err();
        assert_eq!(left.id, known[1].id);
        let reason = upgraded.differs(left);
        assert!(reason.contains("PostgreSQL 18 instead of 15") && reason.contains("system identifier 9 instead of 7"));
    }

    #[test]
    fn a_cluster_without_a_lineage_has_no_plan() {
        assert!(plan_lineage(&server(7, 150_002), &[]).is_none());
    }
}
