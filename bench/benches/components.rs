//! How do captures of what stands beside PostgreSQL compare with restic's, on the same data in one run? And how much memory do a file of 10 GB
//! and a million small files take?
//!
//! Each program in turn: a first capture, one of a changed source, a restore. Variables: `SEAWALL_BENCH_FILES` (100,000), `SEAWALL_BENCH_ROUNDS`
//! (3), `SEAWALL_BENCH_LARGE_MB` (10,240), `SEAWALL_BENCH_SMALL` (1,000,000), `SEAWALL_BENCH_PARTS` (`files,dumps,git,redis,large,small`).

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bench::components::sources::{self, DATABASE, Redis};
use bench::components::{Ours, Restic, tree};
use bench::peers::files::Written;
use bench::peers::process::{Ran, check_interrupted, interrupt, measure, wait_until};
use bench::server::Server;
use bench::summary::Summary;

const OPTIONS: &str = "-c listen_addresses= -c fsync=off";
const MIB: f64 = (1 << 20) as f64;
/// Largest of many files.
const LARGEST: u64 = 256 << 10;
/// Rows of the database that is dumped.
const ORDERS: u64 = 1_500_000;
/// Commits of the repository, and as many come between two captures as a busy day has.
const COMMITS: (u64, u64) = (1_000, 50);
/// Keys of the Redis server.
const KEYS: u64 = 400_000;
/// Goal for what streams through.
const MEMORY_MAX_MIB: f64 = 256.0;

/// What a program took: a first capture, a second, a restore.
#[derive(Default)]
struct Took {
    first: Vec<Ran>,
    second: Vec<(Ran, Written)>,
    restore: Vec<Ran>,
}

struct Bench {
    server: Server,
    programs: PathBuf,
    restic: PathBuf,
    scratch: PathBuf,
    rounds: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("components: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // A signal must not leave a server behind: it ends the run as an error would.
    runtime.spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt();
        }
    });
    let directory = tempfile::Builder::new().prefix("seawall-components").tempdir()?;
    let scratch = directory.path().to_owned();
    let server = Server::create(&named("SEAWALL_PG15_BIN")?, &scratch, OPTIONS)?;
    let bench = Bench {
        programs: programs(&scratch)?,
        restic: named("SEAWALL_RESTIC_BIN")?,
        rounds: number("SEAWALL_BENCH_ROUNDS", 3)?,
        server,
        scratch,
    };
    let parts = std::env::var("SEAWALL_BENCH_PARTS").unwrap_or_else(|_| "files,dumps,git,redis,large,small".into());
    let mut summary = Summary::default();
    for part in parts.split(',') {
        match part {
            "files" => bench.files(&mut summary)?,
            "dumps" => bench.dumps(&mut summary)?,
            "git" => bench.git(&mut summary)?,
            "redis" => bench.redis(&mut summary)?,
            "large" => bench.large(&mut summary)?,
            "small" => bench.small(&mut summary)?,
            other => return Err(io::Error::other(format!("SEAWALL_BENCH_PARTS: {other} is not known"))),
        }
        check_interrupted()?;
    }
    println!("written to {}", summary.write("components")?.display());
    Ok(())
}

impl Bench {
    /// Many files, of which one in a hundred changes.
    fn files(&self, summary: &mut Summary) -> io::Result<()> {
        let count = number("SEAWALL_BENCH_FILES", 100_000)?;
        let (mut ours, mut theirs, mut bytes) = (Took::default(), Took::default(), 0);
        for round in 0..self.rounds {
            eprintln!("files, round {} of {}", round + 1, self.rounds);
            let source = self.scratch.join("files");
            bytes = tree::make(&source, count, LARGEST, round)?;
            let tables = format!(
                "[component.files]\nkind = \"files\"\npaths = [\"{}\"]\n",
                source.display()
            );
            let seawall = Ours::create(&self.server, &self.programs, &self.scratch.join("ours"), &tables)?;
            let restic = Restic::create(&self.server, &self.restic, &self.scratch.join("restic"))?;
            settle()?;
            ours.first.push(seawall.capture("files")?.0);
            theirs.first.push(restic.capture(&source)?.0);
            tree::change(&source, count, LARGEST, round + 1000)?;
            ours.second.push(seawall.capture("files")?);
            theirs.second.push(restic.capture(&source)?);
            ours.restore
                .push(seawall.restore("files", &self.scratch.join("to-ours"))?);
            theirs.restore.push(restic.restore(&self.scratch.join("to-restic"))?);
            self.clear(&["files", "ours", "restic", "to-ours", "to-restic"])?;
        }
        report(
            summary,
            &format!("files, {count} of {:.0} MB", bytes as f64 / 1e6),
            &ours,
            &theirs,
        );
        Ok(())
    }

    /// How long the dump itself takes: no capture of it is faster.
    fn dump_alone(&self, printed: &str) -> io::Result<Ran> {
        let mut command = self.server.command(Path::new("/bin/sh"));
        command.args(["-c", &format!("{printed} > /dev/null")]);
        measure(&mut command, &self.scratch.join("dump.out"))
    }

