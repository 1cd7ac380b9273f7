//! `wal-restore group`: the cluster and the components of a group, back at a point that was set for all of them.
//!
//! The point is a place in the WAL; what lies between it and the moment that a component's backup holds is that member's *skew*. It is printed
//! before anything is written, and again with what the restored members say of themselves.

mod whole;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use components::Stored;
use pg::lsn::Lsn;
use serde::Serialize;
use store::component::GroupPoint;
use store::id::BackupId;
use store::manifest::Manifest;

use crate::cli::{Cli, GroupArgs, RestoreArgs, TargetArgs};
use crate::component::{Way, to_directory, whole_already};
use crate::error::{RestoreError, Result};
use crate::open::{Opened, open};
use crate::packs::refuse_missing;
use crate::report::Report as ClusterReport;
use crate::{component, run, time};
use whole::Whole;

/// A restore goes on for as long as a store may be away.
const PATIENCE: Duration = Duration::from_secs(600);

/// A point, and what was captured for it.
#[derive(Debug, Clone)]
struct Found {
    point: GroupPoint,
    members: BTreeMap<String, Manifest>,
}

/// Where a member stands.
#[derive(Debug, Clone, Serialize)]
struct Member {
    name: String,
    /// The backup; of the cluster none is named: what of it is used is in its plan.
    backup: Option<String>,
    as_of: String,
    /// Seconds from the point to what it holds; below zero: before the point.
    skew_s: f64,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    group: String,
    point: String,
    at: String,
    lsn: String,
    timeline: u32,
    dry_run: bool,
    /// Before anything was written.
    planned: Vec<Member>,
    /// As the restored members say themselves; empty after a dry run.
    reached: Vec<Member>,
    /// Where recovery stopped; without --start it was not run.
    replay_lsn: Option<String>,
    components: Vec<component::Report>,
    cluster: ClusterReport,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// No point is whole, something is in the way, or cannot be brought back.
pub(crate) async fn run(cli: &Cli, args: &GroupArgs) -> Result<()> {
    let begun = Instant::now();
    let opened = open(cli.which(), PATIENCE).await?;
    let all = points(&opened, &args.name).await?;
    if args.list {
        return list(&all, args.json);
    }
    let to = args.to.clone().unwrap_or_default();
    let found = choose(all, args)?;
    refuse_others(&to, &opened.cluster.name, &found.point)?;
    let planned = found.planned(&opened.cluster.name);
    if !args.json {
        println!("{}", Plan(&found, &planned));
    }
    // Whatever cannot be had is refused before the first file is written.
    let needed = found.members.values().flat_map(|manifest| &manifest.packs);
    refuse_missing(&opened.repository, needed.map(|need| need.id)).await?;
    let backup = base_backup(&opened, &found.point).await?;
    let mut cluster = cluster(cli, args, &found.point, backup, to.join(&opened.cluster.name));
    cluster.restore.dry_run = true;
    // The plan is printed once.
    cluster.restore.json = args.json || !args.dry_run;
    if !args.dry_run {
        std::fs::create_dir_all(&to).map_err(RestoreError::io("create directory", &to))?;
    }
    let mut whole = Whole::read(&to, found.point.id)?;
    let dry = Box::pin(run::run(&cluster)).await?;
    let mut components = Vec::new();
    for (name, manifest) in &found.members {
        if !args.dry_run && whole.has(name, manifest.backup) {
            components.push(whole_already(&opened, manifest, &to.join(name)).await?);
            continue;
        }
        let stored = Stored::new(Arc::clone(&opened.repository), manifest.clone());
        let way = Way {
            to: to.join(name),
            only: Vec::new(),
            over: false,
            owners: true,
            dry_run: args.dry_run,
            server: None,
            as_stored: false,
            identity: None,
            is_quiet: args.json,
        };
        components.push(Box::pin(to_directory(&opened, &stored, way)).await?);
        if !args.dry_run {
            whole.add(name, manifest.backup)?;
        }
    }
    // Last: whoever finds the database at work finds the rest as well.
    let restored = match args.dry_run {
        true => dry.report,
        false => {
            cluster.restore.dry_run = false;
            cluster.restore.json = args.json;
            let report = Box::pin(run::run(&cluster)).await?.report;
            whole.end()?;
            report
        }
    };
    let report = Report {
        group: args.name.clone(),
        point: found.point.id.to_string(),
        at: time::show(found.point.at_us),
        lsn: Lsn::new(found.point.lsn).to_string(),
        timeline: found.point.timeline,
        dry_run: args.dry_run,
        reached: match args.dry_run {
            true => Vec::new(),
            false => reached(&opened.cluster.name, &found.point, &restored, &components),
        },
        planned,
        replay_lsn: restored.server.as_ref().map(|server| server.replay_lsn.clone()),
        components,
        cluster: restored,
        seconds: begun.elapsed().as_secs_f64(),
    };
    crate::print_report(&report, args.json)?;
    judge(&report)
}

/// What was restored is what was captured, and all proofs hold.
fn judge(report: &Report) -> Result<()> {
    report.components.iter().try_for_each(component::Report::judge)?;
    match report.cluster.proofs.iter().find(|proof| !proof.ok) {
        None => Ok(()),
        Some(_) => Err(RestoreError::Server {
            message: "a proof of the restored cluster does not hold".into(),
            hint: "It is named above.".into(),
        }),
    }
}

/// All points of a group, in order of time.
async fn points(opened: &Opened, group: &str) -> Result<Vec<Found>> {
    let mut all: BTreeMap<BackupId, Found> = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    for manifest in opened.repository.component_manifests().await? {
        let Some(component) = manifest.component.as_deref() else {
            continue;
        };
        let Some(point) = component.point.clone() else { continue };
        if point.group != group {
            names.push(point.group);
            continue;
        }
        let name = component.name.clone();
        if !point.holds(component) {
            tracing::warn!(backup = %manifest.backup, "it is no part of the point that it names: it is older, or not known there");
            // The point is there all the same, and not whole.
            all.entry(point.id).or_insert_with(|| Found::new(point));
            continue;
        }
        let found = all.entry(point.id).or_insert_with(|| Found::new(point));
        // Of two the first: a point is set once.
        found.members.entry(name).or_insert(manifest);
    }
    if all.is_empty() {
        names.sort();
        names.dedup();
        let hint = match names.as_slice() {
            [] => format!("`wal-agent backup --group {group}` sets one."),
            names => format!("There are points of: {}.", names.join(", ")),
        };
        let message = format!("there is no point of group \"{}\"", group.escape_debug());
        return Err(RestoreError::refused(message, hint));
    }
    let mut all: Vec<Found> = all.into_values().collect();
    all.sort_by_key(|found| (found.point.at_us, found.point.id));
    Ok(all)
}

fn choose(all: Vec<Found>, args: &GroupArgs) -> Result<Found> {
    let listed = || format!("`wal-restore group {} --list` shows them.", args.name);
    if let Some(id) = &args.point {
        let found = all.into_iter().find(|found| found.point.id.to_string() == *id);
        let found = found
            .ok_or_else(|| RestoreError::refused(format!("there is no point \"{}\"", id.escape_debug()), listed()))?;
        return match found.missing().as_slice() {
            [] => Ok(found),
            missing => Err(RestoreError::refused(
                format!("the point has no backup of {}", missing.join(", ")),
                format!("Choose another one. {}", listed()),
            )),
        };
    }
    let until = match &args.at {
        // Lists print milliseconds: who types what was printed means that point.
        Some(text) => time::parse_option("--at", text)? + 999,
        None => i64::MAX,
    };
    all.into_iter()
        .rev()
        .find(|found| found.point.at_us <= until && found.missing().is_empty())
        .ok_or_else(|| RestoreError::refused("no point that is whole is of then", listed()))
}

/// Each member has a directory of its own below; what an interrupted restore has left there is gone on with, or refused, by the member's own.
fn refuse_others(to: &Path, cluster: &str, point: &GroupPoint) -> Result<()> {
    let io = || RestoreError::io("read directory", to);
    let entries = match std::fs::read_dir(to) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io()(error)),
    };
    let tablespaces = format!("{cluster}.tablespaces");
    for entry in entries {
        let name = entry.map_err(io())?.file_name();
        let is_ours = |member: &str| name.as_encoded_bytes() == member.as_bytes();
        if !is_ours(cluster)
            && !is_ours(&tablespaces)
            && !is_ours(whole::FILE)
            && !point.components.iter().any(|member| is_ours(member))
        {
            return Err(RestoreError::refused(
                format!(
                    "\"{}\" holds \"{}\", which is none of ours",
                    to.display(),
                    name.display()
                ),
                "Name a new directory: nothing is written beside other things.",
            ));
        }
    }
    Ok(())
}

