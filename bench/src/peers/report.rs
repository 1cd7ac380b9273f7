//! The figures of all rounds: medians, and what each is held against in the same run.

use crate::measure::{Took, median};
use crate::peers::backup::Taken;
use crate::peers::board;
use crate::peers::effect::{Effect, Rate};
use crate::peers::ours::{Ours, Report};
use crate::peers::pages::Changed;
use crate::peers::pgbackrest::PgBackRest;
use crate::peers::process::Ran;
use crate::peers::program::Runs;
use crate::peers::restores::Restores;
use crate::stages::{COMPRESS, RESTORE, STAGES, UNCHANGED, composed};
use crate::summary::Summary;

const MIB: f64 = (1 << 20) as f64;

/// All full backups of a data set.
#[derive(Debug, Default)]
pub struct Full {
    /// Every program, ours among them.
    pub all: Runs<Taken>,
    /// What ours said of itself.
    pub reports: Vec<Report>,
    /// Our stages, each alone.
    pub stages: Vec<[Took; STAGES.len()]>,
    /// What the stages worked on.
    pub sample_bytes: usize,
    /// Seconds to write what ours stored, durable, and nothing else.
    pub written_s: Vec<f64>,
}

/// All increments of one share of changed pages.
#[derive(Debug, Default)]
pub struct Increments {
    /// Every program, ours among them.
    pub all: Runs<Taken>,
    /// What ours said of itself.
    pub reports: Vec<Report>,
    /// What had really changed.
    pub changed: Vec<Changed>,
}

/// The stages of a data set, medians of all rounds.
#[derive(Debug)]
pub struct Bounds {
    stages: Vec<Took>,
    sample_bytes: usize,
}

impl Bounds {
    fn of(full: &Full) -> Self {
        let stage = |at: usize| median(full.stages.iter().filter_map(|round| round.get(at).copied()).collect());
        Bounds {
            stages: (0..STAGES.len()).map(stage).collect(),
            sample_bytes: full.sample_bytes,
        }
    }

    fn all(&self) -> Took {
        composed(&self.stages)
    }

    fn restore(&self) -> Took {
        let stages: Vec<Took> = RESTORE.iter().filter_map(|at| self.stages.get(*at).copied()).collect();
        composed(&stages)
    }

    fn unchanged(&self) -> Took {
        composed(self.stages.get(..UNCHANGED).unwrap_or_default())
    }
}

/// Adds what restores took.
pub fn restores(summary: &mut Summary, set: &str, bounds: &Bounds, bytes: f64, all: &Restores) {
    let name = |what: &str| format!("{set} restore, {what}");
    let wall = |all: &[Ran]| middle(all, |ran| ran.wall_s);
    let decode_s = bytes / 1e6 / bounds.restore().mb_s(bounds.sample_bytes);
    let write_s = wall(&all.copied);
    let bound_s = decode_s.max(write_s);
    summary.add(name("decode on both cores"), decode_s, "s", None);
    summary.add(name("copy of the files, durable"), write_s, "s", None);
    let (ours, theirs) = (all.full.of(Ours::NAME), all.full.of(PgBackRest::NAME));
    let mb_s = |seconds: f64| bytes / 1e6 / seconds;
    for (held_against, seconds) in [
        ("slower of decoding and copying, goal 0.8", bound_s),
        ("pgBackRest", wall(theirs)),
    ] {
        summary.add(
            name("wal-restore"),
            mb_s(wall(ours)),
            "MB/s",
            Some((mb_s(seconds), held_against)),
        );
    }
    for (what, all) in [("over the same", &all.same), ("over 1 % damaged", &all.damaged)] {
        let (ours, theirs) = (all.of(Ours::NAME), all.of(PgBackRest::NAME));
        summary.add(name(what), wall(ours), "s", Some((wall(theirs), "pgBackRest --delta")));
    }
    for (program, all) in [("wal-restore", ours), ("pgBackRest", theirs)] {
        summary.add(
            name(&format!("{program}: CPU")),
            middle(all, |ran| ran.cpu_s) / (bytes / 1e9),
            "s/GB",
            None,
        );
        summary.add(
            name(&format!("{program}: memory")),
            middle(all, |ran| ran.peak_bytes as f64) / MIB,
            "MiB",
            None,
        );
    }
    for (what, all) in [("over the same", &all.same), ("over 1 % damaged", &all.damaged)] {
        summary.add(
            name(&format!("{what}: memory")),
            middle(all.of(Ours::NAME), |ran| ran.peak_bytes as f64) / MIB,
            "MiB",
            None,
        );
    }
}

