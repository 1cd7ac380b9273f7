//! One data set in a running server: what is asked of every program there, in turns.

use std::io;
use std::path::PathBuf;

use store::id::RepositoryId;
use store::keys::ClusterKeys;
use store::seal::Secret32;

use crate::peers::backlog::Backlog;
use crate::peers::barman::Barman;
use crate::peers::base_backup::{BaseBackup, Form};
use crate::peers::board::Results;
use crate::peers::database::{DataSet, Database};
use crate::peers::effect::measure_effect;
use crate::peers::ours::{Brake, Ours};
use crate::peers::pages::{Images, Sample};
use crate::peers::pgbackrest::PgBackRest;
use crate::peers::process::check_interrupted;
use crate::peers::program::Program;
use crate::peers::report::{self, Bounds, Full, Increments};
use crate::peers::restores::{self, Restores};
use crate::peers::settings::{JOBS, Settings};
use crate::peers::walg::WalG;
use crate::stages::{Stages, write_packs};
use crate::summary::Summary;

/// Changed pages of an increment, in hundredths of all.
const PERCENT: [u32; 3] = [0, 1, 10];

/// One data set in a running server.
pub struct Case<'a> {
    /// Of the run.
    pub settings: &'a Settings,
    /// Which.
    pub set: DataSet,
    /// In its server.
    pub database: &'a Database,
    /// Ours, where the server's user may see it.
    pub agent: PathBuf,
    /// It may have none.
    pub has_brake: bool,
}

/// The repositories that the increments go on with.
pub struct Chains<'a> {
    ours: Ours<'a>,
    others: Vec<Box<dyn Program + 'a>>,
    bounds: Bounds,
    /// Bytes of all files of the cluster.
    bytes: f64,
}

