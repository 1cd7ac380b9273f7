//! Looks around from time to time: what the stream does not show of the repository, the server and this host.
//!
//! Each look has an end of its own, so that one that hangs hides nothing: what could not be seen is itself something that was seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::preflight::Severity;
use store::envelope::Kind;
use store::id::{BackupId, LineageId};
use store::object::{ObjectName, list_all};
use store::records::Proof;
use store::repository::Repository;
use store::retry::RetryPolicy;
use tokio::sync::watch;
use tokio::time::Instant;

use super::after_loss::Losses;
use crate::backup::RunningBackup;
use crate::health::facts;
use crate::init::both_slots;
use crate::open::Context;
use crate::status::state_file;
use crate::{archiver, disk, exit, output, preflight, sql};

/// A look that takes longer tells that something does not answer.
const LOOK_MAX: Duration = Duration::from_secs(20);
/// Requests of a look are repeated for so long.
const RETRY_FOR: Duration = Duration::from_secs(8);
/// All WAL is listed this often: usually, and while WAL is lost that no backup makes up for.
const COVERAGE_EVERY: Duration = Duration::from_secs(3600);
const COVERAGE_EVERY_OPEN: Duration = Duration::from_secs(120);
/// How long that may take.
const LIST_MAX: Duration = Duration::from_secs(600);

/// What is looked at, and what was seen there before.
pub struct Looking {
    context: Arc<Context>,
    repository: Repository,
    /// The one that is written to, which looks whom to trust.
    trusting: Arc<Repository>,
    lineage: Box<dyn Fn() -> LineageId + Send + Sync>,
    server: watch::Receiver<Option<ConnectOptions>>,
    losses: Arc<Losses>,
    backups: BTreeMap<BackupId, Known>,
    /// Name, and when it was finished.
    of_components: BTreeMap<BackupId, (String, i64)>,
    proofs: BTreeMap<ObjectName, Proof>,
    holes: Vec<Hole>,
    listed: Option<Instant>,
    pg_wal: Option<PathBuf>,
}

/// A backup, and the history that it is of.
struct Known {
    lineage: LineageId,
    timeline: u32,
    backup: facts::Backup,
}

/// Missing WAL: end, timeline, and how it is said.
struct Hole {
    end: u64,
    timeline: u32,
    text: String,
}

/// What was seen, for who judges it.
#[derive(Debug, Clone, Default)]
pub struct Around {
    pub repository: facts::Repository,
    pub server: facts::Server,
    pub host: facts::Host,
}

impl Looking {
    pub fn new(
        context: &Arc<Context>,
        repository: &Arc<Repository>,
        lineage: impl Fn() -> LineageId + Send + Sync + 'static,
        server: watch::Receiver<Option<ConnectOptions>>,
        losses: &Arc<Losses>,
    ) -> anyhow::Result<Self> {
        let store = context.object_store(RetryPolicy::bounded(RETRY_FOR))?;
        Ok(Looking {
            context: Arc::clone(context),
            repository: repository.over(store),
            trusting: Arc::clone(repository),
            lineage: Box::new(lineage),
            server,
            losses: Arc::clone(losses),
            backups: BTreeMap::new(),
            of_components: BTreeMap::new(),
            proofs: BTreeMap::new(),
            holes: Vec::new(),
            listed: None,
            pg_wal: None,
        })
    }

