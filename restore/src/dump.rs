//! `wal-restore component` with a dump of PostgreSQL: what it holds, into a server, or as a script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use components::dump::load::{self, Database, LoadOptions, Source, Target};
use components::dump::{self, Counts, Places, Programs, Server};
use components::{ComponentError, Stored};
use serde::Serialize;
use store::file_table::FileEntry;

use crate::cli::ComponentArgs;
use crate::component;
use crate::error::{RestoreError, Result};
use crate::open::Opened;
use crate::time;

/// What only dumps have.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Print what a dump holds (pg_restore --list); only its head is fetched
    #[arg(long, value_name = "PATH", conflicts_with_all = ["to", "cat", "list"])]
    pub(crate) contents: Option<PathBuf>,
    /// Load into a server: all databases, made where they are not there; with --database that one into the database named here. Passwords come from PGPASSWORD or ~/.pgpass
    #[arg(long, value_name = "URL|CONNINFO", conflicts_with_all = ["to", "cat", "list", "contents", "dry_run"])]
    pub(crate) into: Option<String>,
    /// Write an SQL script; "-" is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "cat", "list", "contents", "into", "dry_run"])]
    pub(crate) to_sql: Option<PathBuf>,
    /// The dumped database [default with --to-sql: the only one]
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Only this table of it, with its indexes, constraints, triggers and sequences; can be repeated
    #[arg(long, value_name = "SCHEMA.TABLE", requires = "database")]
    pub(crate) table: Vec<String>,
    /// Leave roles and tablespaces out of a load of all databases
    #[arg(long, requires = "into", conflicts_with = "database")]
    pub(crate) no_globals: bool,
    /// Processes that load; with more than one the dump is fetched to a file first, and what was loaded stays when it fails
    #[arg(long, value_name = "N", requires = "into", default_value_t = 1)]
    pub(crate) jobs: usize,
    /// Directory for files that are needed meanwhile [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Directory of pg_restore and psql [default: looked for, of the version of the dump or the next later one]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_directory: Option<PathBuf>,
}

/// What was loaded.
#[derive(Debug, Serialize)]
struct Report {
    component: String,
    backup: String,
    as_of: String,
    databases: usize,
    tables: usize,
    /// None where they were not counted.
    rows: Option<u64>,
    /// What differs from what was captured.
    differs: Vec<String>,
    seconds: f64,
}

/// Runs the command where it is one for dumps; returns false where it is not.
///
/// # Errors
/// What was asked for is not there, is in the way, cannot be loaded, or is not what was captured.
pub(crate) async fn run(opened: &Opened, stored: &Stored, args: &ComponentArgs) -> Result<bool> {
    let of_dumps = &args.dump;
    let is_asked = of_dumps.contents.is_some() || of_dumps.into.is_some() || of_dumps.to_sql.is_some();
    if !is_asked {
        return match of_dumps.database.is_some() {
            true => Err(RestoreError::usage(
                "--database says what to load or to write, and it was not said where to",
                "Add --into CONNINFO or --to-sql FILE.",
            )),
            false => Ok(false),
        };
    }
    let facts = stored.manifest().component.as_deref().cloned().unwrap_or_default();
    if facts.kind != "postgres-dump" {
        return Err(RestoreError::refused(
            format!(
                "component \"{}\" holds no dumps: it is of kind \"{}\"",
                facts.name, facts.kind
            ),
            "Restore it with --to DIRECTORY.",
        ));
    }
    if let Some(into) = &of_dumps.into {
        refuse_password(into)?;
        if let Some(database) = &of_dumps.database {
            refuse_unnamed(into, database)?;
        }
    }
    let target = Target {
        programs: programs(opened, args, dump::major_of_dump(&facts.facts)).await?,
        server: Server {
            conninfo: of_dumps.into.clone().unwrap_or_default(),
            environment: environment(),
            password: None,
        },
    };
    if let Some(path) = &of_dumps.contents {
        let entry = component::find(stored, &component::plain(path)).await?;
        let lines = dump::contents(stored, &entry, &target.programs, &target.server).await?;
        component::out((lines.join("\n") + "\n").as_bytes())?;
        return Ok(true);
    }
    let loading = tokio::select! {
        done = Box::pin(bring(stored, args, &target)) => done,
        () = crate::table::interrupted() => Err(RestoreError::Failed("interrupted".into())),
    };
    loading.map(|()| true)
}

