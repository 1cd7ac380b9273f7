//! `--start`: start the restored server, wait until recovery pauses at the stop point, look at what it replayed, then promote, leave it
//! paused, or shut it down. A wrong end is found while the server still waits, so it never makes a timeline.

mod access;
pub(crate) mod client;
mod judge;
mod log;
mod server;
mod versions;

use std::time::{Duration, Instant};

use pg::lsn::Lsn;
use store::manifest::Manifest;
use tokio_postgres::Client;

use self::judge::{judge, judge_position};
pub(crate) use self::server::Server;
use crate::cli::TargetAction;
use crate::error::{RestoreError, Result};
use crate::plan::{StopKind, StopPoint};
use crate::prefetch;
use crate::prove::{self, Proof};
use crate::report::{Phases, Started};
use crate::time;
use crate::tree::Tree;

/// How often the server is asked.
const POLL: Duration = Duration::from_millis(50);

fn failed(message: impl Into<String>, hint: impl Into<String>) -> RestoreError {
    RestoreError::Server {
        message: message.into(),
        hint: hint.into(),
    }
}

/// A started server, and what was proven of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The server.
    pub(crate) started: Started,
    /// What was asked for.
    pub(crate) proofs: Vec<Proof>,
    /// What this host has in other versions than the backed-up one had.
    pub(crate) warnings: Vec<String>,
}

/// What is looked at once the server is where it was asked to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looks<'a> {
    /// Prove it.
    pub(crate) prove: bool,
    /// The backup that it came from.
    pub(crate) manifest: &'a Manifest,
}

/// Starts the server, brings it to where it was asked to be, and proves it where that was asked for. A server that shall be shut down
/// at the stop point is proven by nobody.
pub(crate) async fn run(
    server: &Server,
    tree: &Tree,
    stop: &StopPoint,
    action: TargetAction,
    looks: Looks<'_>,
    phases: &mut Phases,
) -> Result<Outcome> {
    let begun = Instant::now();
    access::open(server, tree)?;
    let outcome = async {
        let started = Box::pin(recover(server, stop, action, phases, begun)).await?;
        let mut outcome = Outcome {
            started,
            proofs: Vec::new(),
            warnings: Vec::new(),
        };
        if action != TargetAction::Shutdown {
            let begun = Instant::now();
            let started = &outcome.started;
            let databases = match client::databases(started).await {
                // The server is where it was asked to be: that it does not tell its databases is no failure of the restore.
                Err(error) if !looks.prove => {
                    outcome
                        .warnings
                        .push(format!("libraries and extensions were not compared: {error}"));
                    Vec::new()
                }
                databases => databases?,
            };
            let compared = versions::compare(started, &databases, &looks.manifest.settings).await;
            outcome.warnings.extend(compared);
            if looks.prove {
                let known_good = &looks.manifest.known_good;
                outcome.proofs = Box::pin(prove::run(server, started, &databases, known_good)).await?;
            }
            phases.prove_ms = Some(millis(begun));
        }
        Ok(outcome)
    }
    .await;
    if server.is_private {
        return outcome;
    }
    access::close(tree)?;
    let outcome = outcome?;
    if server.is_running() {
        server
            .run_pg_ctl("the server does not take its own access rules back", &["reload"])
            .await?;
    }
    if action != TargetAction::Pause {
        prefetch::remove_all(&server.pgdata);
    }
    Ok(outcome)
}

async fn recover(
    server: &Server,
    stop: &StopPoint,
    action: TargetAction,
    phases: &mut Phases,
    begun: Instant,
) -> Result<Started> {
    let (limit, log) = (server.limit.as_secs().to_string(), server.log_path());
    server
        .run_pg_ctl(
            "the restored server did not start",
            &["start", "-w", "-s", "-t", &limit, "-l", &log.to_string_lossy()],
        )
        .await?;
    let (client, at) = access::connect(server, begun).await?;
    wait_for_pause(server, &client, begun).await?;
    let (replayed, commit_us) = position(&client).await?;
    phases.replay_ms = Some(millis(begun));
    if let Err(problem) = judge(stop, replayed, commit_us) {
        let stopped = server.stop().await;
        let after = if stopped.is_ok() {
            "The server was stopped; nothing was promoted."
        } else {
            "The server is still paused; nothing was promoted."
        };
        return Err(failed(problem, after));
    }
    let ending = Instant::now();
    let mut started = Started::waiting(replayed, last_commit(stop, commit_us), at);
    match action {
        TargetAction::Pause => {}
        TargetAction::Shutdown => {
            server.stop().await?;
            started.state = "shut down";
        }
        TargetAction::Promote => {
            end_recovery(server, &client, begun, &mut started).await?;
            phases.promote_ms = Some(millis(ending));
        }
    }
    Ok(started)
}