impl Chains<'_> {
    /// Ends and removes everything.
    ///
    /// # Errors
    /// The agent did not end as it should.
    pub fn remove(self) -> io::Result<()> {
        self.ours.remove()?;
        for program in self.others {
            std::fs::remove_dir_all(program.home())?;
        }
        Ok(())
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

    /// Every program of others, each with an empty repository.
    fn others(&self, round: usize) -> io::Result<Vec<Box<dyn Program + 'a>>> {
        let (server, settings) = (&self.database.server, self.settings);
        let home = |name: &str| self.home(&format!("{name}{round}"));
        let mut all: Vec<Box<dyn Program + 'a>> = vec![
            Box::new(PgBackRest::create(server, &settings.pgbackrest, &home("pgbackrest"))?),
            Box::new(Barman::create(server, &settings.barman, &home("barman"))?),
        ];
        for (flavour, program) in &settings.walg {
            let home = home(flavour.name());
            all.push(Box::new(WalG::create(*flavour, server, program, &home)?));
        }
        Ok(all)
    }

    fn group(&self) -> String {
        let bytes = self.settings.bytes_of(self.set) / 1_000_000;
        format!("{}, {bytes} MB", self.set.name())
    }

    /// Every program in turn, each into an empty repository. The last ones are kept.
    ///
    /// # Errors
    /// A program failed.
    pub fn full(&self, results: &mut Results) -> io::Result<Chains<'a>> {
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
        let mut last: Option<(Ours<'a>, Vec<Box<dyn Program + 'a>>)> = None;
        for round in 0..self.settings.rounds {
            if let Some((ours, others)) = last.take() {
                ours.remove()?;
                for program in others {
                    std::fs::remove_dir_all(program.home())?;
                }
            }
            self.say("full backups", round);
            let mut others = self.others(round)?;
            others.push(Box::new(BaseBackup::new(
                server,
                Form::Compressed,
                &self.home(&format!("base{round}")),
            )));
            let plain = BaseBackup::new(server, Form::Plain, &self.home("plain"));
            server.query("checkpoint")?;
            let ours = self.ours(round, Brake::Off)?;
            let (taken, report) = ours.backup_reported()?;
            let stored = taken.written.bytes;
            full.all.add(ours.name(), Ok(taken));
            full.reports.push(report);
            for program in &others {
                full.all.add(program.name(), program.backup(false)?);
                check_interrupted()?;
            }
            full.all.add(plain.name(), plain.backup(false)?);
            std::fs::remove_dir_all(plain.home())?;
            full.stages.push(pool.install(|| stages.run()));
            full.written_s
                .push(pool.install(|| write_packs(&self.home("written"), stored))?);
            check_interrupted()?;
            last = Some((ours, others));
        }
        std::fs::remove_file(self.home("sample"))?;
        let (ours, others) = last.ok_or_else(|| io::Error::other("no round"))?;
        let (bounds, bytes) = report::full(&mut results.summary, self.set.name(), &full);
        let about = "Each into an empty repository, the cluster at rest and in the page cache. Seawall's is checked, encrypted and signed.";
        results.board.add(&self.group(), "full backup", about, &full.all, true);
        Ok(Chains {
            ours,
            others,
            bounds,
            bytes,
        })
    }

    /// The full backups, restored.
    ///
    /// # Errors
    /// A program failed.
    pub fn restores(&self, results: &mut Results, chains: &Chains<'a>) -> io::Result<()> {
        let server = &self.database.server;
        let mut all = Restores::default();
        let ours: &dyn Program = &chains.ours;
        let others = chains.others.iter().map(|program| program.as_ref() as &dyn Program);
        let programs: Vec<&dyn Program> = [ours].into_iter().chain(others).collect();
        for round in 0..self.settings.rounds {
            self.say("restores", round);
            restores::round(server, &programs, &self.home("restores"), &mut all)?;
            check_interrupted()?;
        }
        report::restores(
            &mut results.summary,
            self.set.name(),
            &chains.bounds,
            chains.bytes,
            &all,
        );
        let (group, board) = (self.group(), &mut results.board);
        let mut full = all.full.taken();
        for copied in &all.copied {
            full.add("cp, durable", Ok(copied.clone().into()));
        }
        let about =
            "Into an empty directory, files only, durable: who does not see to it himself has \"sync -f\" behind him.";
        board.add(&group, "restore", about, &full, false);
        let about = "Over the restored cluster, in which nothing has changed.";
        board.add(
            &group,
            "delta restore, nothing changed",
            about,
            &all.same.taken(),
            false,
        );
        let about = "Over the restored cluster, after one page in a hundred was overwritten.";
        board.add(&group, "delta restore, 1 % damaged", about, &all.damaged.taken(), false);
        Ok(())
    }

    /// Changes, then an increment by each program, the shares in turn.
    ///
    /// # Errors
    /// A program failed.
    pub fn increments(&self, results: &mut Results, chains: Chains<'a>) -> io::Result<Chains<'a>> {
        let data = self.database.server.data();
        let mut all = PERCENT.map(|percent| (percent, Increments::default()));
        // What the server changes by itself at the first look is in no increment.
        chains.ours.backup_reported()?;
        for program in &chains.others {
            program.backup(true)?.ok();
        }
        self.database.change(0.0)?;
        let mut images = Images::take(&data)?;
        for round in 0..self.settings.rounds {
            self.say("increments", round);
            for (percent, increments) in &mut all {
                self.database.change(f64::from(*percent) / 100.0)?;
                increments.changed.push(images.look_again(&data)?);
                let (taken, report) = chains.ours.backup_reported()?;
                increments.all.add(chains.ours.name(), Ok(taken));
                increments.reports.push(report);
                for program in &chains.others {
                    increments.all.add(program.name(), program.backup(true)?);
                    check_interrupted()?;
                }
            }
        }
        for (percent, increments) in &all {
            report::increments(
                &mut results.summary,
                self.set.name(),
                *percent,
                &chains.bounds,
                increments,
            );
            let title = match percent {
                0 => "increment, nothing changed".to_owned(),
                _ => format!("increment, {percent} % of the pages changed"),
            };
            let about =
                "On the newest backup. pgBackRest compares blocks of files that are newer; Seawall reads every page.";
            results.board.add(&self.group(), &title, about, &increments.all, true);
        }
        Ok(chains)
    }

    /// WAL and recovery.
    ///
    /// # Errors
    /// A program failed.
    pub fn wal(&self, results: &mut Results) -> io::Result<()> {
        let server = &self.database.server;
        eprintln!("writing {} segments of WAL", self.settings.segments);
        let (ours, others) = (
            self.ours(self.settings.rounds, Brake::Off)?,
            self.others(self.settings.rounds)?,
        );
        let mut backlog = Backlog::make(server, &self.home("backlog"), ours, others, self.settings.segments)?;
        let figures = backlog.measure(self.settings.rounds, |what, round| self.say(what, round))?;
        backlog.report(&mut results.board, &figures);
        backlog.remove()
    }

    /// The load with and without a full backup, with and without a brake.
    ///
    /// # Errors
    /// A program failed.
    pub fn effects(&self, summary: &mut Summary) -> io::Result<()> {
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
