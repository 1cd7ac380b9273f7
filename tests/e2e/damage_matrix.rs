//! Every kind of object in a repository, damaged in every way that a disk, a store or a person can: a restore names what is wrong, or is
//! complete from what is redundant. It never makes another cluster than was asked for.
//!
//! `SEAWALL_DAMAGE=all` damages every object of each kind, not one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::case::case_for;
use tests::cluster::lsn_text;
use tests::seed::Rng;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, tree, user};

/// Restores at a time, each from a copy of the repository.
const LANES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Missing,
    Half,
    Empty,
    /// A bit of the byte at so many hundredths of the object.
    Flipped(usize),
    /// Another object of its kind lies there.
    Swapped,
    /// Bytes behind its end.
    Longer,
}

const DAMAGES: [Damage; 8] = [
    Damage::Missing,
    Damage::Half,
    Damage::Empty,
    Damage::Flipped(0),
    Damage::Flipped(30),
    Damage::Flipped(97),
    Damage::Swapped,
    Damage::Longer,
];

/// A healthy repository, and what comes out of it.
struct Healthy {
    seawall: Seawall,
    repository: PathBuf,
    lsn: String,
    rows: String,
    /// A point behind the second backup with several WAL objects behind it, and what is there then.
    early: (String, String),
}

const LOOK: &str = "select count(*) || ' ' || sum(i) || ' ' || md5(string_agg(filler, '' order by i)) from t";

/// Two backups, two timelines, WAL behind the second one, the last of it in a tail.
async fn healthy(scratch: &Scratch) -> Result<Healthy> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("autovacuum", "off")
        .create(scratch, "main")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    cluster.exec("create table t (i int, filler text)").await?;
    let mut next = 0;
    let mut insert = async || {
        next += 3000;
        let sql = format!(
            "insert into t select i, md5(i::text) from generate_series({}, {next}) i",
            next - 2999
        );
        cluster.exec(&sql).await
    };
    let agent = seawall.run().await?;
    insert().await?;
    seawall.backup().await?;
    insert().await?;
    cluster.switch_timeline().await?;
    cluster.wait_promoted(DEADLINE).await?;
    insert().await?;
    seawall.backup().await?;
    insert().await?;
    let early = (lsn_text(cluster.current_lsn().await?), cluster.query_one(LOOK).await?);
    for _ in 0..4 {
        insert().await?;
        cluster.switch_wal().await?;
    }
    insert().await?;
    seawall.wait_archived(&cluster).await?;
    let lsn = lsn_text(cluster.current_lsn().await?);
    let rows = cluster.query_one(LOOK).await?;
    // Something behind it, so that the end is proven.
    cluster.exec("create table later as select 1 as i").await?;
    seawall.wait_archived(&cluster).await?;
    agent.kill9()?;
    cluster.kill9()?;
    let repository = seawall.repository();
    Ok(Healthy {
        seawall,
        repository,
        lsn,
        rows,
        early,
    })
}

/// Objects by kind; the first directory below the cluster tells it, for packs and WAL one word more.
fn objects(repository: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in tree::files(repository)? {
        let relative = path.strip_prefix(repository)?.to_owned();
        let mut words = relative.iter().map(|word| word.to_string_lossy().into_owned());
        let kind = match (words.next(), words.next(), words.next()) {
            (Some(clusters), _, Some(kind)) if clusters == "clusters" => kind,
            (Some(top), ..) => top,
            _ => continue,
        };
        let is_history = relative.to_string_lossy().contains("history");
        let kind = match kind.as_str() {
            ".tmp" => continue,
            "wal" if is_history => "history".to_owned(),
            // Content and page maps: by their kind in the clear part.
            "packs" => format!("packs of kind {}", kind_of_pack(&path)?),
            _ => kind,
        };
        found.entry(kind).or_default().push(relative);
    }
    Ok(found)
}

/// The kind of an object, behind the magic (FORMAT, 4): 1 of data packs, 2 of metadata packs.
fn kind_of_pack(path: &Path) -> Result<u8> {
    let bytes = fs::read(path)?;
    bytes.get(8).copied().context("a pack without a head")
}

