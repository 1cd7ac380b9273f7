//! As a synchronous standby: commits return when their WAL is in the repository. What if the repository is away?
//!
//! `hold`: they wait. `degrade`: after `degrade_after` we take ourselves out of `synchronous_standby_names`, loudly and on record, over a
//! connection that was opened before (with waiting commits no new one may be had), and put ourselves back when the archive has caught
//! up. What is not archived is never confirmed in either case. What is about to be done is written to a file first: a crash, or a
//! reload that comes late, leaves the old setting in force, and the next look finishes what was begun.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pg::lsn::Lsn;
use pg::standby_names::StandbyNames;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::server::Look;
use crate::exit::Failure;
use crate::preflight;

/// First version in which the right to change one setting can be granted.
const GRANTABLE_MAJOR: u32 = 15;
/// Settings that Patroni passes on the command line (its `PostgresqlConfig`): together they give it away.
const OF_PATRONI: [&str; 4] = [
    "cluster_name",
    "hot_standby",
    "max_locks_per_transaction",
    "wal_log_hints",
];

/// What was done to the setting, and how to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// The setting before.
    pub before: String,
    /// What we set.
    pub set: String,
    /// It did not come from ALTER SYSTEM: undone by RESET.
    pub reset: bool,
    /// When, microseconds since 1970.
    pub since_us: i64,
    /// On which server.
    #[serde(default)]
    pub server: String,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay,
    /// Take ourselves out: the setting becomes this.
    Degrade(String),
    /// Put ourselves back.
    Return,
    /// Somebody changed the setting since: it is theirs now.
    Forget,
}

/// How long the archive has stood still although there is WAL for it.
#[derive(Debug)]
pub struct Stall {
    archived: Lsn,
    since: Instant,
}

impl Stall {
    /// Begins now.
    pub fn new(now: Instant) -> Self {
        Stall {
            archived: Lsn::ZERO,
            since: now,
        }
    }

    /// Takes what is archived and what the server has flushed.
    pub fn see(&mut self, now: Instant, archived: Lsn, flush: Lsn) -> Duration {
        if archived >= flush || archived != self.archived {
            self.archived = archived;
            self.since = now;
        }
        now.saturating_duration_since(self.since)
    }
}

/// Decides. `is_caught_up`: a stream is open and the archive is at the server's end.
pub fn decide(
    look: &Look,
    name: &str,
    degrade_after: Option<Duration>,
    stalled: Duration,
    is_caught_up: bool,
    degraded: Option<&Degraded>,
) -> Decision {
    if let Some(degraded) = degraded {
        // A crash or a late reload can leave the server with the old value although the new one is written already.
        let is_pending = look.standby_names == degraded.before;
        return match (look.standby_names == degraded.set, is_caught_up && !look.remote_apply) {
            (false, _) if !is_pending => Decision::Forget,
            (_, true) => Decision::Return,
            (true, false) => Decision::Stay,
            (false, false) => Decision::Degrade(degraded.set.clone()),
        };
    }
    let Some(limit) = degrade_after else {
        return Decision::Stay;
    };
    let Ok(names) = look.standby_names.parse::<StandbyNames>() else {
        return Decision::Stay;
    };
    // With a quorum that another standby fills nobody waits for us.
    let is_waited_for = names.contains(name) && look.waiting != Some(0);
    if is_waited_for
        && (stalled >= limit || look.remote_apply)
        && let Some(without) = names.without(name)
    {
        return Decision::Degrade(without);
    }
    Decision::Stay
}

/// Whether commits may wait for us.
pub fn is_named(look: &Look, name: &str) -> bool {
    look.standby_names
        .parse::<StandbyNames>()
        .is_ok_and(|names| names.contains(name))
}

