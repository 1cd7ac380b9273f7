//! What happens during a run, at the moments that the scenario says.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::tests::seed::Rng;
use ::tests::wait::Pace;
use ::tests::{Child, Scratch, user};
use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use super::process::Role;
use super::stage::Stage;
use crate::scenario::Event;

/// A backup of what a scenario writes takes seconds.
const BACKUP_DEADLINE: Duration = Duration::from_secs(240);
/// Whether the backup has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LINE_BYTES: usize = 100;

/// Something that has happened. Times are since the begin of the run.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// What happened, and when the archive had to fall behind.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) marks: Vec<Mark>,
    /// A COPY counts like an outage: the archive falls behind.
    pub(crate) strains: Vec<(Duration, Duration)>,
    /// How long each backup took.
    pub(crate) backups: Vec<Duration>,
}

/// One after another; what goes on by itself is waited for at the end.
pub(crate) struct Events<'a> {
    stage: &'a mut Stage,
    begin: Instant,
    happened: Happened,
    backup: Option<Backup>,
    copy: Option<(Duration, JoinHandle<Result<Duration>>)>,
}

/// A backup that is under way.
struct Backup {
    begun: Duration,
    /// When it ended, and the program.
    end: JoinHandle<Result<(Duration, Child)>>,
}

impl<'a> Events<'a> {
    pub(crate) fn new(stage: &'a mut Stage, begin: Instant) -> Self {
        Self {
            stage,
            begin,
            happened: Happened::default(),
            backup: None,
            copy: None,
        }
    }

    pub(crate) async fn run(mut self, events: &[Event]) -> Result<Happened> {
        for event in events {
            tokio::time::sleep_until((self.begin + event.at()).into()).await;
            self.happen(*event).await.with_context(|| format!("{event:?}"))?;
        }
        if let Some((from, copy)) = self.copy.take() {
            let at = copy.await.context("the COPY panicked")??;
            self.happened.strains.push((from, at));
            self.mark_at(at, "COPY done");
        }
        self.end_backup().await?;
        self.happened.marks.sort_by_key(|mark| mark.at);
        Ok(self.happened)
    }

    async fn happen(&mut self, event: Event) -> Result<()> {
        let from = self.begin.elapsed();
        match event {
            Event::StoreAway { seconds, .. } => {
                self.mark("store away");
                self.store()?.die().await?;
                let back = event.at() + Duration::from_secs_f64(seconds);
                tokio::time::sleep_until((self.begin + back).into()).await;
                self.store()?.revive().await?;
                self.mark("store back");
            }
            Event::RestartAgent { .. } => {
                self.mark("agent stopped");
                self.stage.stop_agent().await?;
                self.stage.start_agent().await?;
                self.mark("agent streams");
            }
            Event::Failover { .. } => {
                self.mark("primary killed");
                self.failover().await?;
                self.mark("standby took over");
            }
            Event::Backup { .. } => {
                self.end_backup().await?;
                self.mark("backup begins");
                let backup = self.stage.seawall.agent.start(&["backup", "--json"])?;
                self.stage.watched.add(Role::Backup, backup.id());
                let end = tokio::spawn(end_of(backup, self.begin));
                self.backup = Some(Backup { begun: from, end });
            }
            Event::BulkCopy { megabytes, .. } => {
                self.mark(&format!("COPY of {megabytes} MB"));
                let path = bulk_path(&self.stage.scratch, megabytes);
                let (server, begin) = (self.stage.clients(), self.begin);
                let copy = tokio::spawn(async move {
                    let client = ::tests::cluster::connect(&server).await?;
                    let sql = format!("copy bulk from '{}'", path.display());
                    client.batch_execute(&sql).await?;
                    Ok(begin.elapsed())
                });
                self.copy = Some((from, copy));
            }
        }
        if event.is_outage() {
            self.happened.strains.push((from, self.begin.elapsed()));
        }
        Ok(())
    }

    async fn failover(&mut self) -> Result<()> {
        let standby = self.stage.standby.take().context("there is no standby")?;
        self.stage.primary.kill9()?;
        standby.promote().await?;
        self.stage.address.move_to(&standby)?;
        self.stage.primary = standby;
        Ok(())
    }

    async fn end_backup(&mut self) -> Result<()> {
        let Some(Backup { begun, end }) = self.backup.take() else {
            return Ok(());
        };
        let (ended, program) = end.await.context("the wait for the backup panicked")??;
        self.stage.watched.remove(program.id());
        self.stage.note_warnings(&program);
        self.happened.backups.push(ended.saturating_sub(begun));
        self.mark_at(ended, "backup done");
        Ok(())
    }

    fn store(&mut self) -> Result<&mut ::tests::FaultS3> {
        self.stage.store.as_mut().context("there is no store that can be away")
    }

    fn mark(&mut self, text: &str) {
        self.mark_at(self.begin.elapsed(), text);
    }

    fn mark_at(&mut self, at: Duration, text: &str) {
        self.happened.marks.push(Mark {
            at,
            text: text.to_owned(),
        });
    }
}

async fn end_of(mut backup: Child, begin: Instant) -> Result<(Duration, Child)> {
    let mut pace = Pace::every(LOOK_EVERY);
    let begun = begin.elapsed();
    loop {
        pace.tick().await;
        let now = begin.elapsed();
        if let Some(status) = backup.ended() {
            ensure!(status.success(), "the backup ended with {status}\n{}", backup.log());
            return Ok((now, backup));
        }
        ensure!(
            now < begun + BACKUP_DEADLINE,
            "the backup takes longer than {BACKUP_DEADLINE:?}"
        );
    }
}

fn bulk_path(scratch: &Scratch, megabytes: u32) -> PathBuf {
    scratch.join(format!("bulk/{megabytes}.txt"))
}

/// A file for COPY, of lines that compress about two to one.
pub(super) fn prepare_bulk(scratch: &Scratch, megabytes: u32) -> Result<PathBuf> {
    scratch.dir("bulk")?;
    let path = bulk_path(scratch, megabytes);
    let mut file = BufWriter::new(File::create(&path)?);
    let mut rng = Rng::named("bulk");
    for _ in 0..u64::from(megabytes) * 1_000_000 / LINE_BYTES as u64 {
        let mut line = String::with_capacity(LINE_BYTES + 16);
        while line.len() < LINE_BYTES - 1 {
            line.push_str(&format!("{:016x}", rng.next_u64()));
        }
        line.truncate(LINE_BYTES - 1);
        line.push('\n');
        file.write_all(line.as_bytes())?;
    }
    file.flush()?;
    user::give(&path)?;
    Ok(path)
}
