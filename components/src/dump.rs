//! Logical dumps of PostgreSQL: each database by `pg_dump`, what they share by `pg_dumpall --globals-only`, streamed into the backup without a
//! file on the way (`capture`).
//!
//! A dump has the custom format without compression: the next one has the same bytes where the rows are the same, and the repository keeps them
//! once (docs/decisions/0029-dumps.md). Beside it lie its tables and their rows, counted in the snapshot that was dumped (`counts`).
//!
//! It comes back as files, or into a server ([`load`]), of all, of one database, or of one table; then the rows are counted again. What a
//! dump has in it is told from its head ([`contents`]). A dump counts only if `pg_dump` ended well; otherwise nothing of it is listed.

mod capture;
mod child;
mod counts;
mod listing;
pub mod load;
mod name;
mod programs;
mod refusal;
mod server;
mod session;
mod survey;
mod trial;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use globset::GlobMatcher;
use store::pipeline::Clock;

use crate::{Captured, Component, ComponentError, Look, Sink};
use capture::Capture;
pub use counts::{Counts, Table};
pub use listing::contents;
pub use name::{COUNTS, DUMP, GLOBALS, counts_of, dump_of};
pub use programs::{Places, Programs};
pub use server::Server;
use survey::Survey;
use trial::Trial;
pub use trial::Trials;

/// What of a server is dumped. Patterns of databases are those of a shell; all others are handed to `pg_dump`, whose options of these names say
/// what they mean.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these databases; none: all that let somebody connect, but templates.
    pub databases: Vec<GlobMatcher>,
    /// Not these.
    pub exclude_databases: Vec<GlobMatcher>,
    /// Only these schemas.
    pub schemas: Vec<String>,
    /// Not these.
    pub exclude_schemas: Vec<String>,
    /// Only these tables.
    pub tables: Vec<String>,
    /// Not these.
    pub exclude_tables: Vec<String>,
}

/// Patterns of databases.
///
/// # Errors
/// One is none.
pub fn patterns(texts: &[String]) -> Result<Vec<GlobMatcher>, ComponentError> {
    let compile = |text: &String| {
        let glob = globset::GlobBuilder::new(text).literal_separator(false).build();
        glob.map(|glob| glob.compile_matcher()).map_err(|error| {
            ComponentError::refused(
                format!("\"{}\" is no pattern of databases: {error}", text.escape_debug()),
                "Write names; \"*\" stands for any text in them, \"?\" for one character.",
            )
        })
    };
    texts.iter().map(compile).collect()
}

/// Databases of a PostgreSQL server.
#[derive(Clone)]
pub struct Dump {
    /// Where they are, and who we are there.
    pub server: Server,
    /// The database that is asked for the others; none: the one that the connection string names, or `postgres`.
    pub database: Option<String>,
    /// Which of them.
    pub selection: Selection,
    /// Roles, tablespaces and their settings too.
    pub globals: bool,
    /// With the roles' passwords (as the server stores them), where the role may read them.
    pub role_passwords: bool,
    /// Rows are counted.
    pub counts_rows: bool,
    /// Databases that are dumped side by side.
    pub jobs: usize,
    /// The programs.
    pub places: Places,
    /// Where a server of our own can load what was restored; none: the dumps alone are looked at.
    pub trials: Option<Trials>,
    /// The time.
    pub now_us: Clock,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").finish_non_exhaustive()
    }
}

#[async_trait]
impl Component for Dump {
    fn kind(&self) -> &'static str {
        "postgres-dump"
    }

    async fn look(&self) -> Result<Look, ComponentError> {
        let survey = Survey::of(self).await?;
        let programs = self.places.for_major(survey.major()).await?;
        let databases = survey.select(&self.selection)?;
        Ok(Look {
            version: survey.version.clone(),
            notes: vec![
                format!(
                    "it holds {} databases, {} are dumped",
                    survey.databases.len(),
                    databases.len()
                ),
                format!(
                    "by pg_dump {} in \"{}\"",
                    programs.version,
                    programs.directory.display()
                ),
            ],
        })
    }

    async fn capture(&self, sink: &mut Sink) -> Result<Captured, ComponentError> {
        let begun_us = (self.now_us)();
        let survey = Survey::of(self).await?;
        let programs = self.places.for_major(survey.major()).await?;
        let databases = survey.select(&self.selection)?;
        let server = self.server.only(&survey.host, &survey.port);
        let with_passwords = self.role_passwords && survey.may_read_passwords;
        let all = sink.hand(async |lanes| {
            let capture = Capture {
                dump: self,
                server: &server,
                programs: &programs,
                lanes: &lanes,
                major: survey.major(),
            };
            if self.globals {
                capture.globals(with_passwords).await?;
            }
            let dumps = databases.iter().map(|database| Box::pin(capture.database(database)));
            let dumps: Vec<_> = dumps.collect();
            stream::iter(dumps)
                .buffered(self.jobs.max(1))
                .try_collect::<Vec<Counts>>()
                .await
        });
        let all = all.await?;
        let mut facts = facts(&all);
        let globals = match (self.globals, with_passwords) {
            (false, _) => "none",
            (true, true) => "with passwords",
            (true, false) => "without passwords",
        };
        facts.insert("globals".into(), globals.into());
        facts.insert("pg_dump_version".into(), programs.version);
        Ok(Captured {
            version: survey.version,
            facts,
            as_of_us: Some(begun_us),
            standing: Vec::new(),
        })
    }

    async fn compare(
        &self,
        captured: &BTreeMap<String, String>,
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError> {
        let all = read_counts(restored)?;
        let mut differs = compare_files(captured, restored).await?;
        if !differs.is_empty() {
            return Ok(differs);
        }
        let programs = self.places.for_major(major_of_dump(captured)).await?;
        for counts in &all {
            differs.extend(listed(&programs, &self.server, counts, restored).await?);
        }
        match &self.trials {
            Some(trials) if differs.is_empty() && trials.has_server(&programs) => {
                let trial = Trial::start(trials, &programs).await?;
                let found = trial.load(&programs, &all, restored).await;
                trial.end().await;
                differs.extend(found?);
            }
            _ if differs.is_empty() => {
                tracing::warn!("no server is here that could load what was restored: only the dumps were looked at");
            }
            _ => {}
        }
        Ok(differs)
    }
}

