//! What a kill may cost: nothing in synchronous mode, in asynchronous mode what is younger than the interval and the PUTs in
//! flight. Pure: from what was promised and what the repository holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::plan::Mode;
use super::recorder::Commit;

/// For a machine that is busy with other things: scheduling, encoding, the answer's way to the recorder.
pub const SLACK: Duration = Duration::from_millis(500);

/// From when on the agent had nothing left to catch up with.
#[derive(Debug, Clone, Copy)]
pub struct CaughtUp {
    /// What was acknowledged before this ...
    pub asked_at: Instant,
    /// ... was reported as archived at this.
    pub at: Instant,
}

/// What is known beside the commits.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Nothing more was archived from then on.
    pub died_at: Instant,
    /// `None`: the agent died before.
    pub caught_up: Option<CaughtUp>,
    /// The highest LSN that PostgreSQL was told to be safe.
    pub confirmed: u64,
    /// Where the contiguous WAL in the repository ends.
    pub archived: u64,
    /// What may be lost in asynchronous mode.
    pub bound: Duration,
}

/// What a kill would have cost if the host had gone with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were promised and whose commit record is not in the repository.
    pub lost: Vec<i64>,
    /// Rows that are not in the repository although they are older than the bound.
    pub too_old: Vec<i64>,
    /// Age of the oldest commit that asynchronous mode would have cost.
    pub unarchived: Duration,
    /// Bytes that PostgreSQL was told to be safe and that are not.
    pub confirmed_ahead: u64,
}

/// Judges one kill. `commits`: those on the timeline that is archived.
pub fn judge(commits: &[Commit], holds: impl Fn(&Commit) -> bool, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict {
        confirmed_ahead: evidence.confirmed.saturating_sub(evidence.archived),
        ..Verdict::default()
    };
    for commit in commits {
        let Some(acknowledged_at) = commit.acknowledged_at else {
            continue;
        };
        if holds(commit) {
            continue;
        }
        let was_archived = |caught_up: CaughtUp| acknowledged_at < caught_up.asked_at;
        if commit.mode == Mode::Synchronous || evidence.caught_up.is_some_and(was_archived) {
            verdict.lost.push(commit.n);
        } else if let Some(caught_up) = evidence.caught_up {
            let since = acknowledged_at.max(caught_up.at);
            let age = evidence.died_at.saturating_duration_since(since);
            verdict.unarchived = verdict.unarchived.max(age);
            if age > evidence.bound {
                verdict.too_old.push(commit.n);
            }
        }
    }
    verdict
}

/// A restored cluster against what the repository held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Acknowledged and in the repository, and the row is not there.
    pub missing: Vec<i64>,
    /// The row is there, and its commit is not in the repository: rolled back, or never committed.
    pub extra: Vec<i64>,
    /// Not what was written.
    pub damaged: Vec<i64>,
    /// Promised in synchronous mode, and not there.
    pub lost: Vec<i64>,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        self == &Difference::default()
    }
}

