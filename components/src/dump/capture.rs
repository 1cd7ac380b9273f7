//! One database, or what all of them share, from the server into the backup.
//!
//! A transaction of ours is what the dump is of: it exports its snapshot, `pg_dump` takes it over, and the rows are counted in it while the
//! dump runs. Nothing is written on this side. The dump's head goes to `pg_restore --list` on its way: that names the tables to count, and
//! shows that the dump can be read.

use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use store::chunk::Grain;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::oneshot;

use super::child::Running;
use super::counts::{self, Counts};
use super::listing::{Entry, Listing, MAGIC, no_dump};
use super::name;
use super::programs::Programs;
use super::server::Server;
use super::{Dump, Selection};
use crate::{ComponentError, Lane, Lanes};

/// Bytes that are handed over at once.
const PART_BYTES: usize = 256 << 10;

/// What all databases are captured with.
#[derive(Debug)]
pub(super) struct Capture<'d> {
    pub dump: &'d Dump,
    pub server: &'d Server,
    pub programs: &'d Programs,
    pub lanes: &'d Lanes,
    /// First number of the server's version.
    pub major: u32,
}

impl Capture<'_> {
    /// Roles, tablespaces and their settings.
    ///
    /// # Errors
    /// They cannot be dumped.
    pub async fn globals(&self, with_passwords: bool) -> Result<(), ComponentError> {
        let mut command = self.server.program(&self.programs.path("pg_dumpall"));
        command.args(["--globals-only", "--no-password"]);
        if let Some(database) = &self.dump.database {
            command.arg(format!("--database={database}"));
        }
        if !with_passwords {
            command.arg("--no-role-passwords");
        }
        command.stdout(Stdio::piped());
        let mut running = Running::start(command, "dumping roles and tablespaces")?;
        let output = running.child.stdout.take();
        let mut lane = self.lanes.open(name::GLOBALS).await?;
        if let Some(mut output) = output {
            while let Some(bytes) = part(&mut output).await? {
                lane.send(bytes).await?;
            }
        }
        running.end().await?;
        lane.finish();
        Ok(())
    }

    /// A database: its dump, and its counts.
    ///
    /// # Errors
    /// It was not dumped whole.
    pub async fn database(&self, database: &str) -> Result<Counts, ComponentError> {
        let mut session = Session::begin(self, database).await?;
        let snapshot: String = session.0.ask("SELECT to_jsonb(pg_export_snapshot())").await?;
        let (named, names) = oneshot::channel();
        let dumped = self.dump_of(database, &snapshot, named);
        let counted = async {
            match names.await {
                Ok(oids) => counts::take(&mut session.0, &oids, self.dump.counts_rows).await,
                // The dump has failed, and says why.
                Err(_) => std::future::pending().await,
            }
        };
        // Whichever fails first ends the other.
        let (bytes, tables) = tokio::try_join!(dumped, counted)?;
        session.0.end().await?;
        let counts = Counts {
            database: database.to_owned(),
            tables,
        };
        let text = serde_json::to_vec_pretty(&counts).map_err(|_| ComponentError::Stopped)?;
        let mut lane = self.lanes.open(&name::counts_of(database)).await?;
        lane.send(text.into()).await?;
        lane.finish();
        tracing::info!(database, bytes, tables = counts.tables.len(), "dumped a database");
        Ok(counts)
    }

    async fn dump_of(
        &self,
        database: &str,
        snapshot: &str,
        named: oneshot::Sender<Vec<u32>>,
    ) -> Result<u64, ComponentError> {
        let mut command = self.server.command(&self.programs.path("pg_dump"), Some(database));
        command
            .args(["--format=custom", "--compress=0", "--no-password"])
            .arg(format!("--snapshot={snapshot}"))
            .args(arguments(&self.dump.selection))
            .stdout(Stdio::piped());
        let what = format!("dumping database \"{}\"", database.escape_debug());
        let mut running = Running::start(command, what.as_str())?;
        let mut output = running.child.stdout.take().ok_or(ComponentError::Stopped)?;
        let mut lane = self.lanes.open_cut(&name::dump_of(database), Grain::Fine).await?;
        let passed = self.pass(&mut output, &mut lane, named).await;
        drop(output);
        match passed {
            Ok(is_dump) => {
                let said = running.end().await?;
                if !said.is_empty() {
                    tracing::info!(database, said, "pg_dump said");
                }
                match is_dump {
                    true => Ok(lane.finish()),
                    false => Err(no_dump(&what)),
                }
            }
            // The listing fails as well where the dump ends early: the dump says why.
            Err(error @ ComponentError::System { .. }) => Err(running.end().await.err().unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    /// From the program into the backup, past the listing; returns whether it is a dump.
    async fn pass(
        &self,
        output: &mut (impl AsyncRead + Unpin),
        lane: &mut Lane,
        named: oneshot::Sender<Vec<u32>>,
    ) -> Result<bool, ComponentError> {
        let has_rows = |line: &str| Entry::parse(line).and_then(|entry| entry.rows_of()).is_some();
        let mut listing = Some((Listing::start(self.programs, self.server, has_rows)?, named));
        let mut is_dump = None;
        while let Some(bytes) = part(output).await? {
            if !*is_dump.get_or_insert_with(|| bytes.starts_with(MAGIC)) {
                return Ok(false);
            }
            if let Some((listing_now, _)) = &mut listing
                && !listing_now.feed(&bytes).await
            {
                finish(listing.take()).await?;
            }
            lane.send(bytes).await?;
        }
        if is_dump == Some(true) {
            finish(listing.take()).await?;
        }
        Ok(is_dump == Some(true))
    }
}

/// Names the tables.
async fn finish(listing: Option<(Listing, oneshot::Sender<Vec<u32>>)>) -> Result<(), ComponentError> {
    if let Some((listing, named)) = listing {
        let lines = listing.finish().await?;
        let oids = lines.iter().filter_map(|line| Entry::parse(line)?.rows_of());
        // Nobody waits for it where counting failed, which is told.
        let _ = named.send(oids.collect());
    }
    Ok(())
}

/// The next bytes; none at the end.
async fn part(output: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, ComponentError> {
    let mut bytes = BytesMut::with_capacity(PART_BYTES);
    while bytes.len() < PART_BYTES {
        let read = output.read_buf(&mut bytes).await;
        if read.map_err(ComponentError::io("read from", std::path::Path::new("pg_dump")))? == 0 {
            break;
        }
    }
    Ok((!bytes.is_empty()).then(|| bytes.freeze()))
}

/// A session in a transaction that sees one moment.
struct Session(super::session::Session);

impl Session {
    async fn begin(capture: &Capture<'_>, database: &str) -> Result<Self, ComponentError> {
        let mut session = super::session::Session::open(capture.programs, capture.server, Some(database)).await?;
        if capture.major >= 17 {
            session.tell("SET transaction_timeout = 0;").await;
        }
        session
            .tell("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;")
            .await;
        Ok(Session(session))
    }
}

/// Patterns go to `pg_dump` as they are: it knows what they mean.
fn arguments(selection: &Selection) -> Vec<String> {
    [
        ("schema", &selection.schemas),
        ("exclude-schema", &selection.exclude_schemas),
        ("table", &selection.tables),
        ("exclude-table", &selection.exclude_tables),
    ]
    .into_iter()
    .flat_map(|(option, patterns)| patterns.iter().map(move |pattern| format!("--{option}={pattern}")))
    .collect()
}
