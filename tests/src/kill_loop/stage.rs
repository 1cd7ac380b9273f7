//! What the cycles of one era play on: a cluster, its repository, the recorder, and what was read of the archive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use store::crash;
use store::object::local::LocalStore;
use store::object::{ObjectName, ObjectStore, PutNew};
use tokio_postgres::Client;

use super::archive::{Archive, ServerWal};
use super::judge::{CaughtUp, compare};
use super::plan::{Mode, Trigger};
use super::recorder::{Recorder, TABLE, rows};
use super::summary::Summary;
use crate::child::Child;
use crate::cluster::{Cluster, connect, lsn_text, parse_lsn, query_one};
use crate::scratch::Scratch;
use crate::seawall::{Seawall, flushed_lsn};
use crate::wait::{DEADLINE, wait_for};

/// Age at which the agent ships, in asynchronous mode. In synchronous mode somebody waits, so it ships at once.
pub const SHIP_INTERVAL: Duration = Duration::from_millis(200);
/// About as much as a life ships at once.
const PROBE_BYTES: usize = 64 << 10;

/// Strong enough for a restored cluster too, whose own settings are reset.
const SYNCHRONOUS: [(&str, &str); 2] = [
    ("synchronous_standby_names", "seawall"),
    // Only the recorder's connections wait for the archive, and only in synchronous mode.
    ("synchronous_commit", "local"),
];

#[derive(Debug)]
pub struct Stage {
    pub scratch: Scratch,
    pub cluster: Cluster,
    pub timeline: u32,
    pub recorder: Recorder,
    pub archive: Archive,
    synchronous: Seawall,
    asynchronous: Seawall,
    probe: Arc<LocalStore>,
    probes: u64,
    restores: u64,
}

/// Whether the agent has caught up with the server.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    goal: Option<(Instant, u64)>,
    /// The highest LSN that the server was told to be safe.
    pub confirmed: u64,
}

impl Stage {
    /// A new cluster with a new repository and a first backup; no agent runs.
    pub async fn create(major: u32) -> Result<Self> {
        let scratch = Scratch::create()?;
        let mut builder = Cluster::builder(major).segment_size_mib(1);
        for (name, value) in [
            ("shared_buffers", "8MB"),
            ("wal_buffers", "256kB"),
            ("max_wal_size", "32MB"),
            ("min_wal_size", "4MB"),
            // Whatever is archived must still be there when it is compared.
            ("wal_keep_size", "256MB"),
        ] {
            builder = builder.setting(name, value);
        }
        for (name, value) in SYNCHRONOUS {
            builder = builder.setting(name, value);
        }
        let cluster = builder.create(&scratch, "m").await?;
        let (synchronous, asynchronous) = install(&scratch, &cluster, None)?;
        synchronous.init().await?;
        cluster.exec(TABLE).await?;
        let agent = synchronous.run().await?;
        synchronous.backup().await?;
        agent.stop(DEADLINE).await?;
        let archive = Archive::open(&synchronous, major).await?;
        let recorder = Recorder::start(&cluster, 1);
        let probe = Arc::new(LocalStore::create(scratch.join("probe"))?);
        Ok(Self {
            scratch,
            cluster,
            timeline: 1,
            recorder,
            archive,
            synchronous,
            asynchronous,
            probe,
            probes: 0,
            restores: 0,
        })
    }

    pub fn seawall(&self, mode: Mode) -> &Seawall {
        match mode {
            Mode::Synchronous => &self.synchronous,
            Mode::Asynchronous => &self.asynchronous,
        }
    }

    /// Starts an agent that dies at the point of `trigger`, if it is one.
    pub fn start_agent(&self, mode: Mode, trigger: Option<Trigger>) -> Result<Child> {
        let agent = self.seawall(mode).agent.clone();
        let agent = match trigger {
            Some(Trigger::Point(point, passes)) => agent.env(crash::VARIABLE, &format!("{}:{passes}", point.name())),
            _ => agent,
        };
        agent.start_daemon()
    }

    pub async fn watch(&self) -> Result<Watch> {
        Ok(Watch {
            client: connect(&self.cluster.client_config("postgres")).await?,
            goal: None,
            confirmed: 0,
        })
    }

    /// How long one PUT takes here and now, from outside of the agent.
    pub async fn measure_put(&mut self) -> Result<Duration> {
        self.probes += 1;
        let name = ObjectName::new(format!("probe/{}", self.probes))?;
        let start = Instant::now();
        let put = self.probe.put_new(&name, Bytes::from(vec![7; PROBE_BYTES])).await?;
        ensure!(put == PutNew::Created, "{name} was there");
        Ok(start.elapsed())
    }