async fn bring(stored: &Stored, args: &ComponentArgs, target: &Target) -> Result<()> {
    let begun = Instant::now();
    let files = files(stored).await?;
    let options = LoadOptions {
        tables: args.dump.table.clone(),
        over: args.over,
        no_owners: args.no_owners,
        jobs: args.dump.jobs,
        scratch: args.dump.scratch.clone().unwrap_or_else(std::env::temp_dir),
    };
    if let Some(file) = &args.dump.to_sql {
        let database = one(stored, &files, args.dump.database.as_deref()).await?;
        if file != Path::new("-") && file.exists() {
            return Err(RestoreError::refused(
                format!("file \"{}\" exists", file.display()),
                "Remove it, or name another one with --to-sql.",
            ));
        }
        return Ok(load::to_sql(target, &database, &options, file).await?);
    }
    let (databases, differs) = match &args.dump.database {
        Some(name) => {
            let database = one(stored, &files, Some(name)).await?;
            let differs = load::one(target, &database, &options).await?;
            (vec![database], differs)
        }
        None => {
            let mut databases = Vec::new();
            for name in names(&files) {
                databases.push(one(stored, &files, Some(&name)).await?);
            }
            let globals = files.get(dump::GLOBALS).filter(|_| !args.dump.no_globals);
            let globals = globals.map(|entry| source(stored, entry));
            let differs = load::all(target, globals.as_ref(), &databases, &options).await?;
            (databases, differs)
        }
    };
    report(stored, args, &databases, differs, begun)
}

fn report(
    stored: &Stored,
    args: &ComponentArgs,
    databases: &[Database],
    differs: Vec<String>,
    begun: Instant,
) -> Result<()> {
    let component = stored.manifest().component.as_deref().cloned().unwrap_or_default();
    let is_wanted = |title: &String| args.dump.table.is_empty() || args.dump.table.contains(title);
    let tables: Vec<_> = databases
        .iter()
        .flat_map(|database| &database.counts.tables)
        .filter(|table| is_wanted(&table.title()))
        .collect();
    let counted: Vec<u64> = tables.iter().filter_map(|table| table.rows).collect();
    let report = Report {
        component: component.name,
        backup: stored.manifest().backup.to_string(),
        as_of: time::show(component.as_of_us),
        databases: databases.len(),
        tables: tables.len(),
        rows: (!counted.is_empty() || tables.is_empty()).then(|| counted.iter().sum()),
        differs,
        seconds: begun.elapsed().as_secs_f64(),
    };
    crate::print_report(&report, args.json)?;
    match report.differs.first() {
        None => Ok(()),
        Some(first) => Err(RestoreError::Server {
            message: format!("what was loaded is not what was captured: {first}"),
            hint: "All that differs is named above. `wal-agent verify --all` says whether the backup is whole.".into(),
        }),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "component  {}, backup {}", self.component, self.backup)?;
        writeln!(f, "as of      {}", self.as_of)?;
        writeln!(f, "loaded     {} databases, {} tables", self.databases, self.tables)?;
        match (self.rows, self.differs.as_slice()) {
            (None, []) => writeln!(f, "compared   nothing: rows were not counted when it was captured")?,
            (Some(rows), []) => writeln!(f, "compared   {rows} rows, as many in each table as were captured")?,
            (_, all) => all.iter().try_for_each(|line| writeln!(f, "DIFFERS    {line}"))?,
        }
        write!(f, "took       {:.1} s", self.seconds)
    }
}

/// The files of the backup, by their paths: two for each database.
async fn files(stored: &Stored) -> Result<BTreeMap<String, FileEntry>> {
    let (mut stored, mut files) = (stored.clone(), BTreeMap::new());
    while let Some(piece) = stored.next_piece().await? {
        files.extend(
            piece
                .into_iter()
                .map(|entry| (String::from_utf8_lossy(&entry.path).into_owned(), entry)),
        );
    }
    Ok(files)
}

/// Paths of the dumps without their ending.
fn names(files: &BTreeMap<String, FileEntry>) -> Vec<String> {
    let dumps = files.keys().filter_map(|path| path.strip_suffix(dump::DUMP));
    dumps.map(str::to_owned).collect()
}

fn source(stored: &Stored, entry: &FileEntry) -> Source {
    Source::Stored(stored.clone(), Box::new(entry.clone()))
}

/// One database; without a name the only one.
async fn one(stored: &Stored, files: &BTreeMap<String, FileEntry>, name: Option<&str>) -> Result<Database> {
    let names = names(files);
    // As it is called, or as its files are.
    let path = match (name, names.as_slice()) {
        (Some(name), all) if all.iter().any(|one| one == name) => Some(name.to_owned() + dump::DUMP),
        (Some(name), _) => Some(dump::dump_of(name)),
        (None, [only]) => Some(only.clone() + dump::DUMP),
        (None, _) => None,
    };
    let found = path.and_then(|path| {
        let counts = files.get(&(path.strip_suffix(dump::DUMP)?.to_owned() + dump::COUNTS))?;
        Some((files.get(&path)?, counts))
    });
    let Some((entry, counts)) = found else {
        let message = match name {
            Some(name) => format!("the backup has no dump of a database \"{}\"", name.escape_debug()),
            None => "it was not said which database".into(),
        };
        let hint = format!("Choose with --database; there are: {}.", names.join(", "));
        return Err(RestoreError::refused(message, hint));
    };
    Ok(Database {
        source: source(stored, entry),
        counts: read_counts(stored, counts).await?,
    })
}

