//! How do memory, metadata and requests grow with the cluster? Repositories of clusters of 0.1, 1 and 10 TB without their data (`bench::scale`):
//! a full backup's metadata is built, then an increment of 1 % random changes is taken, a restore planned, `prune` planned, the structure
//! verified. Every step runs in a process of its own; an increment or a restore whose plan grows it by more than 1 GiB fails the run.
//!
//! `make bench ARGS="--bench scale -- 0.1 1 10 100"` for other sizes. As root the real `wal-restore` runs too, into a target of memory.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bench::measure::memory_growth;
use bench::scale::hollow::HollowStore;
use bench::scale::place::{Failed, Place};
use bench::scale::price::{self, Requests};
use bench::scale::{increment, neighbours, program, reading, synthetic};
use bench::summary::Summary;
use store::limits::PAGE_BYTES;

/// The limit for a cluster of 10 TB, and for all that is smaller.
const MEMORY_MAX_BYTES: u64 = 1 << 30;
const LIMIT_HOLDS_TO_TB: f64 = 10.0;
const CLUSTERS: u32 = 1_000;
/// `nobody`: PostgreSQL's tools do not run as root.
const USER: u32 = 65_534;
/// All page maps are read for that, digests too.
const VERIFY_TO_TB: f64 = 1.0;
const MIB: f64 = (1 << 20) as f64;
/// Name of a figure of each step.
const GROWTH: &str = "growth of the process";

/// Figures of a step: name, value, unit.
type Figures = Vec<(String, f64, String)>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["step", step, directory, files] => run_step(step, Path::new(directory), files),
        sizes => run_all(sizes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(sizes: &[&str]) -> Result<(), Failed> {
    let sizes = match sizes {
        [] => vec![0.1, 1.0, 10.0],
        sizes => sizes.iter().map(|size| size.parse()).collect::<Result<Vec<f64>, _>>()?,
    };
    let mut summary = Summary::default();
    let mut broken = Vec::new();
    for size in sizes {
        broken.extend(one_size(size, &mut summary)?);
        println!();
    }
    let scratch = Scratch::new()?;
    println!("{CLUSTERS} clusters in one bucket: host and keeper of one of them");
    scratch.step("neighbours", CLUSTERS, &mut summary)?;
    println!("\nwritten to {}", summary.write("scale")?.display());
    match broken.is_empty() {
        true => Ok(()),
        false => Err(broken.join("; ").into()),
    }
}

/// A directory that is gone afterwards, with programs in it that its user may run.
struct Scratch {
    directory: tempfile::TempDir,
    is_root: bool,
}

impl Scratch {
    fn new() -> Result<Self, Failed> {
        let directory = tempfile::Builder::new().prefix("seawall-scale").tempdir()?;
        let is_root = rustix::process::geteuid().is_root();
        std::fs::copy(std::env::current_exe()?, directory.path().join("scale"))?;
        if is_root {
            chown(directory.path(), Some(USER), Some(USER))?;
        }
        Ok(Scratch { directory, is_root })
    }

    /// Runs a step in a process of its own, adds what it prints, and returns it by name.
    fn step(&self, step: &str, count: u32, summary: &mut Summary) -> Result<BTreeMap<String, f64>, Failed> {
        let mut command = Command::new(self.directory.path().join("scale"));
        command
            .args(["step", step])
            .arg(self.directory.path())
            .arg(count.to_string());
        if self.is_root {
            command.uid(USER).gid(USER).current_dir("/");
        }
        let output = command.stderr(std::process::Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("step \"{step}\" failed").into());
        }
        let figures: Figures = serde_json::from_slice(&output.stdout)?;
        for (name, value, unit) in &figures {
            summary.add(format!("  {step}: {name}"), *value, unit_of(unit), None);
        }
        Ok(figures.into_iter().map(|(name, value, _)| (name, value)).collect())
    }
}

fn unit_of(unit: &str) -> &'static str {
    ["MiB", "s", "requests", "objects", "extents", "findings", "MB"]
        .into_iter()
        .find(|known| *known == unit)
        .unwrap_or("")
}

