//! A run that never was, for tests of what is made of one.

use std::sync::Arc;
use std::time::Duration;

use super::process::{Role, Sample};
use super::watch::{Seen, Step};
use super::{Commit, Mark, Measured, put_probe};
use crate::scenario::{Plan, Scenario};

const TEXT: &str = "
    about = 'An example.'
    store = { kind = 's3' }
    [[phase]]
    name = 'load'
    seconds = 10
    commits_per_second = 100
    [[event]]
    kind = 'store_away'
    at_seconds = 4
    seconds = 2
    [thresholds]
    lost_commits = 0
    lag_p99 = 1.2
    catch_up = 1.0
    agent_cpu_share = 0.05
    agent_rss_mib = 64";

/// 1,000 commits of a millisecond each, archived every second, but not from second 4 to 7; the last one is not in the restore. PUTs take
/// 10 ms, the agent 10 % of a core and 40 MiB.
pub(crate) fn example() -> Measured {
    let scenario = Scenario::parse("example", TEXT).unwrap();
    let plan = Plan::new(&scenario);
    let ms = Duration::from_millis;
    let commits = (0..1000).map(|n| Commit {
        row: n as i64,
        intended: ms(n * 10),
        sent: ms(n * 10),
        acknowledged: ms(n * 10 + 1),
        lsn: n + 1,
    });
    let steps = [1, 2, 3, 4, 7, 8, 9, 10].map(|second| Step {
        at: ms(second * 1000 + 5),
        flushed: second * 100,
    });
    let sample = |half: u64| Sample {
        at: ms(half * 500),
        role: Role::Agent,
        pid: 1,
        cpu_seconds: 3.0 + half as f64 * 0.05,
        rss_kib: 40 << 10,
        rss_peak_kib: 40 << 10,
    };
    let mut puts = put_probe::histogram().unwrap();
    puts.record(10_000).unwrap();
    Measured {
        commits: commits.collect(),
        seen: Seen {
            steps: steps.to_vec(),
            wal: (0..40).map(|n| (ms(n * 250), n * 250_000)).collect(),
        },
        samples: (0..=20).map(sample).collect(),
        marks: vec![Mark {
            at: ms(4000),
            text: "store away".to_owned(),
        }],
        strains: vec![(ms(4000), ms(6000))],
        backups: Vec::new(),
        puts,
        requests: None,
        without: Vec::new(),
        not_restored: 1,
        restored_in: ms(3000),
        warnings: vec!["2026-11-21T05:24:01Z  WARN store: request failed".to_owned(); 3],
        plan: Arc::new(plan),
        scenario,
    }
}
