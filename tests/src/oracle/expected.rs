//! What a restored cluster must hold, and what it does hold.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use super::{Commit, payload};

const PAGE_ROWS: i64 = 10_000;

/// Row numbers that must be there, and those that may be. All others must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    pub must: BTreeSet<i64>,
    pub may: BTreeSet<i64>,
}

/// Everything the oracle has committed.
#[derive(Debug, Clone)]
pub struct History {
    seed: u64,
    payload_bytes_max: u64,
    commits: Vec<Commit>,
}

/// The difference between a cluster and an expectation.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    pub present: u64,
    /// Must be there and are not.
    pub missing: Vec<i64>,
    /// Must not be there and are: later than the point, or rolled back.
    pub unexpected: Vec<i64>,
    /// There, with other content than was written.
    pub damaged: Vec<i64>,
    /// Acknowledged at any time and not there, expected or not: the loss.
    pub lost: Vec<i64>,
    /// Broken promises of transactions: torn ones, or a later one without an earlier one.
    pub inconsistent: Vec<String>,
}

impl History {
    pub(super) fn new(seed: u64, payload_bytes_max: u64, commits: Vec<Commit>) -> Self {
        Self {
            seed,
            payload_bytes_max,
            commits,
        }
    }

    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// All that was acknowledged; what was only sent may be there.
    pub fn expected_now(&self) -> Expected {
        self.split(|commit| commit.acknowledged_at.map(|_| true))
    }

    /// After recovery of all WAL up to `lsn`. Exact where all commits are clearly before or after.
    pub fn expected_at_lsn(&self, lsn: u64) -> Expected {
        self.split(|commit| {
            if commit.lsn_before >= lsn {
                return Some(false);
            }
            let certain = commit.acknowledged_at.is_some();
            (certain && commit.lsn_after.is_some_and(|after| after <= lsn)).then_some(true)
        })
    }

    /// After recovery to a time. Recovery ends at the first record that is later, and the records of
    /// several connections are not quite in the order of their times. So a commit in time that may
    /// come after a late one in the WAL is a "may". One connection, or a mark, makes it exact.
    pub fn expected_at_time(&self, time_us: i64) -> Expected {
        let late = |commit: &&Commit| commit.committed_us.is_none_or(|at| at > time_us);
        let starts = self.commits.iter().filter(late).map(|late| late.lsn_before);
        let first_late = starts.min().unwrap_or(u64::MAX);
        self.split(|commit| match (commit.committed_us, commit.lsn_after) {
            (Some(at), _) if at > time_us => Some(false),
            (Some(_), Some(after)) if after <= first_late => Some(true),
            _ => None,
        })
    }

    /// `verdict`: must be there, must not, or unknown.
    fn split(&self, verdict: impl Fn(&Commit) -> Option<bool>) -> Expected {
        let mut expected = Expected::default();
        for commit in &self.commits {
            match verdict(commit) {
                Some(true) => expected.must.insert(commit.n),
                Some(false) => false,
                None => expected.may.insert(commit.n),
            };
        }
        expected
    }

    /// Reads the whole table and compares it row by row.
    pub async fn compare(&self, client: &Client, expected: &Expected) -> Result<Comparison> {
        let mut comparison = Comparison::default();
        let present = self.read(client, &mut comparison).await?;
        comparison.present = present.len() as u64;
        let absent = |n: &&i64| !present.contains(n);
        comparison.missing = expected.must.iter().filter(absent).copied().collect();
        comparison.unexpected = present
            .iter()
            .filter(|n| !expected.must.contains(n) && !expected.may.contains(n))
            .copied()
            .collect();
        comparison.lost = self
            .acknowledged()
            .map(|commit| commit.n)
            .filter(|n| !present.contains(n))
            .collect();
        self.check_order(&present, &mut comparison.inconsistent);
        check_counts(client, &mut comparison.inconsistent).await?;
        Ok(comparison)
    }

    /// Fails unless the cluster holds what is expected, no more, no less, every byte right.
    pub async fn assert_exact(&self, client: &Client, expected: &Expected) -> Result<Comparison> {
        let comparison = self.compare(client, expected).await?;
        ensure!(comparison.is_clean(), "{}", comparison.report());
        Ok(comparison)
    }

    fn acknowledged(&self) -> impl Iterator<Item = &Commit> {
        let acknowledged = |commit: &&Commit| commit.acknowledged_at.is_some();
        self.commits.iter().filter(acknowledged)
    }