/// First number of the version of `pg_dump` that made a dump: its format can be read by programs of this one or later.
#[must_use]
pub fn major_of_dump(facts: &BTreeMap<String, String>) -> u32 {
    let version = facts.get("pg_dump_version").map_or("", String::as_str);
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    major.parse().unwrap_or(0)
}

/// What is small: totals.
fn facts(all: &[Counts]) -> BTreeMap<String, String> {
    let tables: usize = all.iter().map(|counts| counts.tables.len()).sum();
    let mut facts: BTreeMap<String, String> = [
        ("databases".to_owned(), all.len().to_string()),
        ("tables".to_owned(), tables.to_string()),
    ]
    .into();
    if let Some(rows) = all.iter().map(Counts::rows).sum::<Option<u64>>() {
        facts.insert("rows".into(), rows.to_string());
    }
    facts
}

/// Holds restored files against what was captured, without any program: are all there, are they dumps, do their counts fit.
///
/// # Errors
/// They cannot be read.
pub async fn compare_files(
    captured: &BTreeMap<String, String>,
    restored: &Path,
) -> Result<Vec<String>, ComponentError> {
    let all = read_counts(restored)?;
    let mut differs = Vec::new();
    for (name, now) in facts(&all) {
        let then = captured.get(&name).map_or("none", String::as_str);
        if then != now {
            differs.push(format!("{name}: {then} were captured, {now} are restored"));
        }
    }
    for counts in &all {
        let dump = restored.join(dump_of(&counts.database));
        let mut head = [0; listing::MAGIC.len()];
        let read = std::fs::File::open(&dump).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
        if read.is_err() || head != *listing::MAGIC {
            differs.push(format!("\"{}\" is no dump", dump.display()));
        }
    }
    Ok(differs)
}

/// The counts that lie in a directory, by the names of the databases.
fn read_counts(directory: &Path) -> Result<Vec<Counts>, ComponentError> {
    let entries = std::fs::read_dir(directory).map_err(ComponentError::io("read directory", directory))?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let mut all = Vec::new();
    for path in paths.iter().filter(|path| path.to_string_lossy().ends_with(COUNTS)) {
        let bytes = std::fs::read(path).map_err(ComponentError::io("read", path))?;
        all.push(parse_counts(&path.display().to_string(), &bytes)?);
    }
    all.sort_by(|one: &Counts, other| one.database.cmp(&other.database));
    Ok(all)
}

/// Counts as they lie in a backup.
///
/// # Errors
/// They are none.
pub fn parse_counts(what: &str, bytes: &[u8]) -> Result<Counts, ComponentError> {
    serde_json::from_slice(bytes).map_err(|error| ComponentError::System {
        what: format!("\"{what}\""),
        detail: format!("it holds no counts: {error}"),
        hint: "Restore it again, into an empty directory.".into(),
    })
}

/// As many tables with rows as were counted?
async fn listed(
    programs: &Programs,
    server: &Server,
    counts: &Counts,
    restored: &Path,
) -> Result<Vec<String>, ComponentError> {
    let file = restored.join(dump_of(&counts.database));
    let lines = listing::of_file(programs, server, &file).await?;
    let rows_of = |line: &String| listing::Entry::parse(line)?.rows_of();
    let (then, now) = (counts.tables.len(), lines.iter().filter_map(rows_of).count());
    Ok(match then == now {
        true => Vec::new(),
        false => vec![format!(
            "{}: {then} tables were captured, {now} are in the dump",
            counts.database
        )],
    })
}