/// Compares the rows of a restored cluster, number and whether the content is right, with all commits of all timelines.
///
/// One that was not acknowledged may be there if the archive has a commit of its xid. It need not: PostgreSQL gives an xid that
/// left no trace in flushed WAL to another transaction after a crash.
pub fn compare(rows: &[(i64, bool)], commits: &[Commit], holds: impl Fn(&Commit) -> bool) -> Difference {
    let present: BTreeSet<i64> = rows.iter().map(|(n, _)| *n).collect();
    let mut difference = Difference::default();
    let mut allowed = BTreeSet::new();
    for commit in commits {
        let (is_held, is_promised) = (holds(commit), commit.acknowledged_at.is_some());
        if is_held {
            allowed.insert(commit.n);
        }
        if is_promised && !present.contains(&commit.n) {
            if is_held {
                difference.missing.push(commit.n);
            }
            if commit.mode == Mode::Synchronous {
                difference.lost.push(commit.n);
            }
        }
    }
    difference.extra = present.difference(&allowed).copied().collect();
    difference.damaged = rows.iter().filter(|(_, right)| !right).map(|(n, _)| *n).collect();
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(n: i64, mode: Mode, acknowledged_at: Option<Instant>) -> Commit {
        Commit {
            n,
            xid: n as u32,
            timeline: 1,
            mode,
            acknowledged_at,
        }
    }

    fn evidence(start: Instant) -> Evidence {
        let after = |ms| start + Duration::from_millis(ms);
        Evidence {
            died_at: after(1000),
            caught_up: Some(CaughtUp {
                asked_at: after(100),
                at: after(150),
            }),
            confirmed: 500,
            archived: 500,
            bound: Duration::from_millis(600),
        }
    }

    #[test]
    fn a_synchronous_commit_that_is_not_archived_is_lost_however_young_it_is() {
        let start = Instant::now();
        let young = start + Duration::from_millis(999);
        let commits = [
            commit(1, Mode::Synchronous, Some(young)),
            commit(2, Mode::Synchronous, None),
            commit(3, Mode::Synchronous, Some(start)),
        ];
        let verdict = judge(&commits, |commit| commit.n == 3, &evidence(start));
        assert_eq!(verdict.lost, [1]);
        let nothing_known = Evidence {
            caught_up: None,
            ..evidence(start)
        };
        assert_eq!(judge(&commits, |_| false, &nothing_known).lost, [1, 3]);
    }

    #[test]
    fn an_asynchronous_commit_may_be_missing_while_it_is_younger_than_the_bound() {
        let start = Instant::now();
        let after = |ms| Some(start + Duration::from_millis(ms));
        let mut commits = vec![
            commit(1, Mode::Asynchronous, after(90)),
            commit(2, Mode::Asynchronous, after(120)),
            commit(3, Mode::Asynchronous, after(500)),
            commit(4, Mode::Asynchronous, after(1200)),
            commit(5, Mode::Asynchronous, None),
        ];
        let verdict = judge(&commits, |_| false, &evidence(start));
        assert_eq!(verdict.lost, [1], "it was reported as archived");
        assert_eq!(verdict.too_old, [2]);
        // Not older than the moment at which the agent had caught up.
        assert_eq!(verdict.unarchived, Duration::from_millis(850));
        commits.truncate(3);
        let verdict = judge(&commits, |commit| commit.n < 3, &evidence(start));
        assert_eq!(verdict.unarchived, Duration::from_millis(500));
        assert!(verdict.lost.is_empty() && verdict.too_old.is_empty());
        let nothing_known = Evidence {
            caught_up: None,
            ..evidence(start)
        };
        assert_eq!(judge(&commits, |_| false, &nothing_known), Verdict::default());
    }

    #[test]
    fn what_postgresql_was_told_must_be_in_the_repository() {
        let told_too_much = Evidence {
            confirmed: 520,
            ..evidence(Instant::now())
        };
        assert_eq!(judge(&[], |_| true, &told_too_much).confirmed_ahead, 20);
    }

    #[test]
    fn a_restore_holds_exactly_what_the_repository_held() {
        let now = Some(Instant::now());
        let commits = [
            commit(1, Mode::Synchronous, now),
            commit(2, Mode::Asynchronous, None),
            commit(3, Mode::Asynchronous, now),
            commit(4, Mode::Synchronous, now),
        ];
        for right in [vec![(1, true), (2, true), (4, true)], vec![(1, true), (4, true)]] {
            assert!(compare(&right, &commits, |commit| commit.n != 3).is_none());
        }
        let wrong = [(1, false), (3, true), (9, true)];
        let expected = Difference {
            missing: vec![4],
            extra: vec![3, 9],
            damaged: vec![1],
            lost: vec![4],
        };
        assert_eq!(compare(&wrong, &commits, |commit| commit.n != 3), expected);
    }
}