/// The middle one of what `figure` says of each.
fn middle<T>(all: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    board::middle(all.iter().map(figure))
}

/// Adds what full backups took; gives the bounds for what follows, and the bytes of the cluster.
#[must_use]
pub fn full(summary: &mut Summary, set: &str, full: &Full) -> (Bounds, f64) {
    let bounds = Bounds::of(full);
    let (ours, reports) = (full.all.of(Ours::NAME), full.reports.as_slice());
    let bytes = middle(reports, |report| report.logical_bytes as f64);
    summary.add(format!("{set}: cluster"), bytes / 1e6, "MB", None);
    for (stage, took) in STAGES.iter().zip(&bounds.stages) {
        summary.add(format!("{set}: {stage}"), took.mb_s(bounds.sample_bytes), "MB/s", None);
    }
    let name = |what: &str| format!("{set} full, {what}");
    let mb_s = |taken: &Taken| bytes / 1e6 / taken.ran.wall_s;
    let bound = bounds.all();
    let zstd = bounds
        .stages
        .get(COMPRESS)
        .map_or(f64::NAN, |took| took.mb_s(bounds.sample_bytes));
    let write_s = middle(&full.written_s, |seconds| *seconds);
    let with_write = bytes / 1e6 / (bytes / 1e6 / bound.mb_s(bounds.sample_bytes) + write_s);
    summary.add(format!("{set}: write what is stored, durable"), write_s, "s", None);
    for (held_against, bound) in [
        ("composed bound, goal 0.9", bound.mb_s(bounds.sample_bytes)),
        ("composed bound and writing what is stored", with_write),
        ("bare zstd 1", zstd),
        ("pgBackRest", middle(full.all.of(PgBackRest::NAME), mb_s)),
    ] {
        summary.add(
            name("wal-agent"),
            middle(ours, mb_s),
            "MB/s",
            Some((bound, held_against)),
        );
    }
    summary.add(
        name("wal-agent, copying alone"),
        bytes / 1e6 / middle(reports, |report| report.copy_s),
        "MB/s",
        Some((bound.mb_s(bounds.sample_bytes), "composed bound, goal 0.9")),
    );
    summary.add(
        name("wal-agent, CPU"),
        middle(ours, Taken::cpu_s) / (bytes / 1e9),
        "s/GB",
        Some((bound.cpu_s_per_gb(bounds.sample_bytes), "CPU of all stages")),
    );
    table(summary, &format!("{set} full"), bytes, &full.all);
    beside(summary, &format!("{set} full"), reports);
    (bounds, bytes)
}

/// What each program took, a line each. What the board has too is not kept twice.
fn table(summary: &mut Summary, what: &str, bytes: f64, programs: &Runs<Taken>) {
    print!("\n{what:<24}");
    for (name, unit, _) in COLUMNS {
        print!(" {:>14}", format!("{name} {unit}"));
    }
    println!();
    for run in programs.iter().filter(|run| run.lacks.is_none()) {
        print!("  {:<22}", run.name);
        for (name, unit, figure) in COLUMNS {
            let value = middle(&run.rounds, |taken| figure(taken, bytes));
            print!(" {value:>14.2}");
            if !["wall", "all", "stored", "written"].contains(&name) {
                summary.keep(format!("{what}, {}: {name}", run.name), value, unit);
            }
        }
        println!();
    }
    println!();
}