/// Refuses a policy that could not be kept: the right is missing, or the setting is not ours to change.
pub async fn may_degrade(client: &Client, role: &str, name: &str) -> anyhow::Result<()> {
    let major = preflight::show(client, "server_version_num")
        .await?
        .parse::<u32>()
        .unwrap_or(0)
        / 10_000;
    let right = if major >= GRANTABLE_MAJOR {
        "pg_catalog.has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')"
    } else {
        "(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
    };
    let sql = format!(
        "SELECT {right}, pg_catalog.has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE'), \
                (SELECT count(*) FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[]) AND source = 'command line'), \
                (SELECT source = 'command line' FROM pg_catalog.pg_settings WHERE name = 'synchronous_standby_names')"
    );
    let row = client
        .query_one(&sql, &[&&OF_PATRONI[..]])
        .await
        .context("cannot ask for the right to degrade")?;
    let refuse = |message: &str, hint: String| Err(Failure::refused(message, hint).into());
    if row.get::<_, i64>(2) == OF_PATRONI.len() as i64 {
        return refuse(
            "on_store_outage is \"degrade\", but Patroni manages this server's settings",
            "Use on_store_outage = \"hold\" and let Patroni's synchronous_mode decide.".into(),
        );
    }
    if row.get::<_, Option<bool>>(3) == Some(true) {
        return refuse(
            "on_store_outage is \"degrade\", but synchronous_standby_names stands on the server's command line",
            "Set it in postgresql.conf or with ALTER SYSTEM.".into(),
        );
    }
    let names = preflight::show(client, "synchronous_standby_names").await?;
    if names
        .parse::<StandbyNames>()
        .is_ok_and(|names| names.contains(name) && names.without(name).is_none())
    {
        return refuse(
            "on_store_outage is \"degrade\", but synchronous_standby_names has a \"*\", which names everybody",
            format!("Name the standbys one by one, for example 'ANY 1 (standby, {name})'."),
        );
    }
    if row.get::<_, bool>(0) && row.get::<_, bool>(1) {
        return Ok(());
    }
    let role = role.replace('"', "\"\"");
    refuse(
        "on_store_outage is \"degrade\", but the role may not change synchronous_standby_names",
        if major >= GRANTABLE_MAJOR {
            format!(
                "SET synchronous_commit = local; GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO \"{role}\"; GRANT EXECUTE ON FUNCTION pg_reload_conf() TO \"{role}\";"
            )
        } else {
            "Before PostgreSQL 15 only a superuser may; use on_store_outage = \"hold\" or a superuser's role.".into()
        },
    )
}

/// Writes down what is about to be done, so that whatever happens the way back is known.
pub async fn write_down(
    client: &Client,
    file: &Path,
    look: &Look,
    (without, server): (String, String),
    now_us: i64,
) -> anyhow::Result<Degraded> {
    let sql = "SELECT coalesce(sourcefile, '') NOT LIKE '%/postgresql.auto.conf' FROM pg_catalog.pg_settings \
               WHERE name = 'synchronous_standby_names'";
    let reset = client.query_one(sql, &[]).await?.get(0);
    let degraded = Degraded {
        before: look.standby_names.clone(),
        set: without,
        reset,
        since_us: now_us,
        server,
    };
    store::durable::atomic_write(file, &serde_json::to_vec_pretty(&degraded)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(degraded)
}

/// Puts us back.
pub async fn come_back(client: &Client, file: &Path, degraded: &Degraded) -> anyhow::Result<()> {
    set(client, (!degraded.reset).then_some(&degraded.before)).await?;
    forget(file);
    Ok(())
}

/// Sets it and has the server read it; `None` resets.
pub async fn set(client: &Client, value: Option<&String>) -> anyhow::Result<()> {
    let statement = match value {
        Some(value) => format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{}'",
            value.replace('\'', "''")
        ),
        None => "ALTER SYSTEM RESET synchronous_standby_names".to_owned(),
    };
    client
        .batch_execute(&statement)
        .await
        .context("cannot change synchronous_standby_names")?;
    client
        .batch_execute("SELECT pg_catalog.pg_reload_conf()")
        .await
        .context("cannot reload the server's settings")
}