    /// Runs until it is dropped.
    pub async fn run(mut self, around: watch::Sender<Around>) {
        loop {
            let mut seen = around.borrow().clone();
            self.look_at_server(&mut seen.server).await;
            self.look_at_repository(&mut seen.repository).await;
            around.send_replace(seen.clone());
            // Takes as long as the archive is large: what was seen before counts until then.
            match tokio::time::timeout(LIST_MAX, self.look_for_holes()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "cannot list the WAL"),
                Err(_) => tracing::warn!("listing all WAL takes too long; holes are seen by `wal-agent verify` only"),
            }
            seen.host = self.look_at_host();
            around.send_replace(seen);
            tokio::time::sleep(self.context.cluster.objectives.look_interval).await;
        }
    }

    async fn look_at_repository(&mut self, seen: &mut facts::Repository) {
        let looked = match tokio::time::timeout(LOOK_MAX, self.repository()).await {
            Ok(looked) => looked,
            Err(_) => Err(anyhow::anyhow!(
                "the repository does not answer for {} s",
                LOOK_MAX.as_secs()
            )),
        };
        match looked {
            Ok(looked) => *seen = looked,
            Err(error) => {
                seen.is_damaged = exit::code(&error) == exit::DAMAGED;
                seen.error = Some(format!("{error:#}"));
            }
        }
        seen.is_trust_in_doubt = self.trusting.is_trust_in_doubt();
    }

    async fn repository(&mut self) -> anyhow::Result<facts::Repository> {
        let lineage = (self.lineage)();
        let ids = self.repository.backup_ids().await.context("cannot list the backups")?;
        self.backups.retain(|id, _| ids.contains(id));
        self.of_components.retain(|id, _| ids.contains(id));
        let mut damage = None;
        for id in &ids {
            if !self.backups.contains_key(id) && !self.of_components.contains_key(id) {
                let manifest = match self.repository.manifest(*id).await {
                    Ok(manifest) => manifest,
                    // The others are there all the same.
                    Err(error) if error.damaged_object().is_some() => {
                        damage = Some(format!("cannot read backup {id}: {error}"));
                        continue;
                    }
                    Err(error) => return Err(error).with_context(|| format!("cannot read backup {id}")),
                };
                if let Some(component) = manifest.component {
                    let seen = (component.name, manifest.finished_us);
                    self.of_components.insert(*id, seen);
                    continue;
                }
                let backup = facts::Backup {
                    id: id.to_string(),
                    finished_us: manifest.finished_us,
                    seconds: manifest.finished_us.saturating_sub(manifest.started_us) as f64 / 1e6,
                    start_lsn: manifest.start_lsn,
                    logical_bytes: manifest.totals.logical_bytes,
                    new_stored_bytes: manifest.totals.new_stored_bytes,
                    corrupt_pages: manifest.corrupt_pages.len() as u64,
                };
                let known = Known {
                    lineage: manifest.lineage,
                    timeline: manifest.timeline,
                    backup,
                };
                self.backups.insert(*id, known);
            }
        }
        self.look_at_proofs().await.context("cannot read what was verified")?;
        let ours = || self.backups.values().filter(|known| known.lineage == lineage);
        let makes_up =
            |hole: &&Hole| ours().any(|known| known.timeline >= hole.timeline && known.backup.start_lsn >= hole.end);
        let mut holes: Vec<String> = self
            .holes
            .iter()
            .filter(|hole| !makes_up(hole))
            .map(|hole| hole.text.clone())
            .collect();
        if self.losses.is_open() && holes.is_empty() {
            holes.push("of a history that begins anew, until there is a backup of it".to_owned());
        }
        let newest = ours()
            .max_by_key(|known| known.backup.finished_us)
            .map(|known| known.backup.clone());
        let looks = || self.proofs.values().filter(|proof| proof.backup.is_none());
        let proven = self
            .proofs
            .values()
            .filter(|proof| proof.backup.is_some() && proof.damaged == 0);
        let mut components: BTreeMap<String, i64> = BTreeMap::new();
        for (name, finished_us) in self.of_components.values() {
            let newest = components.entry(name.clone()).or_insert(i64::MIN);
            *newest = (*newest).max(*finished_us);
        }
        Ok(facts::Repository {
            components,
            looked_us: output::now_us(),
            is_damaged: damage.is_some(),
            error: damage,
            is_trust_in_doubt: false,
            backups: self.backups.len() as u64,
            is_of_other_lineage: newest.is_none() && !self.backups.is_empty(),
            newest,
            holes,
            verified_us: looks().map(|proof| proof.time_us).max(),
            damaged_objects: damaged(looks()),
            proven_us: proven.map(|proof| proof.time_us).max(),
        })
    }

    async fn look_at_proofs(&mut self) -> anyhow::Result<()> {
        let prefix = self.repository.layout().prefix("proofs");
        let listed = list_all(self.repository.store().as_ref(), &prefix).await?;
        for meta in listed {
            if self.proofs.contains_key(&meta.name) {
                continue;
            }
            match self.repository.read_record::<Proof>(&meta.name, Kind::Proof).await {
                Ok(proof) => drop(self.proofs.insert(meta.name, proof)),
                // What is planted or damaged there proves nothing; `verify` names it.
                Err(error) if error.damaged_object().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn look_for_holes(&mut self) -> anyhow::Result<()> {
        let lineage = (self.lineage)();
        let every = match self.losses.is_open() {
            true => COVERAGE_EVERY_OPEN,
            false => COVERAGE_EVERY,
        };
        if self.listed.is_some_and(|listed| listed.elapsed() < every) {
            return Ok(());
        }
        self.listed = Some(Instant::now());
        let coverage = self.repository.settled_coverage(lineage).await?;
        let holes = coverage.holes().into_iter().map(|hole| Hole {
            end: hole.end.as_u64(),
            timeline: hole.timeline.as_u32(),
            text: format!("{} to {} on timeline {}", hole.start, hole.end, hole.timeline),
        });
        self.holes = holes.collect();
        Ok(())
    }

    async fn look_at_server(&mut self, seen: &mut facts::Server) {
        let Some(server) = self.server.borrow().clone() else {
            return;
        };
        match tokio::time::timeout(LOOK_MAX, self.ask(&server)).await {
            Ok(Ok(looked)) => *seen = looked,
            Ok(Err(error)) => seen.error = Some(format!("{error:#}")),
            Err(_) => seen.error = Some(format!("no answer for {} s", LOOK_MAX.as_secs())),
        }
    }

    async fn ask(&mut self, server: &ConnectOptions) -> anyhow::Result<facts::Server> {
        let client = sql::connect(server).await?;
        let slot = sql::slot(&client, &self.context.cluster.wal.slot).await?;
        let written = sql::flush_lsn(&client).await?;
        let archiver = archiver::pushing(&client).await?;
        let findings = preflight::findings(&client, server, true).await?;
        let own = both_slots(&self.context);
        let idle = sql::idle_slots(&client, "seawall").await?;
        if self.pg_wal.is_none() {
            let directory = preflight::show(&client, "data_directory").await;
            self.pg_wal = directory.ok().map(|directory| Path::new(&directory).join("pg_wal"));
        }
        let before_ms = output::now_us() / 1000;
        let row = client
            .query_one(
                "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::pg_catalog.int8, \
                        pg_catalog.sum(checksum_failures)::pg_catalog.int8, \
                        (extract(epoch FROM pg_catalog.max(checksum_last_failure)) * 1000000)::pg_catalog.int8 \
                 FROM pg_catalog.pg_stat_database",
                &[],
            )
            .await
            .context("cannot ask the server how it is")?;
        let half_way_ms = i64::midpoint(before_ms, output::now_us() / 1000);
        let failures = row.get::<_, Option<i64>>(1).zip(row.get::<_, Option<i64>>(2));
        Ok(facts::Server {
            looked_us: output::now_us(),
            error: None,
            written_lsn: written.as_u64(),
            slot_is_there: Some(slot.is_some()),
            slot_wal_status: slot.and_then(|slot| slot.wal_status),
            archiver_failing_since: archiver.and_then(|archiver| archiver.failing_since),
            findings: findings
                .into_iter()
                .filter(|finding| finding.severity > Severity::Notice)
                .map(|finding| (finding.problem, finding.hint, finding.severity == Severity::Error))
                .collect(),
            idle_slots: idle
                .into_iter()
                .map(|(slot, _)| slot)
                .filter(|slot| !own.contains(slot))
                .collect(),
            checksum_failures: failures.filter(|(count, _)| *count > 0),
            clock_apart_ms: row.get::<_, i64>(0) - half_way_ms,
        })
    }

    fn look_at_host(&self) -> facts::Host {
        let key = store::keys::file::read_host(&self.context.config.keys.host_key);
        let probe = state_file(&self.context).with_extension("probe");
        let written = store::durable::atomic_write(&probe, b"");
        facts::Host {
            disks: disk::disks(&self.context, self.pg_wal.as_deref()),
            key_error: key.err().map(|error| error.to_string()),
            state_error: written.err().map(|error| error.to_string()),
            drill: crate::drill::last(&self.context),
            backup_started_us: RunningBackup::read(&self.context).map(|running| running.started_us),
        }
    }
}

/// Damaged objects of shares that no later look has found whole.
fn damaged<'a>(looks: impl Iterator<Item = &'a Proof> + Clone) -> u64 {
    let is_whole_since = |proof: &Proof| {
        let covers = |later: &Proof| {
            later.len == u64::MAX
                || (proof.len != u64::MAX
                    && proof.from.wrapping_sub(later.from) <= later.len - proof.len.min(later.len)
                    && proof.len <= later.len)
        };
        let mut later = looks.clone().filter(|later| later.time_us > proof.time_us);
        // A look that sees less does not take back what one saw that decrypted.
        later.any(|later| later.damaged == 0 && (later.content || !proof.content) && covers(later))
    };
    let newest = looks
        .clone()
        .filter(|proof| proof.damaged > 0 && !is_whole_since(proof));
    newest.map(|proof| proof.damaged).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(time_us: i64, (from, len): (u64, u64), damaged: u64, content: bool) -> Proof {
        Proof {
            time_us,
            host: String::new(),
            content,
            from,
            len,
            objects: 1,
            bytes: 1,
            damaged,
            backup: None,
        }
    }

    const ALL: (u64, u64) = (0, u64::MAX);

    #[test]
    fn damage_stays_until_the_same_share_was_found_whole() {
        let of = |looks: &[Proof]| damaged(looks.iter());
        let (first, second) = ((0, 100), (100, 100));
        assert_eq!(of(&[look(1, first, 0, true)]), 0);
        assert_eq!(of(&[look(1, first, 2, true)]), 2);
        assert_eq!(of(&[look(1, first, 2, true), look(2, second, 0, true)]), 2);
        assert_eq!(of(&[look(1, first, 2, true), look(2, first, 0, true)]), 0);
        assert_eq!(of(&[look(1, first, 2, true), look(2, ALL, 0, true)]), 0);
        assert_eq!(of(&[look(1, ALL, 2, true), look(2, first, 0, true)]), 2);
        assert_eq!(of(&[look(1, first, 2, true), look(2, first, 0, false)]), 2);
        assert_eq!(of(&[look(2, first, 2, true), look(1, first, 0, true)]), 2);
    }
}