/// Promotes a server that waits where its restore said, and says where it is then. A hand that paused it elsewhere, or a restart that went
/// by an older stop point, must not make a timeline.
pub(crate) async fn promote(
    server: &Server,
    tree: &Tree,
    stop: (Lsn, bool),
    until: Lsn,
    phases: &mut Phases,
) -> Result<Started> {
    let begun = Instant::now();
    let reload = async || {
        server
            .run_pg_ctl("the server does not take its access rules", &["reload"])
            .await
    };
    access::open(server, tree)?;
    let promoted: Result<Started> = async {
        reload().await?;
        let (client, at) = access::connect(server, begun).await?;
        wait_for_pause(server, &client, begun).await?;
        let (replayed, commit_us) = position(&client).await?;
        judge_position(stop, until, replayed).map_err(|problem| {
            failed(
                problem,
                "Nothing was promoted. Bring it to a stop point with `wal-restore forward` first.",
            )
        })?;
        let mut started = Started::waiting(replayed, commit_us, at);
        end_recovery(server, &client, begun, &mut started).await?;
        Ok(started)
    }
    .await;
    access::close(tree)?;
    let closed = reload().await;
    let started = promoted?;
    if let Err(error) = closed {
        tracing::warn!(%error, "the promoted server still has our line in the access rules that it has read: reload it");
    }
    phases.promote_ms = Some(millis(begun));
    prefetch::remove_all(&server.pgdata);
    Ok(started)
}

async fn end_recovery(server: &Server, client: &Client, begun: Instant, started: &mut Started) -> Result<()> {
    server
        .run_pg_ctl("the server was not promoted", &["promote", "-W"])
        .await?;
    started.timeline = Some(wait_for_promotion(server, client, begun).await?);
    started.state = "promoted";
    Ok(())
}

impl Started {
    fn waiting(replayed: Lsn, commit_us: Option<i64>, at: access::At) -> Self {
        Started {
            replay_lsn: replayed.to_string(),
            last_commit_time: commit_us.map(time::rfc3339),
            state: "paused",
            timeline: None,
            socket_dir: at.socket_dir,
            port: at.port,
            role: at.role,
        }
    }
}

/// The server does not count the transaction whose end it stopped behind; the plan does.
fn last_commit(stop: &StopPoint, replayed_us: Option<i64>) -> Option<i64> {
    match (stop.kind, stop.inclusive) {
        (StopKind::Xid, true) => replayed_us.max(stop.record_time_us),
        (StopKind::Latest, true) => replayed_us.max(stop.last_commit_us),
        _ => replayed_us,
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn query_failed(error: &tokio_postgres::Error) -> RestoreError {
    failed(
        format!("the restored server does not answer: {error}"),
        "See its log in seawall.restore.",
    )
}

/// The only loop that waits for the server.
async fn wait(server: &Server, client: &Client, begun: Instant, what: &str, query: &str) -> Result<()> {
    loop {
        match client.query_one(query, &[]).await {
            Ok(row) if row.try_get::<_, bool>(0).unwrap_or(false) => return Ok(()),
            Ok(_) => {}
            Err(error) if server.is_running() && !client.is_closed() => return Err(query_failed(&error)),
            Err(_) => return Err(server.died(&format!("the restored server ended before {what}"))),
        }
        if begun.elapsed() > server.limit {
            let hint = "It goes on by itself: look at its log in seawall.restore. A longer time can be set with --start-timeout.";
            return Err(failed(
                format!("the server did not come to {what} within {} s", server.limit.as_secs()),
                hint,
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for_pause(server: &Server, client: &Client, begun: Instant) -> Result<()> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(|error| query_failed(&error))?;
    let query = if row.get::<_, i32>(0) >= 140_000 {
        "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'"
    } else {
        "SELECT pg_is_in_recovery() AND pg_is_wal_replay_paused()"
    };
    wait(server, client, begun, "the stop point", query).await
}

async fn wait_for_promotion(server: &Server, client: &Client, begun: Instant) -> Result<u32> {
    wait(
        server,
        client,
        begun,
        "the end of recovery",
        "SELECT NOT pg_is_in_recovery()",
    )
    .await?;
    let query = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    let row = client
        .query_one(query, &[])
        .await
        .map_err(|error| query_failed(&error))?;
    let name: String = row.get(0);
    let timeline = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    timeline.ok_or_else(|| failed("the server does not say which timeline it is on", ""))
}

async fn position(client: &Client) -> Result<(Lsn, Option<i64>)> {
    let query = "SELECT pg_last_wal_replay_lsn()::text, round(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint";
    let row = client
        .query_one(query, &[])
        .await
        .map_err(|error| query_failed(&error))?;
    let lsn: Option<String> = row.get(0);
    let lsn = lsn
        .and_then(|lsn| lsn.parse().ok())
        .ok_or_else(|| failed("the server does not say how far it replayed", ""))?;
    Ok((lsn, row.get(1)))
}