async fn read_counts(stored: &Stored, entry: &FileEntry) -> std::result::Result<Counts, ComponentError> {
    let (mut bytes, mut reader) = (Vec::new(), stored.reader(entry));
    while let Some(chunks) = reader.next().await? {
        chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
    }
    dump::parse_counts(&entry.path.escape_ascii().to_string(), &bytes)
}

/// Whoever lists processes could read it.
fn refuse_password(into: &str) -> Result<()> {
    let (before, of_url) = match into.split_once("://") {
        Some((_, rest)) => (rest.split(['/', '?']).next().unwrap_or_default(), true),
        None => ("", false),
    };
    let in_user = of_url && before.split_once('@').is_some_and(|(user, _)| user.contains(':'));
    // Also sslpassword, and with spaces around the sign.
    let bare: String = into.chars().filter(|c| !c.is_whitespace()).collect();
    match in_user || bare.contains("password=") {
        true => Err(RestoreError::usage(
            "--into holds a password",
            "Put it into PGPASSWORD or ~/.pgpass.",
        )),
        false => Ok(()),
    }
}

/// One database goes into the one that is named, and nowhere else: libpq would take the one that is called like the user.
fn refuse_unnamed(into: &str, database: &str) -> Result<()> {
    let names = |part: &str| ["dbname=", "service="].iter().any(|key| part.starts_with(key));
    let bare: String = into.replace(" =", "=").replace("= ", "=");
    let is_named = match into.split_once("://") {
        Some((_, rest)) => {
            let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
            place.split_once('/').is_some_and(|(_, name)| !name.is_empty()) || query.split('&').any(names)
        }
        None if into.contains('=') => bare.split_whitespace().any(names),
        None => !into.trim().is_empty(),
    };
    match is_named || std::env::var_os("PGDATABASE").is_some() {
        true => Ok(()),
        false => Err(RestoreError::usage(
            "--into names no database",
            format!("Add dbname=...: what was dumped of \"{database}\" is loaded into that one, which must be there."),
        )),
    }
}

/// What libpq reads, and what programs need to run.
fn environment() -> BTreeMap<String, String> {
    let is_theirs = |name: &str| name.starts_with("PG") || matches!(name, "PATH" | "HOME");
    let all = std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    all.filter(|(name, _)| is_theirs(name)).collect()
}

async fn programs(opened: &Opened, args: &ComponentArgs, major: u32) -> Result<Programs> {
    let configured = match opened
        .config
        .components
        .get(&args.name)
        .map(|component| &component.kind)
    {
        Some(config::ComponentKind::Dump(source)) => source.bin_directory.clone(),
        _ => None,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_cluster = opened.cluster.postgres.bin_directory.clone();
    let more = configured
        .into_iter()
        .chain(of_cluster)
        .chain(std::env::split_paths(&path));
    let places = Places {
        directory: args.dump.bin_directory.clone(),
        path: more.collect(),
    };
    Ok(places.for_major(major).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_the_command_line_is_refused_in_every_form() {
        for into in [
            "postgresql://app:secret@h/db",
            "host=h password = 'x'",
            "postgres://h/db?password=x",
            "host=h sslpassword=x",
        ] {
            assert_eq!(
                refuse_password(into).unwrap_err().exit_code(),
                crate::exit::USAGE,
                "{into}"
            );
        }
        for into in [
            "postgresql://app@h:5432/db",
            "host=h user=app",
            "db",
            "postgresql://h/db?passfile=/p",
        ] {
            assert!(refuse_password(into).is_ok(), "{into}");
        }
    }

    #[test]
    fn one_database_goes_where_it_was_said_only() {
        for named in [
            "dbname=app",
            "host=h dbname = app",
            "app",
            "postgresql://h/app",
            "postgresql://h?dbname=app",
            "service=app",
        ] {
            assert!(refuse_unnamed(named, "app").is_ok(), "{named}");
        }
        for unnamed in [
            "host=h user=postgres",
            "",
            "postgresql://h",
            "postgresql://h/?sslmode=require",
        ] {
            assert!(refuse_unnamed(unnamed, "app").is_err(), "{unnamed}");
        }
    }
}