/// The newest base backup before the point, where the newest of all is of another history.
async fn base_backup(opened: &Opened, point: &GroupPoint) -> Result<Option<BackupId>> {
    let manifests = opened.repository.manifests().await?;
    let newest = manifests.iter().max_by_key(|manifest| manifest.lineage);
    if newest.is_none_or(|newest| newest.lineage == point.lineage) {
        return Ok(None);
    }
    let before = manifests
        .iter()
        .filter(|manifest| manifest.lineage == point.lineage && manifest.timeline <= point.timeline)
        .filter(|manifest| manifest.end_lsn <= point.lsn)
        .max_by_key(|manifest| (manifest.end_lsn, manifest.backup));
    before.map(|manifest| Some(manifest.backup)).ok_or_else(|| {
        RestoreError::refused(
            "no base backup of the cluster lies before the point",
            "It was given up by [retention], or never taken. `wal-restore list` shows what there is.",
        )
    })
}

/// The restore of the cluster, as it would be typed.
fn cluster(cli: &Cli, args: &GroupArgs, point: &GroupPoint, backup: Option<BackupId>, pgdata: PathBuf) -> Cli {
    let target = TargetArgs {
        target_time: None,
        target_lsn: Some(Lsn::new(point.lsn)),
        target_xid: None,
        target_name: None,
        target: None,
        exclusive: false,
        target_timeline: Some(point.timeline),
        or_latest: false,
        backup: backup.map(|backup| backup.to_string()),
    };
    Cli {
        config: cli.config.clone(),
        cluster: cli.cluster.clone(),
        copy: cli.copy.clone(),
        command: None,
        restore: RestoreArgs {
            tablespaces_below: Some(pgdata.with_extension("tablespaces")),
            start: args.start,
            prove: args.prove,
            port: args.port,
            socket_dir: args.socket_dir.clone(),
            start_timeout: args.start_timeout,
            jobs: args.jobs,
            owner: args.owner.clone(),
            json: args.json,
            ..RestoreArgs::plain(target, pgdata)
        },
    }
}

