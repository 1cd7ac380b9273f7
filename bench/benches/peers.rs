//! How does the whole program compare with others that do the same work, on one real cluster, in one run?
//!
//! Two data sets, one after the other, each in a cluster of its own: full backups by every program in turn, and our stages alone on
//! the same relation files; restores of them; increments after real changes; what a backup does to a load. Medians of the rounds are shown. Variables:
//! `bench::peers::settings`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use bench::peers::database::{DataSet, Database};
use bench::peers::effect::measure_effect;
use bench::peers::ours::{Brake, Ours, knows_brake};
use bench::peers::pages::{Images, Sample};
use bench::peers::process::{check_interrupted, interrupt};
use bench::peers::report::{self, Bounds, Full, Increments};
use bench::peers::restores::{self, Restores};
use bench::peers::settings::{JOBS, Settings};
use bench::peers::theirs::{BaseBackup, PgBackRest};
use bench::stages::{Stages, write_packs};
use bench::summary::Summary;
use store::id::RepositoryId;
use store::keys::ClusterKeys;
use store::seal::Secret32;

/// Changed pages of an increment, in hundredths of all.
const PERCENT: [u32; 3] = [0, 1, 10];

/// One data set in a running server.
struct Case<'a> {
    settings: &'a Settings,
    set: DataSet,
    database: &'a Database,
    agent: PathBuf,
    has_brake: bool,
}

/// The repositories that the increments go on with.
struct Chains<'a> {
    ours: Ours<'a>,
    pgbackrest: PgBackRest<'a>,
    bounds: Bounds,
    /// Bytes of all files of the cluster.
    bytes: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let settings = Settings::find()?;
    // A signal must not leave a server behind: it ends the run as an error would.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.spawn(async {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        interrupt();
    });
    println!(
        "{}; {} MB a data set, {JOBS} processes or threads each, medians of {}\n",
        settings.versions,
        settings.bytes / 1_000_000,
        settings.rounds
    );
    let mut summary = Summary::default();
    for set in [DataSet::Pgbench, DataSet::Mix] {
        one(&settings, set, &mut summary)?;
        println!();
    }
    println!("written to {}", summary.write("peers")?.display());
    Ok(())
}

