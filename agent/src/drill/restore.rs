//! What is restored, and `wal-restore` doing it.

use std::process::Stdio;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;

use super::place::Place;
use crate::exit::{DAMAGED, Failure, REFUSED};
use crate::list::windows;
use crate::open::{Context, command_policy};
use store::repository::Repository;
use store::verify::Watermark;

/// A point to restore to.
pub struct Target {
    /// As an argument of `wal-restore`.
    pub arguments: [String; 2],
    /// For people.
    pub text: String,
    /// The files of the largest backup, and the WAL of all: the room that it may take.
    pub logical_bytes: u64,
    pub wal_bytes: u64,
    /// Of the cluster.
    pub segment_bytes: u64,
}

/// Chooses the point: as asked, or as the configuration says. Needs the restore key, as all that follows does.
pub async fn choose(context: &Context, asked: Option<&str>) -> anyhow::Result<Target> {
    let key = context.opening_key(store::keys::Role::Restore)?;
    let opened = Repository::open_as_restorer(context.object_store(command_policy())?, &key).await;
    let repository =
        opened.with_context(|| format!("cannot open the repository at {}", context.config.repository.url))?;
    let manifests = repository.manifests().await?;
    let Some(newest) = manifests.iter().max_by_key(|manifest| manifest.backup) else {
        return Err(Failure::refused("there is no backup to be rehearsed with", "Run `wal-agent backup`.").into());
    };
    let coverage = repository.settled_coverage(newest.lineage).await?;
    let reachable = windows(&manifests, &[coverage]);
    let is_random = match asked {
        Some(asked) => asked == "random",
        None => context.cluster.drill.is_random,
    };
    let place = |arguments: [&str; 2], text: String| Target {
        arguments: arguments.map(str::to_owned),
        text,
        logical_bytes: manifests
            .iter()
            .map(|manifest| manifest.totals.logical_bytes)
            .max()
            .unwrap_or(0),
        // What is replayed is fetched a few segments ahead and thrown away.
        wal_bytes: 64 * newest.segment_bytes.min(64 << 20),
        segment_bytes: newest.segment_bytes,
    };
    if !is_random {
        return Ok(place(["--target", "latest"], "the latest point".to_owned()));
    }
    let total: u64 = reachable
        .iter()
        .map(|window| window.to.as_u64() - window.from.as_u64() + 1)
        .sum();
    let mut at = u64::from_le_bytes(store::entropy::bytes()?) % total.max(1);
    for window in &reachable {
        let length = window.to.as_u64() - window.from.as_u64() + 1;
        if at < length {
            let lsn = pg::lsn::Lsn::new(window.from.as_u64() + at).to_string();
            return Ok(place(["--target-lsn", &lsn], format!("LSN {lsn}")));
        }
        at -= length;
    }
    Err(Failure::refused("no point can be reached", "`wal-agent verify` says what is missing.").into())
}

/// Restores, starts, proves. The report of `wal-restore`, or why it failed.
pub async fn run(context: &Context, place: &Place, target: &Target) -> anyhow::Result<Value> {
    place.make()?;
    // What this host knows to be archived cannot be less afterwards.
    let known = match target.arguments[1].as_str() {
        "latest" => crate::status::watermark(context),
        _ => None,
    };
    let program = match &context.cluster.restore.command_path {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("wal-restore"),
    };
    let output = Command::new(&program)
        .args(context.arguments(&[]))
        .args(&target.arguments)
        .arg("--pgdata")
        .arg(place.data())
        .arg("--socket-dir")
        .arg(place.sockets())
        .arg("--tablespaces-below")
        .arg(place.tablespaces())
        .args(["--start", "--prove", "--private", "--json"])
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run \"{}\"", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter::<Value>()
        .next();
    let report = report.and_then(Result::ok);
    if output.status.success()
        && let Some(report) = report
    {
        refuse_early_end(&report, known, target.segment_bytes)?;
        return Ok(report);
    }
    let failed = report
        .iter()
        .flat_map(|report| report["proofs"].as_array().into_iter().flatten());
    let failed: Vec<String> = failed
        .filter(|proof| proof["ok"] == false)
        .map(|proof| {
            format!(
                "{}: {}",
                proof["name"].as_str().unwrap_or_default(),
                proof["detail"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    let why = match failed.is_empty() {
        true => last_error(&said),
        false => failed.join("; "),
    };
    Err(Failure {
        code: code.filter(|code| *code != REFUSED).unwrap_or(DAMAGED),
        message: format!("the drill failed: a restore to {} would not have been right: {why}", target.text),
        hint: Some("Restore by hand to see more (`wal-agent drill --keep`, or wal-restore); `wal-agent verify --all` names what is damaged.".into()),
    }
    .into())
}

/// Whoever takes away the newest objects leaves no other trace than what this host remembers. A segment that is switched leaves up to its size
/// without a record.
fn refuse_early_end(report: &Value, known: Option<Watermark>, segment_bytes: u64) -> anyhow::Result<()> {
    let Some(known) = known else { return Ok(()) };
    let is_same = report["lineage"] == known.lineage.to_string() && report["timeline"] == known.timeline.as_u32();
    let reached: Option<pg::lsn::Lsn> = report["server"]["replay_lsn"].as_str().and_then(|lsn| lsn.parse().ok());
    match reached {
        Some(reached) if is_same && reached.as_u64().saturating_add(segment_bytes) < known.archived.as_u64() => Err(Failure {
            code: DAMAGED,
            message: format!(
                "the drill failed: it reached {reached}, and this host has archived up to {}: WAL is missing at the end of the archive",
                known.archived
            ),
            hint: Some("`wal-agent verify` says the same. Look who can delete from the repository; a copy may have it.".into()),
        }
        .into()),
        _ => Ok(()),
    }
}

/// The last error that a program printed, in one line.
fn last_error(said: &str) -> String {
    let from = said.rfind("wal-restore: ").unwrap_or(0);
    let lines: Vec<&str> = said.get(from..).unwrap_or_default().lines().take(6).collect();
    lines.join(" ").replace("wal-restore: ", "")
}
