//! The clients: they take the next moment of the plan, commit one row, and remember what was acknowledged.
//!
//! A connection that breaks is made again, wherever the address leads by then, and the same row is sent again: whether it was committed is
//! not known, so it has a number and is refused twice by its key. It counts from its intended moment all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ::tests::cluster::{connect, parse_lsn};
use ::tests::seed::Rng;
use ::tests::wait::{DEADLINE, Pace};
use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Statement};

use crate::scenario::Plan;

/// The table that is written to.
pub(crate) const TABLE: &str = "create table load (n bigint primary key, payload text not null)";

const INSERT: &str = "
    with filler as materialized (select pg_logical_emit_message(true, 'load', $2::text) as lsn)
    insert into load (n, payload) select $1::bigint, repeat(md5($1::bigint::text), 8) from filler where lsn is not null
    on conflict do nothing";
const FLUSHED: &str = "select pg_current_wal_flush_lsn()::text";
/// From when all clients are connected to the first moment, for those who look on.
const LEAD: Duration = Duration::from_millis(200);
/// Between two attempts to connect.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Rows of one run are numbered from a multiple of it.
const ROWS_OF_A_RUN: i64 = 1_000_000_000;

/// An acknowledged commit. Times are since the begin of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) row: i64,
    /// When it was due.
    pub(crate) intended: Duration,
    /// When a client was free for it.
    pub(crate) sent: Duration,
    pub(crate) acknowledged: Duration,
    /// Its record ends at or before it.
    pub(crate) lsn: u64,
}

/// All clients of a run.
#[derive(Debug)]
pub(crate) struct Load {
    clients: JoinSet<Result<Vec<Commit>>>,
}

struct Shared {
    plan: Arc<Plan>,
    fillers: Vec<String>,
    server: Config,
    begin: Instant,
    next_row: AtomicI64,
}

impl Load {
    /// Connects; returns when the plan begins. `run` is the number of this run, for rows of its own.
    pub(crate) async fn start(server: &Config, plan: &Arc<Plan>, run: i64) -> Result<(Self, Instant)> {
        let mut rng = Rng::named("filler");
        let mut filler = |bytes: usize| -> String {
            let digit = |_| char::from(b"0123456789abcdef"[rng.below(16) as usize]);
            (0..bytes).map(digit).collect()
        };
        let fillers = plan
            .stretches
            .iter()
            .map(|stretch| filler(stretch.filler_bytes))
            .collect();
        let mut lines = Vec::new();
        for _ in 0..plan.clients() {
            lines.push(Line::open(server).await?);
        }
        let begin = Instant::now() + LEAD;
        let shared = Arc::new(Shared {
            plan: Arc::clone(plan),
            fillers,
            server: server.clone(),
            begin,
            next_row: AtomicI64::new(run * ROWS_OF_A_RUN),
        });
        let mut clients = JoinSet::new();
        for (number, line) in (0..).zip(lines) {
            clients.spawn(work(Arc::clone(&shared), number, line));
        }
        Ok((Self { clients }, begin))
    }

    /// Waits until every commit of the plan is acknowledged.
    pub(crate) async fn finish(mut self) -> Result<Vec<Commit>> {
        let mut all = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            all.extend(ended.context("a client panicked")??);
        }
        all.sort_by_key(|commit| commit.intended);
        Ok(all)
    }
}

async fn work(shared: Arc<Shared>, number: u32, line: Line) -> Result<Vec<Commit>> {
    let mut line = Some(line);
    let mut commits = Vec::new();
    for (stretch, filler) in shared.plan.stretches.iter().zip(&shared.fillers) {
        if number >= stretch.clients {
            continue;
        }
        while let Some(intended) = stretch.take(shared.begin.elapsed()) {
            tokio::time::sleep_until((shared.begin + intended).into()).await;
            let row = shared.next_row.fetch_add(1, Ordering::Relaxed);
            let sent = shared.begin.elapsed();
            let (acknowledged, lsn) = commit(&shared.server, &mut line, row, filler).await?;
            commits.push(Commit {
                row,
                intended,
                sent,
                acknowledged: acknowledged.saturating_duration_since(shared.begin),
                lsn,
            });
        }
    }
    Ok(commits)
}

/// Sends it until it is acknowledged. Returns when that was, and an LSN behind it.
async fn commit(server: &Config, line: &mut Option<Line>, row: i64, filler: &str) -> Result<(Instant, u64)> {
    let (tried, mut pace) = (Instant::now(), Pace::every(AGAIN_AFTER));
    loop {
        let attempt = async {
            let open = match line.take() {
                Some(open) => open,
                None => Line::open(server).await?,
            };
            let done = open.commit(row, filler).await?;
            *line = Some(open);
            anyhow::Ok(done)
        };
        match attempt.await {
            Ok(done) => return Ok(done),
            Err(error) if tried.elapsed() > DEADLINE => {
                return Err(error.context(format!("row {row} could not be committed for {DEADLINE:?}")));
            }
            Err(_) => pace.tick().await,
        }
    }
}

/// One connection.
struct Line {
    client: Client,
    insert: Statement,
    flushed: Statement,
}

impl Line {
    async fn open(server: &Config) -> Result<Self> {
        let client = connect(server).await?;
        Ok(Self {
            insert: client.prepare(INSERT).await?,
            flushed: client.prepare(FLUSHED).await?,
            client,
        })
    }

    async fn commit(&self, row: i64, filler: &str) -> Result<(Instant, u64)> {
        self.client.execute(&self.insert, &[&row, &filler]).await?;
        let acknowledged = Instant::now();
        let answer = self.client.query_one(&self.flushed, &[]).await?;
        Ok((acknowledged, parse_lsn(answer.get(0))?))
    }
}