fn one(settings: &Settings, set: DataSet, summary: &mut Summary) -> io::Result<()> {
    eprintln!("making {}", set.name());
    let scratch = tempfile::Builder::new().prefix("seawall-peers").tempdir()?;
    let database = Database::create(&settings.server, scratch.path(), set, settings.bytes)?;
    // The server's user may not see the build directory.
    let agent = scratch.path().join("wal-agent");
    for name in ["wal-agent", "wal-restore"] {
        let copy = scratch.path().join(name);
        std::fs::copy(settings.agent.with_file_name(name), &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    let has_brake = knows_brake(&database.server, &agent, &scratch.path().join("try"))?;
    if !has_brake {
        println!("this wal-agent does not know backup.brake: the load is measured without one");
    }
    let case = Case {
        settings,
        set,
        database: &database,
        agent,
        has_brake,
    };
    let chains = case.full(summary)?;
    if settings.has("restores") {
        case.restores(summary, &chains)?;
    }
    let chains = match settings.has("increments") {
        true => case.increments(summary, chains)?,
        false => chains,
    };
    chains.ours.remove()?;
    chains.pgbackrest.remove()?;
    match settings.has("load") {
        true => case.effects(summary),
        false => Ok(()),
    }
}

impl<'a> Case<'a> {
    fn say(&self, what: &str, round: usize) {
        eprintln!(
            "{}: {what}, round {} of {}",
            self.set.name(),
            round + 1,
            self.settings.rounds
        );
    }

    fn home(&self, name: &str) -> PathBuf {
        self.database.server.directory().join(name)
    }

    fn ours(&self, round: usize, brake: Brake) -> io::Result<Ours<'a>> {
        let home = self.home(&format!("ours{round}"));
        let brake = self.has_brake.then_some(brake);
        Ours::start(&self.database.server, &self.agent, &home, brake)
    }

    /// Every program in turn, each into an empty repository. The last ones are kept.
    fn full(&self, summary: &mut Summary) -> io::Result<Chains<'a>> {
        let server = &self.database.server;
        let sample = Sample::take(&server.data(), &self.home("sample"))?;
        let keys = ClusterKeys::derive(Secret32::new([7; 32]), RepositoryId::from_parts(1, [1; 10]))
            .map_err(io::Error::other)?;
        let stages = Stages::new(&sample.file, &sample.bytes, &keys)?
            .at_blocks(sample.first_blocks.clone())
            .read_at(sample.places.clone());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(JOBS).build();
        let pool = pool.map_err(io::Error::other)?;
        let mut full = Full {
            sample_bytes: sample.bytes.len(),
            ..Full::default()
        };
        let mut last: Option<(Ours<'a>, PgBackRest<'a>)> = None;
        for round in 0..self.settings.rounds {
            if let Some((ours, pgbackrest)) = last.take() {
                ours.remove()?;
                pgbackrest.remove()?;
            }
            self.say("full backups", round);
            server.query("checkpoint")?;
            let ours = self.ours(round, Brake::Off)?;
            full.ours.push(ours.backup()?);
            let program = &self.settings.pgbackrest;
            let pgbackrest = PgBackRest::create(server, program, &self.home(&format!("pgbackrest{round}")))?;
            full.pgbackrest.push(pgbackrest.backup("full")?);
            let base = |kind: BaseBackup| kind.take(server, &self.home("base"));
            full.compressed.push(base(BaseBackup::Compressed)?);
            full.plain.push(base(BaseBackup::Plain)?);
            full.stages.push(pool.install(|| stages.run()));
            let stored = full.ours.last().map_or(0, |(taken, _)| taken.written.bytes);
            full.written_s
                .push(pool.install(|| write_packs(&self.home("written"), stored))?);
            check_interrupted()?;
            last = Some((ours, pgbackrest));
        }
        std::fs::remove_file(self.home("sample"))?;
        let (ours, pgbackrest) = last.ok_or_else(|| io::Error::other("no round"))?;
        let (bounds, bytes) = report::full(summary, self.set.name(), &full);
        Ok(Chains {
            ours,
            pgbackrest,
            bounds,
            bytes,
        })
    }

    /// The full backups, restored.
    fn restores(&self, summary: &mut Summary, chains: &Chains<'a>) -> io::Result<()> {
        let server = &self.database.server;
        let mut all = Restores::default();
        for round in 0..self.settings.rounds {
            self.say("restores", round);
            restores::round(
                server,
                &chains.ours,
                &chains.pgbackrest,
                &self.home("restores"),
                &mut all,
            )?;
            check_interrupted()?;
        }
        report::restores(summary, self.set.name(), &chains.bounds, chains.bytes, &all);
        Ok(())
    }

    /// Changes, then an increment by each program, the shares in turn.
    fn increments(&self, summary: &mut Summary, chains: Chains<'a>) -> io::Result<Chains<'a>> {
        let data = self.database.server.data();
        let mut all = PERCENT.map(|percent| (percent, Increments::default()));
        // What the server changes by itself at the first look is in no increment.
        chains.ours.backup()?;
        chains.pgbackrest.backup("incr")?;
        self.database.change(0.0)?;
        let mut images = Images::take(&data)?;
        for round in 0..self.settings.rounds {
            self.say("increments", round);
            for (percent, increments) in &mut all {
                self.database.change(f64::from(*percent) / 100.0)?;
                increments.changed.push(images.look_again(&data)?);
                increments.ours.push(chains.ours.backup()?);
                increments.pgbackrest.push(chains.pgbackrest.backup("incr")?);
                check_interrupted()?;
            }
        }
        for (percent, increments) in &all {
            report::increments(summary, self.set.name(), *percent, &chains.bounds, increments);
        }
        Ok(chains)
    }

    /// The load with and without a full backup, with and without a brake.
    fn effects(&self, summary: &mut Summary) -> io::Result<()> {
        let mut all = vec![("off", Brake::Off, Vec::new())];
        if self.has_brake {
            all.push(("auto", Brake::Auto, Vec::new()));
        }
        for round in 0..self.settings.rounds {
            self.say("load", round);
            for (_, brake, effects) in &mut all {
                let ours = self.ours(round, *brake)?;
                effects.push(measure_effect(self.database, &ours, &self.home("load"))?);
                ours.remove()?;
            }
        }
        for (brake, _, effects) in &all {
            report::effects(summary, self.set.name(), brake, effects);
        }
        Ok(())
    }
}