    async fn read(&self, client: &Client, comparison: &mut Comparison) -> Result<BTreeSet<i64>> {
        let statement = client
            .prepare("select n, payload, hash = md5(payload) from oracle where n > $1 order by n limit $2")
            .await?;
        let mut present = BTreeSet::new();
        let mut last = i64::MIN;
        loop {
            let rows = client.query(&statement, &[&last, &PAGE_ROWS]).await?;
            for row in &rows {
                last = row.get(0);
                let content: &str = row.get(1);
                let hash_fits: bool = row.get(2);
                if !hash_fits || content != payload(self.seed, last, self.payload_bytes_max) {
                    comparison.damaged.push(last);
                }
                present.insert(last);
            }
            if (rows.len() as i64) < PAGE_ROWS {
                return Ok(present);
            }
        }
    }

    /// A connection's commits are in order: one that is there without an earlier one is impossible.
    fn check_order(&self, present: &BTreeSet<i64>, problems: &mut Vec<String>) {
        let mut first_absent = BTreeMap::new();
        for commit in self.acknowledged() {
            if !present.contains(&commit.n) {
                first_absent.entry(commit.connection).or_insert(commit.n);
            } else if let Some(absent) = first_absent.get(&commit.connection) {
                problems.push(format!("row {} is there without {absent}", commit.n));
            }
        }
    }
}

/// Rows and their connection's counter were written by the same transactions.
async fn check_counts(client: &Client, problems: &mut Vec<String>) -> Result<()> {
    let rows = client
        .query(
            "select c.connection, c.last, c.rows, coalesce(max(o.n), 0), count(o.n)
             from oracle_connection c left join oracle o using (connection)
             group by c.connection, c.last, c.rows",
            &[],
        )
        .await?;
    for row in rows {
        let connection: i32 = row.get(0);
        let counter: (i64, i64) = (row.get(1), row.get(2));
        let table: (i64, i64) = (row.get(3), row.get(4));
        if counter != table {
            problems.push(format!(
                "connection {connection}: counter says (last, rows) {counter:?}, the table {table:?}"
            ));
        }
    }
    Ok(())
}

impl Comparison {
    pub fn is_clean(&self) -> bool {
        let rows = [&self.missing, &self.unexpected, &self.damaged];
        rows.iter().all(|rows| rows.is_empty()) && self.inconsistent.is_empty()
    }

    /// A few lines that fit on a screen.
    pub fn report(&self) -> String {
        let mut text = format!("{} rows present", self.present);
        for (name, rows) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("damaged", &self.damaged),
            ("lost", &self.lost),
        ] {
            let first = &rows[..rows.len().min(10)];
            text.push_str(&format!("\n{name}: {} {first:?}", rows.len()));
        }
        for problem in self.inconsistent.iter().take(10) {
            text.push_str(&format!("\n{problem}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn commit(n: i64, lsns: (u64, u64), committed_us: i64) -> Commit {
        Commit {
            n,
            connection: 0,
            xid: n.to_string(),
            sent_at: SystemTime::UNIX_EPOCH,
            acknowledged_at: Some(SystemTime::UNIX_EPOCH),
            lsn_before: lsns.0,
            lsn_after: Some(lsns.1),
            committed_us: Some(committed_us),
        }
    }

    fn sets(expected: &Expected) -> (Vec<i64>, Vec<i64>) {
        let list = |set: &BTreeSet<i64>| set.iter().copied().collect();
        (list(&expected.must), list(&expected.may))
    }

    #[test]
    fn what_is_not_clearly_before_or_after_may_be_there() {
        let mut unknown = commit(4, (35, 0), 0);
        (unknown.acknowledged_at, unknown.lsn_after, unknown.committed_us) = (None, None, None);
        let commits = vec![
            commit(1, (10, 20), 100),
            commit(2, (15, 30), 200),
            commit(3, (30, 40), 300),
            unknown,
        ];
        let history = History::new(0, 0, commits);
        assert_eq!(sets(&history.expected_at_lsn(20)), (vec![1], vec![2]));
        assert_eq!(sets(&history.expected_at_lsn(30)), (vec![1, 2], vec![]));
        assert_eq!(sets(&history.expected_at_lsn(99)), (vec![1, 2, 3], vec![4]));
        assert_eq!(sets(&history.expected_at_time(200)), (vec![1, 2], vec![4]));
        // 2 is late and starts before 1 has ended: 1 may come after it.
        assert_eq!(sets(&history.expected_at_time(100)), (vec![], vec![1, 4]));
        assert_eq!(sets(&history.expected_now()), (vec![1, 2, 3], vec![4]));
    }
}
