//! What is asked for by environment variables, and where the programs are. Whatever is missing is said before anything is made.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::database::DataSet;
use crate::peers::walg::Flavour;

/// MB (10^6 bytes) of database a data set.
const MB_VARIABLE: &str = "SEAWALL_BENCH_MB";
const MB_DEFAULT: u64 = 2048;
/// How often each program runs.
const ROUNDS_VARIABLE: &str = "SEAWALL_BENCH_ROUNDS";
const ROUNDS_DEFAULT: u64 = 3;
/// The second data set, as a share of the first one's size.
const MIX_PERCENT_VARIABLE: &str = "SEAWALL_BENCH_MIX_PERCENT";
const MIX_PERCENT_DEFAULT: u64 = 100;
/// Segments of WAL that are archived, fetched, streamed and replayed.
const SEGMENTS_VARIABLE: &str = "SEAWALL_BENCH_SEGMENTS";
const SEGMENTS_DEFAULT: u64 = 60;
/// What is measured behind the full backups: `restores`, `increments`, `wal` (with recovery), `load`, with commas between them; all of
/// it by default.
const PARTS_VARIABLE: &str = "SEAWALL_BENCH_PARTS";
/// A directory with `wal-agent` and `wal-restore`, in place of the workspace's release build.
const OURS_VARIABLE: &str = "SEAWALL_BENCH_BIN";
/// PostgreSQL's programs.
const SERVER_VARIABLE: &str = "SEAWALL_PG15_BIN";
/// The program `barman`.
const BARMAN_VARIABLE: &str = "SEAWALL_BARMAN_BIN";
/// The program WAL-G, where there is one.
const WALG_VARIABLE: &str = "WALG";
/// The program WAL-RUS, where there is one.
const WAL_RUS_VARIABLE: &str = "WAL_RUS";
/// The program pgBackRest.
const PGBACKREST_VARIABLE: &str = "SEAWALL_PGBACKREST_BIN";
/// Before it neither bundles nor blocks were what they are now.
const PGBACKREST_AT_LEAST: (u32, u32) = (2, 59);
/// Room for the cluster, its WAL, and what is stored of it: two whole copies and six that are compressed 3 : 1.
const DISK_FACTOR: u64 = 6;

/// Processes or threads that each program may use for copying.
pub const JOBS: usize = 2;

/// A run that can begin.
#[derive(Debug)]
pub struct Settings {
    /// Bytes of database a data set.
    pub bytes: u64,
    /// How often each program runs.
    pub rounds: usize,
    /// PostgreSQL's programs.
    pub server: PathBuf,
    /// Our agent.
    pub agent: PathBuf,
    /// The program pgBackRest.
    pub pgbackrest: PathBuf,
    /// The program `barman`.
    pub barman: PathBuf,
    /// WAL-G, WAL-RUS and whatever has their command line.
    pub walg: Vec<(Flavour, PathBuf)>,
    /// Share of the first data set's size that the second one has.
    pub mix_percent: u64,
    /// Segments of WAL.
    pub segments: u64,
    /// Version of each program.
    pub versions: Vec<String>,
    parts: Option<String>,
}

impl Settings {
    /// Reads the environment and tries every program.
    ///
    /// # Errors
    /// A variable is no number, a program is missing or too old, there is too little room: all that was found wrong.
    pub fn find() -> io::Result<Self> {
        let mut wrong = Vec::new();
        let mut keep = |found: io::Result<PathBuf>| found.map_err(|error| wrong.push(error.to_string())).ok();
        let server = keep(directory(SERVER_VARIABLE));
        let pgbackrest = keep(pgbackrest());
        let barman = keep(program(BARMAN_VARIABLE, "the program barman"));
        let agent = keep(agent());
        let mut walg = Vec::new();
        for (flavour, name) in [(Flavour::WalG, WALG_VARIABLE), (Flavour::WalRus, WAL_RUS_VARIABLE)] {
            if set(name).is_some() {
                walg.extend(keep(given(name)).map(|program| (flavour, program)));
            }
        }
        if !wrong.is_empty() {
            return Err(io::Error::other(wrong.join("\n")));
        }
        let (Some(server), Some(pgbackrest), Some(barman), Some(agent)) = (server, pgbackrest, barman, agent) else {
            return Err(io::Error::other(wrong.join("\n")));
        };
        let mut versions = Vec::new();
        for (program, argument) in [
            (agent.clone(), "--version"),
            (pgbackrest.clone(), "version"),
            (barman.clone(), "--version"),
            (server.join("pg_basebackup"), "--version"),
        ] {
            let said = version(&program, argument)?;
            versions.push(match said.split_once(" Barman") {
                Some((number, _)) => format!("Barman {number}"),
                None => said,
            });
        }
        for (flavour, program) in &walg {
            versions.push(format!("{} {}", flavour.name(), version(program, "--version")?));
        }
        let bytes = number(MB_VARIABLE, MB_DEFAULT)? * 1_000_000;
        has_room(bytes)?;
        Ok(Settings {
            bytes,
            rounds: usize::try_from(number(ROUNDS_VARIABLE, ROUNDS_DEFAULT)?).unwrap_or(1),
            server,
            agent,
            pgbackrest,
            barman,
            walg,
            mix_percent: number(MIX_PERCENT_VARIABLE, MIX_PERCENT_DEFAULT)?,
            segments: number(SEGMENTS_VARIABLE, SEGMENTS_DEFAULT)?,
            versions,
            parts: std::env::var(PARTS_VARIABLE).ok(),
        })
    }