/// Name, unit, and the figure of one run over so many bytes. "Server" is of its CPU with the server's, "all" of all its processes,
/// "one" of the largest; "others" are the cores that all else on the machine took, the server included.
type Column = (&'static str, &'static str, fn(&Taken, f64) -> f64);
const COLUMNS: [Column; 9] = [
    ("wall", "s", |taken, _| taken.ran.wall_s),
    ("speed", "MB/s", |taken, bytes| bytes / 1e6 / taken.ran.wall_s),
    ("CPU", "s/GB", |taken, bytes| taken.cpu_s() / (bytes / 1e9)),
    ("server", "CPU s", |taken, _| taken.server_cpu_s),
    ("all", "MiB", |taken, _| taken.ran.peak_bytes as f64 / MIB),
    ("one", "MiB", |taken, _| taken.ran.largest_bytes as f64 / MIB),
    ("stored", "MB", |taken, _| taken.written.bytes as f64 / 1e6),
    ("written", "files", |taken, _| taken.written.files as f64),
    ("others", "cores", |taken, _| taken.ran.other_cpu_s / taken.ran.wall_s),
];

/// What the agent took that streamed meanwhile: it belongs to the backup in no other way than that it must run.
fn beside(summary: &mut Summary, name: &str, reports: &[Report]) {
    summary.add(
        format!("{name}, wal-agent run beside: CPU"),
        middle(reports, |report| report.agent_cpu_s),
        "s",
        None,
    );
    summary.add(
        format!("{name}, wal-agent run beside: memory"),
        middle(reports, |report| report.agent_bytes as f64) / MIB,
        "MiB",
        None,
    );
}

/// Adds what increments took when about `percent` of the pages had changed.
pub fn increments(summary: &mut Summary, set: &str, percent: u32, bounds: &Bounds, all: &Increments) {
    let (ours, reports) = (all.all.of(Ours::NAME), all.reports.as_slice());
    let name = |what: &str| format!("{set} {percent} %, {what}");
    let bytes = middle(reports, |report| report.logical_bytes as f64);
    let pages = middle(&all.changed, |changed| changed.pages as f64);
    let of_pages = middle(&all.changed, |changed| changed.of_pages as f64);
    summary.add(name("pages changed"), 100.0 * pages / of_pages, "%", None);
    summary.add(
        name("wal-agent: new pages"),
        middle(reports, |report| report.new_pages as f64),
        "pages",
        (pages > 0.0).then_some((pages, "pages changed")),
    );
    table(summary, &format!("{set} {percent} %"), bytes, &all.all);
    let compressed = middle(&all.changed, |changed| changed.compressed_bytes as f64) / 1e6;
    let stored = middle(ours, |taken| taken.written.bytes as f64) / 1e6;
    let against = (compressed > 0.0).then_some((compressed, "changed pages, zstd 1, goal 1.2"));
    summary.add(name("wal-agent, stored"), stored, "MB", against);
    let bound = bounds.unchanged();
    let bound_s = bytes / 1e6 / bound.mb_s(bounds.sample_bytes);
    let held = Some((bound_s, "read, check and hash, goal 1.3"));
    summary.add(
        name("wal-agent, wall"),
        middle(ours, |taken| taken.ran.wall_s),
        "s",
        held,
    );
    summary.add(
        name("wal-agent, copying alone"),
        middle(reports, |report| report.copy_s),
        "s",
        held,
    );
    summary.add(
        name("wal-agent, CPU"),
        middle(ours, Taken::cpu_s) / (bytes / 1e9),
        "s/GB",
        Some((bound.cpu_s_per_gb(bounds.sample_bytes), "CPU of the same")),
    );
    beside(summary, &format!("{set} {percent} %"), reports);
}

/// Adds what backups did to the load.
pub fn effects(summary: &mut Summary, set: &str, brake: &str, all: &[Effect]) {
    let name = |what: &str| format!("{set} load, brake {brake}: {what}");
    let both = |figure: fn(&Rate) -> f64| {
        (
            middle(all, |effect| figure(&effect.during)),
            middle(all, |effect| figure(&effect.without)),
        )
    };
    let (during, without) = both(|rate| rate.tps);
    summary.add(
        name("transactions"),
        during,
        "1/s",
        Some((without, "no backup, goal 0.9 with a brake")),
    );
    let (during, without) = both(|rate| rate.p99_ms);
    summary.add(name("p99 latency"), during, "ms", Some((without, "no backup")));
    summary.add(name("backup"), middle(all, |effect| effect.backup_s), "s", None);
}