/// Where the members stand now.
fn reached(
    cluster: &str,
    point: &GroupPoint,
    restored: &ClusterReport,
    components: &[component::Report],
) -> Vec<Member> {
    // Without a server nobody has replayed anything yet: recovery stops at the point, whenever it is started.
    let last = restored
        .server
        .as_ref()
        .and_then(|server| server.last_commit_time.clone());
    let last_us = last
        .as_deref()
        .and_then(|text| time::parse(text).ok())
        .unwrap_or(point.at_us);
    let of_cluster = Member::new(cluster, None, last_us, point);
    let others = components
        .iter()
        .map(|one| Member::new(&one.component, Some(one.backup.clone()), one.as_of_us, point));
    std::iter::once(of_cluster).chain(others).collect()
}

impl Member {
    fn new(name: &str, backup: Option<String>, as_of_us: i64, point: &GroupPoint) -> Self {
        Member {
            name: name.to_owned(),
            backup,
            as_of: time::show(as_of_us),
            skew_s: (as_of_us - point.at_us) as f64 / 1e6,
        }
    }
}

impl Found {
    fn new(point: GroupPoint) -> Self {
        Found {
            point,
            members: BTreeMap::new(),
        }
    }

    /// Members without a backup of this point.
    fn missing(&self) -> Vec<&str> {
        let all = self.point.components.iter().map(String::as_str);
        all.filter(|name| !self.members.contains_key(*name)).collect()
    }

    fn planned(&self, cluster: &str) -> Vec<Member> {
        let of_cluster = Member::new(cluster, None, self.point.at_us, &self.point);
        let others = self.members.iter().map(|(name, manifest)| {
            let as_of = manifest.component.as_ref().map_or(0, |component| component.as_of_us);
            Member::new(name, Some(manifest.backup.to_string()), as_of, &self.point)
        });
        std::iter::once(of_cluster).chain(others).collect()
    }
}

/// The first lines.
struct Plan<'a>(&'a Found, &'a [Member]);

impl fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = &self.0.point;
        writeln!(
            f,
            "group      {}, point {}: {}, {} on timeline {}",
            point.group,
            point.id,
            time::show(point.at_us),
            Lsn::new(point.lsn),
            point.timeline
        )?;
        members(f, "planned", self.1)
    }
}

fn members(f: &mut fmt::Formatter<'_>, word: &str, all: &[Member]) -> fmt::Result {
    for member in all {
        let backup = member.backup.as_deref().unwrap_or("WAL");
        writeln!(
            f,
            "{word:<10} {:<16} {}  skew {:+.3} s  ({backup})",
            member.name, member.as_of, member.skew_s
        )?;
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.cluster)?;
        for component in &self.components {
            writeln!(f, "{component}")?;
        }
        members(f, "reached", &self.reached)?;
        write!(f, "took       {:.1} s", self.seconds)
    }
}

/// A point, for programs.
#[derive(Serialize)]
struct Listed {
    point: String,
    at: String,
    lsn: String,
    timeline: u32,
    missing: Vec<String>,
    members: Vec<Member>,
}

fn list(all: &[Found], as_json: bool) -> Result<()> {
    let listed = all.iter().map(|found| Listed {
        point: found.point.id.to_string(),
        at: time::show(found.point.at_us),
        lsn: Lsn::new(found.point.lsn).to_string(),
        timeline: found.point.timeline,
        missing: found.missing().into_iter().map(str::to_owned).collect(),
        members: found.planned("").split_off(1),
    });
    if as_json {
        return crate::print_json(&listed.collect::<Vec<_>>());
    }
    for point in listed {
        let skew = point.members.iter().map(|member| member.skew_s).fold(0.0, f64::max);
        let whole = match point.missing.as_slice() {
            [] => format!("largest skew {skew:.3} s"),
            missing => format!("NOT WHOLE, without {}", missing.join(", ")),
        };
        crate::print_line(&format!(
            "{}  {}  {} on timeline {}  {whole}",
            point.point, point.at, point.lsn, point.timeline
        ))?;
    }
    Ok(())
}