    /// A database, of which one row in a hundred changes and as many are added.
    fn dumps(&self, summary: &mut Summary) -> io::Result<()> {
        let (mut ours, mut theirs, mut alone) = (Took::default(), Took::default(), Vec::new());
        for round in 0..self.rounds {
            eprintln!("dumps, round {} of {}", round + 1, self.rounds);
            sources::make_database(&self.server, ORDERS)?;
            // Without the counting, which the other one does not do.
            let tables = format!(
                "[component.dumps]\nkind = \"postgres-dump\"\ndatabases = [\"{DATABASE}\"]\nrow_counts = false\n"
            );
            let seawall = Ours::create(&self.server, &self.programs, &self.scratch.join("ours"), &tables)?;
            let restic = Restic::create(&self.server, &self.restic, &self.scratch.join("restic"))?;
            let name = format!("{DATABASE}.dump");
            let dump = self.server.bin().join("pg_dump");
            let printed = format!("{} -Fc -Z0 {DATABASE}", dump.display());
            alone.push(self.dump_alone(&printed)?);
            ours.first.push(seawall.capture("dumps")?.0);
            theirs.first.push(restic.capture_printed(&printed, &name)?.0);
            sources::change_database(&self.server, ORDERS, round)?;
            ours.second.push(seawall.capture("dumps")?);
            theirs.second.push(restic.capture_printed(&printed, &name)?);
            ours.restore.push(seawall.print("dumps", &name)?);
            theirs.restore.push(restic.print(&name)?);
            self.clear(&["ours", "restic"])?;
        }
        let what = format!("dumps, {ORDERS} rows");
        report(summary, &what, &ours, &theirs);
        let bound = Some((middle(&alone, |ran| ran.wall_s), "pg_dump into nothing"));
        let first = middle(&ours.first, |ran| ran.wall_s);
        summary.add(format!("{what}, first capture, beside its source"), first, "s", bound);
        Ok(())
    }

    /// A repository to which a day's commits come.
    fn git(&self, summary: &mut Summary) -> io::Result<()> {
        let (commits, more) = COMMITS;
        let (mut ours, mut theirs) = (Took::default(), Took::default());
        for round in 0..self.rounds {
            eprintln!("git, round {} of {}", round + 1, self.rounds);
            let source = self.scratch.join("code.git");
            sources::commit(&self.server, &source, commits, round * 2)?;
            let tables = format!(
                "[component.code]\nkind = \"git\"\nrepositories = [\"{}\"]\n",
                source.display()
            );
            let seawall = Ours::create(&self.server, &self.programs, &self.scratch.join("ours"), &tables)?;
            let restic = Restic::create(&self.server, &self.restic, &self.scratch.join("restic"))?;
            ours.first.push(seawall.capture("code")?.0);
            theirs.first.push(restic.capture(&source)?.0);
            sources::commit(&self.server, &source, more, round * 2 + 1)?;
            ours.second.push(seawall.capture("code")?);
            theirs.second.push(restic.capture(&source)?);
            ours.restore
                .push(seawall.restore("code", &self.scratch.join("to-ours"))?);
            theirs.restore.push(restic.restore(&self.scratch.join("to-restic"))?);
            self.clear(&["code.git", "ours", "restic", "to-ours", "to-restic"])?;
        }
        report(summary, &format!("git, {commits} and {more} commits"), &ours, &theirs);
        Ok(())
    }

    /// A server full of keys, of which one in a hundred changes.
    fn redis(&self, summary: &mut Summary) -> io::Result<()> {
        let program = named("SEAWALL_REDIS7_BIN")?;
        let (mut ours, mut theirs) = (Took::default(), Took::default());
        for round in 0..self.rounds {
            eprintln!("redis, round {} of {}", round + 1, self.rounds);
            let redis = Redis::start(&self.server, &program, &self.scratch.join("redis"))?;
            redis.fill(KEYS, 1, round)?;
            let socket = redis.socket.display();
            let tables = format!("[component.cache]\nkind = \"redis\"\naddress = \"{socket}\"\n");
            let seawall = Ours::create(&self.server, &self.programs, &self.scratch.join("ours"), &tables)?;
            let restic = Restic::create(&self.server, &self.restic, &self.scratch.join("restic"))?;
            let printed = format!("{} -s {socket} --rdb -", redis.cli.display());
            ours.first.push(seawall.capture("cache")?.0);
            theirs.first.push(restic.capture_printed(&printed, "dump.rdb")?.0);
            redis.fill(KEYS, 100, round + 1000)?;
            ours.second.push(seawall.capture("cache")?);
            theirs.second.push(restic.capture_printed(&printed, "dump.rdb")?);
            ours.restore
                .push(seawall.restore("cache", &self.scratch.join("to-ours"))?);
            theirs.restore.push(restic.restore(&self.scratch.join("to-restic"))?);
            drop(redis);
            self.clear(&["redis", "ours", "restic", "to-ours", "to-restic"])?;
        }
        report(summary, &format!("redis, {KEYS} keys"), &ours, &theirs);
        Ok(())
    }