fn damage(path: &Path, how: Damage, others: &[PathBuf], repository: &Path) -> Result<bool> {
    let mut bytes = fs::read(path)?;
    match how {
        Damage::Missing => {
            fs::remove_file(path)?;
            return Ok(true);
        }
        Damage::Half => bytes.truncate(bytes.len() / 2),
        Damage::Empty => bytes.clear(),
        Damage::Flipped(hundredths) => {
            let at = (bytes.len() * hundredths / 100).min(bytes.len().saturating_sub(1));
            *bytes.get_mut(at).context("empty")? ^= 0x10;
        }
        Damage::Swapped => {
            let other = others
                .iter()
                .map(|other| repository.join(other))
                .find(|other| other != path);
            let Some(other) = other else { return Ok(false) };
            bytes = fs::read(other)?;
        }
        Damage::Longer => bytes.extend_from_slice(&[7; 100]),
    }
    fs::remove_file(path)?;
    tests::scratch::write_private(path, &bytes)?;
    Ok(true)
}

struct Lane<'a> {
    scratch: &'a Scratch,
    healthy: &'a Healthy,
    repository: PathBuf,
    seawall: Seawall,
    number: usize,
}

impl<'a> Lane<'a> {
    async fn new(scratch: &'a Scratch, healthy: &'a Healthy, number: usize) -> Result<Lane<'a>> {
        let repository = scratch.dir(format!("lane{number}"))?.join("repository");
        let url = format!("file://{}", repository.display());
        let config = healthy.seawall.config.clone().set("repository.url", url)?;
        let lane = Lane {
            scratch,
            healthy,
            repository,
            seawall: Seawall::configure_as(config, &format!("lane{number}"))?,
            number,
        };
        let mut command = user::command("cp");
        command.arg("-a").arg(&healthy.repository).arg(&lane.repository);
        user::run(command, DEADLINE).await?;
        Ok(lane)
    }

    /// True when the restore was complete in spite of it.
    async fn try_one(&self, kind: &str, object: &Path, how: Damage, others: &[PathBuf]) -> Result<Option<bool>> {
        let path = self.repository.join(object);
        let whole = fs::read(&path)?;
        if !damage(&path, how, others, &self.repository)? {
            return Ok(None);
        }
        let outcome = self
            .restore()
            .await
            .with_context(|| format!("{kind} {}, {how:?}", object.display()));
        if path.exists() {
            fs::remove_file(&path)?;
        }
        tests::scratch::write_private(&path, &whole)?;
        outcome.map(Some)
    }

    async fn restore(&self) -> Result<bool> {
        self.restore_to(&self.healthy.lsn, &self.healthy.rows).await
    }

    async fn restore_to(&self, lsn: &str, expected: &str) -> Result<bool> {
        let place = Cluster::place(self.scratch, &format!("target{}", self.number))?;
        if place.data.exists() {
            fs::remove_dir_all(&place.data)?;
        }
        let (data, sockets) = (place.data.display().to_string(), place.sockets.display().to_string());
        let port = place.port.to_string();
        let args = ["--target-lsn", lsn, "--pgdata", &data, "--start", "--port", &port];
        let output = self
            .seawall
            .restore
            .run(&[&args[..], &["--socket-dir", &sockets]].concat())
            .await?;
        ensure!(!output.stderr.contains("panicked at"), "{}", output.stderr);
        if output.code() == 0 {
            let restored = place.adopt(self.scratch)?;
            let rows = restored.query_one(LOOK).await;
            restored.stop(StopMode::Immediate).await?;
            ensure!(rows? == expected, "another cluster came out");
            return Ok(true);
        }
        ensure!(
            output.stderr.contains("wal-restore: ") && output.stderr.len() > 40,
            "it does not say what is wrong: {}",
            output.stderr
        );
        if place.data.join("global/pg_control").exists() {
            // The files are complete, and recovery found it.
            let server = place.adopt(self.scratch)?;
            ensure!(!server.is_running(), "a server is left running: {}", output.stderr);
            ensure!(!server.has_left_timeline(2)?, "it was promoted: {}", output.stderr);
        }
        Ok(false)
    }
}

