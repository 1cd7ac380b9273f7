//! What users do to files while a backup reads them: tables, tablespaces and databases come, change and go.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tests::cluster::connect;
use tests::seed::Rng;
use tests::wait::{DEADLINE, Pace, within};
use tests::{Cluster, Scratch};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config};

/// Below `<scratch>/main/ts`, made by the cluster's builder.
pub(crate) const TABLESPACE: &str = "fast";

const TABLES: u64 = 8;

/// A debug build must be able to archive what these write: most of all a database, which is 7 MB.
const TABLES_EVERY: Duration = Duration::from_millis(25);
const TABLESPACES_EVERY: Duration = Duration::from_millis(200);
const DATABASES_EVERY: Duration = Duration::from_millis(500);

/// How often each kind of thing was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) tables: u64,
    pub(crate) tablespaces: u64,
    pub(crate) databases: u64,
}

impl Done {
    pub(crate) fn since(self, earlier: Done) -> Done {
        Done {
            tables: self.tables - earlier.tables,
            tablespaces: self.tablespaces - earlier.tablespaces,
            databases: self.databases - earlier.databases,
        }
    }

    pub(crate) fn and(self, other: Done) -> Done {
        Done {
            tables: self.tables + other.tables,
            tablespaces: self.tablespaces + other.tablespaces,
            databases: self.databases + other.databases,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    tables: AtomicU64,
    tablespaces: AtomicU64,
    databases: AtomicU64,
}

#[derive(Debug, Clone)]
struct Worker {
    scratch: Scratch,
    postgres: Config,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

/// The running workers, one of each kind; an error of one of them shows in [`Churn::stop`].
pub(crate) struct Churn {
    workers: JoinSet<Result<()>>,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Churn {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let worker = Worker {
            scratch: cluster.scratch().clone(),
            postgres: cluster.client_config("postgres"),
            stop: Arc::default(),
            counts: Arc::default(),
        };
        let (stop, counts) = (Arc::clone(&worker.stop), Arc::clone(&worker.counts));
        let mut workers = JoinSet::new();
        workers.spawn(worker.clone().tables());
        workers.spawn(worker.clone().tablespaces());
        workers.spawn(worker.databases());
        Ok(Self { workers, stop, counts })
    }

    pub(crate) fn done(&self) -> Done {
        Done {
            tables: self.counts.tables.load(Ordering::Relaxed),
            tablespaces: self.counts.tablespaces.load(Ordering::Relaxed),
            databases: self.counts.databases.load(Ordering::Relaxed),
        }
    }

    pub(crate) async fn stop(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = within("the churn to stop", DEADLINE, self.workers.join_next()).await? {
            ended??;
        }
        Ok(self.done())
    }
}

/// Directories for tablespaces outside of the data directory; replay wants to find them.
pub(crate) fn empty_directories(scratch: &Scratch) -> Result<()> {
    let mut directories = vec![scratch.join("main/ts").join(TABLESPACE)];
    for entry in fs::read_dir(scratch.join("outside"))? {
        directories.push(entry?.path());
    }
    for directory in directories {
        for entry in fs::read_dir(directory)? {
            fs::remove_dir_all(entry?.path())?;
        }
    }
    Ok(())
}

impl Worker {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    async fn tables(self) -> Result<()> {
        let client = connect(&self.postgres).await?;
        let mut rng = Rng::named("tables");
        for table in 0..TABLES {
            create_table(&client, &format!("churn_{table}"), &mut rng).await?;
        }
        let mut pace = Pace::every(TABLES_EVERY);
        while self.goes_on() {
            pace.tick().await;
            let table = format!("churn_{}", rng.below(TABLES));
            let rows = rng.between(1, 2000);
            match rng.below(8) {
                0 | 1 => {
                    run(&client, &format!("drop table {table}")).await?;
                    create_table(&client, &table, &mut rng).await?;
                }
                2 => run(&client, &format!("truncate {table}")).await?,
                3 => run(&client, &format!("vacuum full {table}")).await?,
                4 => run(&client, &format!("create index on {table} (words)")).await?,
                5 => {
                    // The end of the file is cut off.
                    run(&client, &format!("delete from {table} where i > {rows}")).await?;
                    run(&client, &format!("vacuum {table}")).await?;
                }
                6 => run(&client, &format!("reindex table {table}")).await?,
                _ => run(&client, &fill(&table, rows)).await?,
            }
            self.counts.tables.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// In turn outside of the data directory and in it, each at a place of its own.
    async fn tablespaces(self) -> Result<()> {
        let client = connect(&self.postgres).await?;
        let mut rng = Rng::named("tablespaces");
        self.scratch.dir("outside")?;
        let mut pace = Pace::every(TABLESPACES_EVERY);
        for n in 0.. {
            pace.tick().await;
            if !self.goes_on() {
                break;
            }
            let location = match n % 2 {
                0 => self.scratch.dir(format!("outside/{n}"))?,
                _ => PathBuf::new(),
            };
            let create = format!("create tablespace churn_{n} location '{}'", location.display());
            run(&client, &create).await?;
            let (table, rows) = (format!("placed_{n}"), rng.between(1, 2000));
            run(
                &client,
                &format!("create table {table} (i int, words text) tablespace churn_{n}"),
            )
            .await?;
            run(&client, &fill(&table, rows)).await?;
            run(
                &client,
                &format!("create index {table}_i on {table} (i) tablespace churn_{n}"),
            )
            .await?;
            run(&client, &format!("alter table {table} set tablespace pg_default")).await?;
            run(&client, &format!("drop table {table}")).await?;
            run(&client, &format!("drop tablespace churn_{n}")).await?;
            self.counts.tablespaces.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// In turn by copies of files and by WAL; the last one stays until the next one is there.
    async fn databases(self) -> Result<()> {
        let client = connect(&self.postgres).await?;
        let mut rng = Rng::named("databases");
        let mut pace = Pace::every(DATABASES_EVERY);
        for n in 0.. {
            pace.tick().await;
            if !self.goes_on() {
                break;
            }
            let strategy = if n % 2 == 0 { "file_copy" } else { "wal_log" };
            let place = if rng.one_in(2) { TABLESPACE } else { "pg_default" };
            run(
                &client,
                &format!("create database churn_{n} strategy {strategy} tablespace {place}"),
            )
            .await?;
            let mut inside = self.postgres.clone();
            let inside = connect(inside.dbname(format!("churn_{n}"))).await?;
            create_table(&inside, "inside", &mut rng).await?;
            drop(inside);
            if n > 0 {
                run(&client, &format!("drop database churn_{} with (force)", n - 1)).await?;
            }
            self.counts.databases.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// In its own transaction: several in one string would share one.
async fn run(client: &Client, sql: &str) -> Result<()> {
    let run = client.batch_execute(sql);
    let ended = within(sql, Duration::from_secs(60), run).await?;
    ended.with_context(|| sql.to_owned())
}

async fn create_table(client: &Client, table: &str, rng: &mut Rng) -> Result<()> {
    let place = if rng.one_in(2) { TABLESPACE } else { "pg_default" };
    let sql = format!("create table {table} (i int primary key, words text) tablespace {place}");
    run(client, &sql).await?;
    run(client, &fill(table, rng.between(1, 2000))).await
}

/// More rows behind those that are there.
fn fill(table: &str, rows: u64) -> String {
    format!(
        "insert into {table} select i, md5(i::text) from
         (select coalesce(max(i), 0) as last from {table}) t, generate_series(last + 1, last + {rows}) i"
    )
}
