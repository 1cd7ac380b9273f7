//! WAL, and recovery through it: one backlog that a real server wrote under load, archived, streamed and fetched by every program in
//! turn, each time from the same beginning; then everything from nothing to the first query at a moment inside it.

use std::io;
use std::path::{Path, PathBuf};

use crate::peers::archiver::{Place, segments};
use crate::peers::backup::Taken;
use crate::peers::base_backup::{BaseBackup, Form};
use crate::peers::board::Board;
use crate::peers::ours::Ours;
use crate::peers::process::{Ran, check_interrupted};
use crate::peers::program::{Program, Runs};
use crate::peers::recovery::{self, Moment};
use crate::peers::slots::{self, Saved};
use crate::peers::stream::{receive, stream};
use crate::server::Server;

/// Transactions of each client between two looks at how much WAL there is.
const TRANSACTIONS: &str = "500";
/// Nothing that a backup needs may go before all programs have it.
const KEEP: &str = "alter system set wal_keep_size = '2GB'";
const COPY: &str = "cp, durable";

/// The backlog, and the programs that wait at its beginning.
pub struct Backlog<'a> {
    server: &'a Server,
    home: PathBuf,
    ours: Ours<'a>,
    others: Vec<Box<dyn Program + 'a>>,
    base: BaseBackup<'a>,
    saved: Vec<Saved>,
    place: Place<'a>,
    segments: Vec<String>,
    /// Between the backups and the backlog: nobody's figures, and everybody's recovery.
    settled: (Place<'a>, Vec<String>),
    /// What must be durable in the end.
    end: String,
    /// What `pg_receivewal` has to pass: one less, or it would wait for more.
    inside: String,
    moment: Moment,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Figures {
    push: Runs<Taken>,
    stream: Runs<Taken>,
    get: Runs<Ran>,
    recover: Runs<Taken>,
}

impl<'a> Backlog<'a> {
    /// Takes a backup with every program, then writes the backlog.
    ///
    /// # Errors
    /// A program failed.
    pub fn make(
        server: &'a Server,
        home: &Path,
        mut ours: Ours<'a>,
        others: Vec<Box<dyn Program + 'a>>,
        count: u64,
    ) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        server.query(KEEP)?;
        server.query("select pg_reload_conf()")?;
        recovery::prepare(server)?;
        let current = || server.query("select pg_walfile_name(pg_current_wal_insert_lsn())");
        let first = current()?;
        ours.backup_reported()?;
        let base = BaseBackup::new(server, Form::Compressed, &home.join("base"));
        for program in others.iter().map(Box::as_ref).chain([&base as &dyn Program]) {
            if let Err(lacks) = program.backup(false)? {
                return Err(io::Error::other(format!("{}: {}", program.name(), lacks.0)));
            }
        }
        server.query("select pg_switch_wal()")?;
        ours.pause()?;
        let begin = current()?;
        let settled = segments(server, &first, &begin)?;
        let before = Place::copy(server, &home.join("settled"), &settled)?;
        let mut saved = vec![Saved::of(ours.home())?];
        for program in &others {
            before
                .push(program.as_ref(), &settled)?
                .map_err(|lacks| io::Error::other(lacks.0))?;
            saved.push(Saved::of(program.home())?);
        }
        slots::save(server)?;

        let moment = write(server, count)?;
        server.query("select pg_switch_wal()")?;
        let segments = segments(server, &begin, &current()?)?;
        let end = server.query("select pg_current_wal_flush_lsn()")?;
        Ok(Backlog {
            server,
            home: home.to_owned(),
            ours,
            others,
            base,
            saved,
            place: Place::copy(server, &home.join("archived"), &segments)?,
            segments,
            settled: (before, settled),
            inside: server.query(&format!("select '{end}'::pg_lsn - 1"))?,
            end,
            moment,
        })
    }

    /// All programs, as often as asked for.
    ///
    /// # Errors
    /// A program failed, or recovered to something else.
    pub fn measure(&mut self, rounds: usize, say: impl Fn(&str, usize)) -> io::Result<Figures> {
        let mut figures = Figures::default();
        for round in 0..rounds {
            for saved in &self.saved {
                saved.reset()?;
            }
            slots::reset(self.server)?;
            say("archiving", round);
            let copied = self.push(&mut figures.push)?;
            say("streaming", round);
            self.stream(&mut figures.stream)?;
            say("fetching", round);
            self.get(&mut figures.get, &copied)?;
            std::fs::remove_dir_all(&copied)?;
            say("recovery", round);
            for program in self.programs() {
                let to = self.home.join("recovered");
                let taken = recovery::recover(self.server, program, &to, &self.moment)?;
                figures.recover.add(program.name(), taken);
                check_interrupted()?;
            }
        }
        Ok(figures)
    }

    fn programs(&self) -> impl Iterator<Item = &dyn Program> {
        let ours: &dyn Program = &self.ours;
        let others = self.others.iter().map(|program| program.as_ref() as &dyn Program);
        let base: &dyn Program = &self.base;
        [ours].into_iter().chain(others).chain([base])
    }

    /// Gives where the segments were copied to: what nobody beats by much.
    fn push(&self, runs: &mut Runs<Taken>) -> io::Result<PathBuf> {
        let copied = self.home.join("copied");
        std::fs::create_dir(&copied)?;
        self.server.give(&copied)?;
        let command = format!("cp %p {to}/%f && sync {to}/%f", to = copied.display());
        let taken = self.place.push_by(&command, None, &self.segments, &copied, |_| true)?;
        for program in self.programs().filter(|program| program.name() != self.base.name()) {
            let name = match program.name() {
                Ours::NAME => "Seawall archive-push",
                name => name,
            };
            runs.add(name, self.place.push(program, &self.segments)?);
            check_interrupted()?;
        }
        runs.add(COPY, Ok(taken));
        Ok(copied)
    }

    /// Ours ends with everything archived, as an agent has it.
    fn stream(&mut self, runs: &mut Runs<Taken>) -> io::Result<()> {
        // What was pushed is not what an agent streams.
        if let Some(saved) = self.saved.first() {
            saved.reset()?;
        }
        let taken = stream(self.server, &mut self.ours, &self.end)?;
        runs.add("Seawall wal-agent run", Ok(taken));
        for (name, to, compress) in [
            ("pg_receivewal lz4", self.home.join("lz4"), "lz4"),
            ("pg_receivewal plain", self.base.received(), "none"),
        ] {
            if to.exists() {
                std::fs::remove_dir_all(&to)?;
            }
            slots::reset(self.server)?;
            let taken = receive(self.server, &to, &self.inside, &[&format!("--compress={compress}")])?;
            runs.add(name, Ok(taken));
        }
        let (before, names) = &self.settled;
        before.copy_to(&self.base.received(), names)
    }

    fn get(&self, runs: &mut Runs<Ran>, copied: &Path) -> io::Result<()> {
        // Recovery of which: any, as long as it is one of ours that has not ended.
        let data = self.home.join("fetching");
        if !data.exists() {
            self.ours.restore_latest(&data)?;
        }
        for program in self.programs().filter(|program| program.name() != self.base.name()) {
            program.forget()?;
            let got = match program.get(&data) {
                Ok(command) => Ok(self.place.get(&command, &data, &self.segments)?),
                Err(lacks) => Err(lacks),
            };
            runs.add(program.name(), got);
            check_interrupted()?;
        }
        let command = format!("cp {}/%f %p", copied.display());
        runs.add(COPY, Ok(self.place.get(&command, &data, &self.segments)?));
        Ok(())
    }

    /// Adds the sections.
    pub fn report(&self, board: &mut Board, figures: &Figures) {
        let count = self.segments.len();
        let group = format!("WAL, {count} segments of 16 MiB");
        board.add(
            &group,
            "one by one, archive_command",
            "One segment after another, a command each, as the server's archiver does it; Barman's archive-wal, which cron would run, once \
             behind them. Seawall reads every record before it says that a segment is safe.",
            &figures.push,
            true,
        );
        board.add(
            &group,
            "streamed",
            "Over the replication protocol, until everything is durable. Seawall compresses, encrypts and signs, and reads back what it wrote; \
             pg_receivewal writes files. The agent's time has its start in it.",
            &figures.stream,
            true,
        );
        board.add(
            &group,
            "fetched, restore_command",
            "One segment after another, a command each, as fast as they come: no replay between them. What came was compared byte for byte. \
             Seawall's from what the agent streamed, each verified and durable.",
            &figures.get.taken(),
            false,
        );
        board.add(
            "Recovery to a moment",
            "from an empty directory to the first query",
            &format!(
                "The newest backup, {} and all WAL up to it, then the first query of a server that takes writes. All gave the same answer: {}. \
                 CPU and memory are of the restore alone, without the server that recovers and the restore_command that it runs.",
                self.moment.time, self.moment.answer
            ),
            &figures.recover,
            false,
        );
    }

    /// Ends and removes everything.
    ///
    /// # Errors
    /// Something does not end.
    pub fn remove(self) -> io::Result<()> {
        self.ours.remove()?;
        slots::forget(self.server)?;
        for saved in &self.saved {
            saved.forget()?;
        }
        for program in &self.others {
            std::fs::remove_dir_all(program.home())?;
        }
        std::fs::remove_dir_all(&self.home)
    }
}

/// Load until `count` segments are full, and a moment when five of six are.
fn write(server: &Server, count: u64) -> io::Result<Moment> {
    let begin = server.query("select pg_current_wal_insert_lsn()")?;
    let written = || -> io::Result<u64> {
        let sql = format!("select (pg_current_wal_insert_lsn() - '{begin}') / (16 * 1024 * 1024)");
        let text = server.query(&sql)?;
        let whole = text.split('.').next().unwrap_or_default();
        whole.parse().map_err(io::Error::other)
    };
    // Commits that wait for the disk would only make this longer.
    server.query("alter role postgres set synchronous_commit = off")?;
    let mut moment = None;
    while written()? < count || moment.is_none() {
        server.run("pgbench", ["-n", "-c", "4", "-j", "2", "-t", TRANSACTIONS])?;
        recovery::tick(server)?;
        check_interrupted()?;
        if moment.is_none() && written()? * 6 >= count * 5 {
            moment = Some(Moment::now(server)?);
        }
    }
    server.query("alter role postgres reset synchronous_commit")?;
    let moment = moment.ok_or_else(|| io::Error::other("no moment"))?;
    moment.check_is_past(server)?;
    Ok(moment)
}