    /// Bytes of database in one data set.
    #[must_use]
    pub fn bytes_of(&self, set: DataSet) -> u64 {
        match set {
            DataSet::Pgbench => self.bytes,
            DataSet::Mix => self.bytes * self.mix_percent / 100,
        }
    }

    /// True when a part is to be measured.
    #[must_use]
    pub fn has(&self, part: &str) -> bool {
        let parts = self.parts.as_deref();
        parts.is_none_or(|parts| parts.split(',').any(|one| one == part))
    }
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn number(name: &str, default: u64) -> io::Result<u64> {
    let Some(text) = set(name) else { return Ok(default) };
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    match parsed {
        Some(number) if number > 0 => Ok(number),
        _ => Err(io::Error::other(format!("{name} must be a number above 0"))),
    }
}

fn directory(name: &str) -> io::Result<PathBuf> {
    let missing = || missing(name, "the directory of PostgreSQL 15's programs");
    let directory = set(name).ok_or_else(missing)?;
    match directory.join("pg_basebackup").is_file() && directory.join("pgbench").is_file() {
        true => Ok(directory),
        false => Err(missing()),
    }
}

fn agent() -> io::Result<PathBuf> {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(|target| PathBuf::from(target).join("release"));
    let agent = set(OURS_VARIABLE).or(target).unwrap_or_else(built).join("wal-agent");
    match agent.is_file() {
        true => Ok(agent),
        false => Err(io::Error::other(format!(
            "{} does not exist: run cargo build --release -p agent -p restore (make bench-peers does it), or set {OURS_VARIABLE}",
            agent.display()
        ))),
    }
}

fn pgbackrest() -> io::Result<PathBuf> {
    let program = program(PGBACKREST_VARIABLE, "the program pgBackRest")?;
    let said = version(&program, "version")?;
    let mut parts = said.rsplit(' ').next().unwrap_or_default().split('.');
    let mut part = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let (major, minor) = PGBACKREST_AT_LEAST;
    match (part(), part()) >= PGBACKREST_AT_LEAST {
        true => Ok(program),
        false => Err(io::Error::other(format!(
            "{said} is too old to compare with: {major}.{minor} or later is wanted"
        ))),
    }
}

fn program(name: &str, what: &str) -> io::Result<PathBuf> {
    let path = set(name).filter(|path| path.is_file());
    path.ok_or_else(|| missing(name, what))
}

/// A program that nobody installs.
fn given(name: &str) -> io::Result<PathBuf> {
    let path = set(name).filter(|path| path.is_file());
    path.ok_or_else(|| io::Error::other(format!("{name} names no program: give its path, or leave {name} out")))
}

fn missing(name: &str, what: &str) -> io::Error {
    io::Error::other(format!(
        "{name} must name {what}: make bench-peers installs it and sets this"
    ))
}

fn version(program: &Path, argument: &str) -> io::Result<String> {
    let failed = |why: String| io::Error::other(format!("{} does not run: {why}", program.display()));
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn has_room(bytes: u64) -> io::Result<()> {
    let directory = std::env::temp_dir();
    let disk = rustix::fs::statvfs(&directory)?;
    let (free, wanted) = (disk.f_bavail * disk.f_frsize, bytes * DISK_FACTOR);
    match free >= wanted {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} has {} MB of room, and {} MB are wanted: set TMPDIR to another place, or {MB_VARIABLE} lower",
            directory.display(),
            free / 1_000_000,
            wanted / 1_000_000
        ))),
    }
}