    /// One file that is far larger than the memory.
    fn large(&self, summary: &mut Summary) -> io::Result<()> {
        let megabytes = number("SEAWALL_BENCH_LARGE_MB", 10_240)?;
        let source = self.scratch.join("large");
        std::fs::create_dir(&source)?;
        let mut file = std::fs::File::create(source.join("file"))?;
        let mut numbers = tree::Numbers::new(1);
        for _ in 0..megabytes {
            // Half of it compresses.
            let mut block = vec![0_u8; 1 << 20];
            for part in block.chunks_exact_mut(16) {
                part[..8].copy_from_slice(&numbers.draw().to_le_bytes());
            }
            io::Write::write_all(&mut file, &block)?;
        }
        drop(file);
        let what = format!("one file of {megabytes} MiB");
        self.memory(summary, &what, &source)?;
        self.clear(&["large"])
    }

    /// So many files that a list of them would not fit.
    fn small(&self, summary: &mut Summary) -> io::Result<()> {
        let count = number("SEAWALL_BENCH_SMALL", 1_000_000)?;
        let source = self.scratch.join("small");
        tree::make(&source, count, 256, 1)?;
        self.memory(summary, &format!("{count} small files"), &source)?;
        self.clear(&["small"])
    }

    fn memory(&self, summary: &mut Summary, what: &str, source: &Path) -> io::Result<()> {
        let tables = format!(
            "[component.files]\nkind = \"files\"\npaths = [\"{}\"]\n",
            source.display()
        );
        let seawall = Ours::create(&self.server, &self.programs, &self.scratch.join("ours"), &tables)?;
        eprintln!("{what}");
        let first = seawall.capture("files")?.0;
        let second = seawall.capture("files")?.0;
        let restore = seawall.restore("files", &self.scratch.join("to-ours"))?;
        for (step, ran) in [
            ("first capture", &first),
            ("second capture", &second),
            ("restore", &restore),
        ] {
            summary.add(format!("{what}, {step}"), ran.wall_s, "s", None);
            let memory = ran.largest_bytes as f64 / MIB;
            summary.add(
                format!("{what}, {step}: memory"),
                memory,
                "MiB",
                Some((MEMORY_MAX_MIB, "limit")),
            );
        }
        self.clear(&["ours", "to-ours"])
    }

    fn clear(&self, names: &[&str]) -> io::Result<()> {
        names
            .iter()
            .try_for_each(|name| std::fs::remove_dir_all(self.scratch.join(name)))
    }
}

/// What our program took, beside restic.
fn report(summary: &mut Summary, what: &str, ours: &Took, theirs: &Took) {
    let second = |took: &Took| took.second.iter().map(|(ran, _)| ran.clone()).collect::<Vec<_>>();
    let steps = [
        ("first capture", ours.first.clone(), theirs.first.clone()),
        ("second capture", second(ours), second(theirs)),
        ("restore", ours.restore.clone(), theirs.restore.clone()),
    ];
    for (step, ours, theirs) in &steps {
        let name = |of: &str| format!("{what}, {step}{of}");
        let wall: fn(&Ran) -> f64 = |ran| ran.wall_s;
        let cpu: fn(&Ran) -> f64 = |ran| ran.cpu_s;
        summary.add(
            name(""),
            middle(ours, wall),
            "s",
            Some((middle(theirs, wall), "restic, goal 0.5")),
        );
        summary.add(
            name(": CPU"),
            middle(ours, cpu),
            "s",
            Some((middle(theirs, cpu), "restic")),
        );
        let memory: fn(&Ran) -> f64 = |ran| ran.peak_bytes as f64 / MIB;
        summary.add(
            name(": memory"),
            middle(ours, memory),
            "MiB",
            Some((middle(theirs, memory), "restic")),
        );
    }
    let stored = |took: &Took| middle(&took.second, |(_, written)| written.bytes as f64 / 1e6);
    let against = Some((stored(theirs), "restic, goal 1"));
    summary.add(format!("{what}, second capture: stored"), stored(ours), "MB", against);
}

/// The middle one.
fn middle<T>(all: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// As most files are when they are captured: older than two minutes. Of younger ones our second capture trusts no time, and reads all again.
fn settle() -> io::Result<()> {
    let begun = std::time::Instant::now();
    wait_until("the files to be two minutes old", Duration::from_secs(300), || {
        Ok(begun.elapsed() > Duration::from_secs(121))
    })
}

/// Where the server's user may run them.
fn programs(scratch: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let built = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let directory = scratch.join("programs");
    std::fs::create_dir(&directory)?;
    for name in ["wal-agent", "wal-restore"] {
        let copy = directory.join(name);
        std::fs::copy(built.join("release").join(name), &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

fn named(variable: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.exists());
    path.ok_or_else(|| {
        let hint = "make bench ARGS=\"--bench components\" installs it and sets this";
        io::Error::other(format!("{variable} must name a program: {hint}"))
    })
}

fn number(name: &str, default: u64) -> io::Result<u64> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .map_err(|_| io::Error::other(format!("{name} must be a number"))),
    }
}