/// All steps of a size; what broke the limit.
fn one_size(size_tb: f64, summary: &mut Summary) -> Result<Vec<String>, Failed> {
    // Files of 1 GiB, so 10 TB are 10.7 TB.
    let files = (size_tb * 1000.0).round() as u32;
    let pages = f64::from(files) * f64::from(synthetic::FILE_PAGES);
    println!("{size_tb} TB: {files} relation files, {:.1} million pages", pages / 1e6);
    summary.add(format!("{size_tb} TB"), pages * PAGE_BYTES as f64 / 1e6, "MB", None);
    let scratch = Scratch::new()?;
    let mut broken = Vec::new();
    let mut check = |what: &str, growth_mib: f64| {
        if size_tb <= LIMIT_HOLDS_TO_TB && growth_mib * MIB > MEMORY_MAX_BYTES as f64 {
            broken.push(format!("{size_tb} TB: {what} took {growth_mib:.0} MiB"));
        }
    };
    let full = scratch.step("full", files, summary)?;
    let increment = scratch.step("increment", files, summary)?;
    check("the plan of an increment", of(&increment, GROWTH));
    let maps = scratch.step("maps", files, summary)?;
    check("reading the maps of a restore", of(&maps, GROWTH));
    if let Some(peak) = restore(&scratch, summary)? {
        check("the plan of a restore", peak);
    }
    scratch.step("prune", files, summary)?;
    if size_tb <= VERIFY_TO_TB {
        scratch.step("verify", files, summary)?;
    }
    add_prices(&full, &increment, summary);
    Ok(broken)
}

/// The real program, until it asks for data: the most memory it had by then, in MiB.
fn restore(scratch: &Scratch, summary: &mut Summary) -> Result<Option<f64>, Failed> {
    let Some(restorer) = restorer().filter(|_| scratch.is_root) else {
        println!("  wal-restore is not built, or we are not root: left out");
        return Ok(None);
    };
    let copy = scratch.directory.path().join("wal-restore");
    std::fs::copy(restorer, &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    let planned = program::restore(&copy, &Place(scratch.directory.path().to_owned()), USER)?;
    let peak = planned.peak_bytes as f64 / MIB;
    summary.add("  wal-restore: peak until the first data pack", peak, "MiB", None);
    summary.add("  wal-restore: seconds until then", planned.seconds, "s", None);
    summary.add("  wal-restore: files made", planned.files as f64, "objects", None);
    Ok(Some(peak))
}

fn of(figures: &BTreeMap<String, f64>, name: &str) -> f64 {
    figures.get(name).copied().unwrap_or(f64::NAN)
}

/// A month of one full backup that is there, and an increment each day.
fn add_prices(full: &BTreeMap<String, f64>, increment: &BTreeMap<String, f64>, summary: &mut Summary) {
    let full_mb: f64 = [
        "data packs, stored",
        "extents and file table, stored",
        "page digests, stored",
    ]
    .iter()
    .map(|name| of(full, name))
    .sum();
    let day = Requests {
        puts: of(increment, "PUT") + of(increment, "LIST"),
        gets: of(increment, "GET and HEAD"),
    };
    let shipping = Requests {
        puts: price::PUTS_OF_A_DAY * price::DAYS,
        gets: 0.0,
    };
    let full_puts = Requests {
        puts: of(full, "data packs") + of(full, "metadata packs") + 2.0,
        gets: 0.0,
    };
    for (name, dollars) in [
        ("requests of a full backup", price::requests(full_puts)),
        ("requests of 30 increments", price::requests(day) * price::DAYS),
        ("WAL, a request a second", price::requests(shipping)),
        ("a full backup stored", price::stored(full_mb * 1e6)),
        (
            "30 increments stored",
            price::stored(of(increment, "all put") * 1e6 * price::DAYS),
        ),
    ] {
        summary.add(format!("  $ a month: {name}"), dollars, "$", None);
    }
}

/// Beside the directory of benches.
fn restorer() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let path = exe.parent()?.parent()?.join("wal-restore");
    path.is_file().then_some(path)
}

fn now_us() -> Result<i64, Failed> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_micros())?)
}