    /// The server's WAL files; its end when it is up.
    pub async fn server_wal(&self) -> Result<ServerWal<'_>> {
        let flushed = match self.cluster.is_running() {
            true => Some(flushed_lsn(&self.cluster).await?),
            false => None,
        };
        Ok(ServerWal {
            data_directory: self.cluster.data_directory(),
            flushed,
        })
    }

    /// Reads what is new in the repository, and compares it with the server.
    pub async fn read_archive(&mut self) -> Result<u64> {
        let look = self.archive.look().await?;
        let flushed = self.server_wal().await?.flushed;
        let server = ServerWal {
            data_directory: self.cluster.data_directory(),
            flushed,
        };
        Ok(self.archive.read(&look, server).await?.divergent)
    }

    /// Restores the newest that there is and compares it, row by row, with the commits that the archive holds. No agent runs.
    pub async fn restore(&mut self, summary: &mut Summary) -> Result<Cluster> {
        let divergent = self.read_archive().await?;
        ensure!(divergent == 0, "{divergent} divergent bytes before a restore");
        self.restores += 1;
        let name = format!("r{}", self.restores);
        let restored = self.synchronous.restore_to(&name, &["--target", "latest"]).await?;
        let rows = rows(&restored.connect().await?).await?;
        let difference = compare(&rows, &self.recorder.commits(), |commit| self.archive.holds(commit));
        let lost = difference.lost.len().max(difference.missing.len()) as u64;
        summary.add_restore(rows.len() as u64, lost);
        ensure!(
            difference.is_none(),
            "the restored rows are not the archived ones, which end at {}: {difference:?}, {}",
            lsn_text(self.archive.end(self.timeline)),
            self.first_missing(&difference.missing)
        );
        Ok(restored)
    }

    fn first_missing(&self, missing: &[i64]) -> String {
        let commits = self.recorder.commits();
        let of = |n: &i64| commits.iter().find(|commit| commit.n == *n).copied();
        let first = missing.first().and_then(of);
        let lsn = first.and_then(|commit| self.archive.commit_end(&commit));
        format!("the first missing commit is {first:?} at {lsn:?}")
    }

    /// A new base backup, so that the next restore has less to replay.
    pub async fn backup(&mut self) -> Result<()> {
        self.recorder.set_mode(Mode::Asynchronous);
        let agent = self.start_agent(Mode::Asynchronous, None)?;
        self.catch_up().await?;
        self.asynchronous.backup().await?;
        agent.stop(DEADLINE).await
    }

    /// Waits until an agent has archived all that the server has now.
    pub async fn catch_up(&self) -> Result<CaughtUp> {
        let mut watch = self.watch().await?;
        wait_for("the agent to catch up", DEADLINE, async || {
            watch.look().await.ok().flatten()
        })
        .await
    }

    /// The restored cluster takes the place of the one that was lost.
    pub async fn move_to(&mut self, mut restored: Cluster) -> Result<()> {
        // Restarted: only from a start on is it certain that nobody is let through without waiting.
        for (name, value) in SYNCHRONOUS {
            restored.override_setting(name, value);
        }
        restored.restart().await?;
        let file = restored
            .query_one("select pg_walfile_name(pg_current_wal_lsn())")
            .await?;
        let timeline = file.get(..8).context("a short name of a WAL file")?;
        self.timeline = u32::from_str_radix(timeline, 16)?;
        (self.synchronous, self.asynchronous) = install(&self.scratch, &restored, Some(&self.synchronous))?;
        self.synchronous.init().await?;
        self.recorder.retarget(&restored, self.timeline);
        self.cluster = restored;
        Ok(())
    }
}

/// Two installations on one repository that differ in how soon they ship.
fn install(scratch: &Scratch, cluster: &Cluster, before: Option<&Seawall>) -> Result<(Seawall, Seawall)> {
    let config = match before {
        None => Seawall::local_config(scratch, cluster)?,
        Some(before) => before
            .config
            .clone()
            .set("cluster.main.postgres.host", cluster.socket_dir().display().to_string())?
            .set("cluster.main.postgres.port", i64::from(cluster.port()))?,
    };
    let interval = |interval: Duration| {
        let text = format!("{}ms", interval.as_millis());
        config.clone().set("cluster.main.wal.ship_interval", text)
    };
    Ok((
        Seawall::configure_as(interval(Duration::ZERO)?, "synchronous")?,
        Seawall::configure_as(interval(SHIP_INTERVAL)?, "asynchronous")?,
    ))
}

impl Watch {
    /// What the server was told; the goal is set when the agent reports for the first time.
    pub async fn look(&mut self) -> Result<Option<CaughtUp>> {
        let asked_at = Instant::now();
        let sql = "select coalesce(max(flush_lsn)::text, '') || ' ' || pg_current_wal_flush_lsn()
                   from pg_stat_replication where application_name = 'seawall'";
        let answer = query_one(&self.client, sql).await?;
        let (confirmed, flushed) = answer.split_once(' ').context("two LSNs")?;
        if confirmed.is_empty() {
            return Ok(None);
        }
        self.confirmed = self.confirmed.max(parse_lsn(confirmed)?);
        let (asked_at, goal) = match self.goal {
            Some(goal) => goal,
            None => *self.goal.insert((asked_at, parse_lsn(flushed)?)),
        };
        let caught_up = CaughtUp {
            asked_at,
            at: Instant::now(),
        };
        Ok((self.confirmed >= goal).then_some(caught_up))
    }

    /// As [`Watch::look`] for the slot, which outlives the agent.
    pub async fn look_at_slot(&mut self) -> Result<()> {
        let sql = "select restart_lsn from pg_replication_slots where slot_name = 'seawall'";
        let restart = query_one(&self.client, sql).await?;
        self.confirmed = self.confirmed.max(parse_lsn(&restart)?);
        Ok(())
    }
}