/// Where the way back is kept.
pub fn file(state_file: &Path) -> PathBuf {
    state_file.with_extension("degraded.json")
}

/// What an earlier run left.
pub fn remembered(file: &Path) -> Option<Degraded> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return cannot_be_remembered(file, &error),
    };
    serde_json::from_slice(&bytes).map_or_else(|error| cannot_be_remembered(file, &error), Some)
}

/// Commits stay without us then, which is for the operator to know.
fn cannot_be_remembered(file: &Path, error: &dyn std::error::Error) -> Option<Degraded> {
    tracing::error!(
        %error,
        path = %file.display(),
        "cannot read how to become a synchronous standby again: set synchronous_standby_names by hand"
    );
    None
}

/// The way back is not needed any more.
pub fn forget(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %file.display(), "cannot remove the file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

    fn look(names: &str) -> Look {
        Look {
            standby_names: names.into(),
            waiting: Some(3),
            ..Look::default()
        }
    }

    fn after(seconds: u64, look: &Look, limit: Option<Duration>) -> Decision {
        decide(look, "seawall", limit, Duration::from_secs(seconds), false, None)
    }

    #[test]
    fn who_holds_never_degrades_and_who_degrades_waits_first() {
        let named = look("ANY 1 (seawall)");
        assert_eq!(after(3600, &named, None), Decision::Stay);
        assert_eq!(after(9, &named, LIMIT), Decision::Stay);
        assert_eq!(after(10, &named, LIMIT), Decision::Degrade(String::new()));
        assert_eq!(after(3600, &look("other"), LIMIT), Decision::Stay);
        assert_eq!(after(3600, &look("*"), LIMIT), Decision::Stay);
    }

    #[test]
    fn nobody_degrades_while_another_standby_answers() {
        let mut quorum = look("ANY 1 (standby, seawall)");
        quorum.waiting = Some(0);
        assert_eq!(after(3600, &quorum, LIMIT), Decision::Stay);
        quorum.waiting = None;
        assert!(matches!(after(3600, &quorum, LIMIT), Decision::Degrade(_)));
    }

    #[test]
    fn commits_that_could_never_return_are_released_at_once_by_who_may() {
        let mut apply = look("seawall");
        apply.remote_apply = true;
        assert_eq!(after(0, &apply, LIMIT), Decision::Degrade(String::new()));
        assert_eq!(after(0, &apply, None), Decision::Stay);
    }

    #[test]
    fn the_way_back_is_taken_when_the_archive_has_caught_up_and_the_setting_is_still_ours() {
        let degraded = Degraded {
            before: "seawall".into(),
            set: String::new(),
            reset: true,
            since_us: 0,
            server: String::new(),
        };
        let back = |names: &str, caught_up| {
            decide(
                &look(names),
                "seawall",
                LIMIT,
                Duration::ZERO,
                caught_up,
                Some(&degraded),
            )
        };
        assert_eq!(back("", false), Decision::Stay);
        assert_eq!(back("", true), Decision::Return);
        assert_eq!(back("other", true), Decision::Forget);
        // Written down, and the server has not taken it: a crash, or a reload that is late.
        assert_eq!(back("seawall", false), Decision::Degrade(String::new()));
        assert_eq!(back("seawall", true), Decision::Return);
    }

    #[test]
    fn a_stall_is_over_when_anything_moves_or_nothing_is_left() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut stall = Stall::new(begun);
        let lsn = Lsn::new;
        assert_eq!(stall.see(at(1), lsn(10), lsn(20)), Duration::ZERO);
        assert_eq!(stall.see(at(5), lsn(10), lsn(30)), Duration::from_secs(4));
        assert_eq!(stall.see(at(6), lsn(11), lsn(30)), Duration::ZERO);
        assert_eq!(stall.see(at(9), lsn(30), lsn(30)), Duration::ZERO);
        assert_eq!(stall.see(at(12), lsn(30), lsn(30)), Duration::ZERO);
    }
}