#[test]
fn whatever_is_damaged_is_named_or_made_up_for() {
    case_for("damage_matrix", Duration::from_secs(3600), async |scratch| {
        let healthy = healthy(&scratch).await?;
        let objects = objects(&healthy.repository)?;
        for kind in [
            "seawall.json",
            "backups",
            "history",
            "index",
            "keys",
            "lineages",
            "tail",
            "wal",
        ] {
            ensure!(objects.contains_key(kind), "there is no {kind}: {:?}", objects.keys());
        }
        ensure!(
            objects.keys().filter(|kind| kind.starts_with("packs")).count() == 2,
            "{:?}",
            objects.keys()
        );
        let mut rng = Rng::named("damage_matrix");
        let is_all = std::env::var("SEAWALL_DAMAGE").is_ok_and(|which| which == "all");
        let mut todo = VecDeque::new();
        for (kind, of_kind) in &objects {
            let chosen = match is_all {
                true => of_kind.clone(),
                false => vec![rng.pick(of_kind).clone()],
            };
            todo.extend(
                chosen
                    .into_iter()
                    .flat_map(|object| DAMAGES.map(|how| (kind, object.clone(), how))),
            );
        }
        let todo = Mutex::new(todo);
        let results: Mutex<BTreeMap<&str, (u32, u32)>> = Mutex::default();
        let lanes = (0..LANES).map(|number| {
            let (todo, results, objects, healthy, scratch) = (&todo, &results, &objects, &healthy, &scratch);
            async move {
                let lane = Lane::new(scratch, healthy, number).await?;
                ensure!(lane.restore().await?, "nothing is damaged, and the restore fails");
                loop {
                    let next = todo.lock().unwrap().pop_front();
                    let Some((kind, object, how)) = next else {
                        return anyhow::Ok(());
                    };
                    let complete = lane.try_one(kind, &object, how, &objects[kind]).await?;
                    let mut results = results.lock().unwrap();
                    let of_kind = results.entry(kind).or_default();
                    match complete {
                        Some(true) => of_kind.0 += 1,
                        Some(false) => of_kind.1 += 1,
                        None => {}
                    }
                }
            }
        });
        futures::future::try_join_all(lanes).await?;
        let results = results.into_inner().unwrap();
        for (kind, (complete, refused)) in &results {
            println!("{kind}: {complete} complete, {refused} refused or ended in recovery");
        }
        // A pack that the backup needs cannot be made up for; a manifest can, by the other backup.
        let packs = results.iter().filter(|(kind, _)| kind.starts_with("packs"));
        ensure!(packs.map(|(_, (_, refused))| refused).sum::<u32>() > 0, "{results:?}");
        ensure!(results["backups"].1 == 0, "{results:?}");
        Ok(())
    });
}

#[test]
fn damage_behind_the_stop_point_stops_no_restore() {
    case_for("damage_behind", Duration::from_secs(600), async |scratch| {
        let healthy = healthy(&scratch).await?;
        let lane = Lane::new(&scratch, &healthy, 0).await?;
        let of_wal = objects(&lane.repository)?.remove("wal").context("no WAL")?;
        let age = |object: &PathBuf| fs::metadata(healthy.repository.join(object)).and_then(|meta| meta.modified());
        let mut by_age = Vec::new();
        for object in of_wal {
            by_age.push((age(&object)?, object));
        }
        by_age.sort();
        let (_, newest) = by_age.pop().context("no WAL")?;
        let path = lane.repository.join(&newest);
        ensure!(damage(&path, Damage::Flipped(0), &[], &lane.repository)?, "not damaged");
        let (lsn, rows) = &healthy.early;
        ensure!(lane.restore_to(lsn, rows).await?, "it was refused");
        ensure!(!lane.restore().await?, "what lies behind the damage was restored");

        // Structure alone sees it: it reads the heads of WAL.
        let verified = lane.seawall.agent.run(&["verify"]).await?;
        ensure!(verified.code() == 4, "{}", verified.stdout);
        ensure!(
            verified.stdout.contains(&newest.display().to_string()),
            "{}",
            verified.stdout
        );
        Ok(())
    });
}