/// A step, in its own process: prints its figures.
fn run_step(step: &str, directory: &Path, count: &str) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (place, count) = (Place(directory.to_owned()), count.parse()?);
    let mut figures = Err("it did not run".into());
    let begun = Instant::now();
    let growth = memory_growth(|| figures = runtime.block_on(Box::pin(figures_of(step, &place, count))));
    let seconds = begun.elapsed().as_secs_f64();
    let mut figures: Figures = figures?;
    figures.push(("seconds".into(), seconds, "s".into()));
    let growth = growth.ok_or("the kernel does not tell how much memory was used")?;
    figures.push((GROWTH.into(), growth as f64 / MIB, "MiB".into()));
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

async fn figures_of(step: &str, place: &Place, count: u32) -> Result<Figures, Failed> {
    let now_us = now_us()?;
    let mut figures: BTreeMap<&str, (f64, &str)> = BTreeMap::new();
    match step {
        "full" => {
            let built = synthetic::build(place, count, now_us).await?;
            figures.insert("data packs", (built.data_packs as f64, "objects"));
            figures.insert("metadata packs", (built.metadata_packs as f64, "objects"));
            figures.insert("data packs, stored", (built.data_bytes as f64 / 1e6, "MB"));
            figures.insert("extents and file table, stored", (built.map_bytes as f64 / 1e6, "MB"));
            figures.insert("page digests, stored", (built.digest_bytes as f64 / 1e6, "MB"));
            figures.insert("manifest before compression", (built.manifest_bytes as f64 / 1e6, "MB"));
            figures.insert("extents", (built.extents as f64, "extents"));
        }
        "increment" => {
            let store = place.store()?;
            let writer = place.as_host(Arc::clone(&store)).await?;
            let outcome = increment::take(place, &writer, count, 1, now_us).await?;
            add_requests(&mut figures, &store);
            let counts = store.counts();
            figures.insert("data packs put", (counts.data_packs as f64, "objects"));
            figures.insert("metadata put", (counts.put_metadata_bytes as f64 / 1e6, "MB"));
            figures.insert("all put", (counts.put_bytes as f64 / 1e6, "MB"));
            figures.insert("read", (counts.get_bytes as f64 / 1e6, "MB"));
            figures.insert("packs in the manifest", (outcome.packs.len() as f64, "objects"));
        }
        "maps" => {
            let store = place.store()?;
            let repository = place.as_restorer(Arc::clone(&store)).await?;
            let extents = reading::maps_of_newest(&repository).await?;
            add_requests(&mut figures, &store);
            figures.insert("extents", (extents as f64, "extents"));
            figures.insert("read", (store.counts().get_bytes as f64 / 1e6, "MB"));
        }
        "prune" => {
            let store = place.store()?;
            let writer = place.as_keeper(Arc::clone(&store)).await?;
            reading::plan_prune(&writer, now_us).await?;
            add_requests(&mut figures, &store);
        }
        "verify" => {
            let store = place.store()?;
            let writer = place.as_keeper(Arc::clone(&store)).await?;
            let findings = reading::verify_structure(writer.repository()).await?;
            add_requests(&mut figures, &store);
            figures.insert("findings", (findings as f64, "findings"));
        }
        "neighbours" => {
            let seen = neighbours::look(&place.0.join("many"), count, now_us).await?;
            figures.insert("requests", (seen.requests as f64, "requests"));
            figures.insert("of these LIST", (seen.lists as f64, "requests"));
            figures.insert("of these elsewhere", (seen.elsewhere as f64, "requests"));
            if seen.elsewhere > 0 {
                return Err("a cluster asked for what belongs to others".into());
            }
        }
        _ => return Err("no such step".into()),
    }
    let figure = |(name, (value, unit)): (&str, (f64, &str))| (name.to_owned(), value, unit.to_owned());
    Ok(figures.into_iter().map(figure).collect())
}

fn add_requests(figures: &mut BTreeMap<&str, (f64, &str)>, store: &HollowStore) {
    let counts = store.counts();
    figures.insert("GET and HEAD", ((counts.get + counts.head) as f64, "requests"));
    figures.insert("LIST", (counts.list as f64, "requests"));
    figures.insert("PUT", (counts.put as f64, "requests"));
}
