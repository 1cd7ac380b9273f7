//! Dumps into a server, or as a script into a file.
//!
//! Into one database: all or nothing, in one transaction, of the whole dump or of single tables. Of all databases: roles first, then each
//! database, which is made where it is not there. Nothing that is there is replaced unless that was said. Afterwards rows are counted again.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use store::file_table::FileEntry;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::child::Running;
use super::counts::{self, Counts, Table};
use super::listing::{self, Entry};
use super::programs::Programs;
use super::refusal::failed;
use super::server::Server;
use super::session::Session;
use crate::private::Private;
use crate::{ComponentError, Stored};

/// What says that somebody has tables in a database.
const USER_TABLES: &str = "SELECT to_jsonb(count(*)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";
/// An object that is there already (PostgreSQL, "Error Codes").
const DUPLICATE_OBJECT: &str = "42710";

/// A server and the programs that load into it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub server: Server,
    /// What with.
    pub programs: Programs,
}

/// Where the bytes of a dump are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a backup.
    Stored(Stored, Box<FileEntry>),
    /// On a disk.
    File(PathBuf),
}

/// A database's dump, with its counts.
#[derive(Clone, Debug)]
pub struct Database {
    /// The dump.
    pub source: Source,
    /// Its tables.
    pub counts: Counts,
}

/// How it is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Only these tables, as `SCHEMA.TABLE`; none: all.
    pub tables: Vec<String>,
    /// What is there is replaced.
    pub over: bool,
    /// Owners and privileges are left as they come.
    pub no_owners: bool,
    /// Processes that load, from a file; one: as it comes, in one transaction.
    pub jobs: usize,
    /// Where files may lie that are needed meanwhile.
    pub scratch: PathBuf,
}

impl Source {
    /// Runs a program on it. Where the program ends before the bytes do, it says why.
    ///
    /// # Errors
    /// The program failed, or the repository did.
    async fn feed(&self, mut command: Command, what: String) -> Result<String, ComponentError> {
        match self {
            Source::File(path) => {
                let file = std::fs::File::open(path).map_err(ComponentError::io("open", path))?;
                command.stdin(file);
                Running::start(command, what)?.end().await
            }
            Source::Stored(stored, entry) => {
                let mut running = Running::start(command_with_input(command), what)?;
                let mut input = running.child.stdin.take().ok_or(ComponentError::Stopped)?;
                let mut reader = stored.reader(entry);
                'feeding: while let Some(chunks) = reader.next().await? {
                    for bytes in chunks {
                        if input.write_all(&bytes).await.is_err() {
                            break 'feeding;
                        }
                    }
                }
                drop(input);
                running.end().await
            }
        }
    }

    async fn contents(&self, target: &Target) -> Result<Vec<String>, ComponentError> {
        match self {
            Source::File(path) => listing::of_file(&target.programs, &target.server, path).await,
            Source::Stored(stored, entry) => listing::contents(stored, entry, &target.programs, &target.server).await,
        }
    }
}

fn command_with_input(mut command: Command) -> Command {
    command.stdin(Stdio::piped());
    command
}

/// A dump into the database that the connection string names; returns what differs from what was captured.
///
/// # Errors
/// The database has tables already, or loading failed: nothing was changed then, unless several processes loaded.
pub async fn one(target: &Target, database: &Database, options: &LoadOptions) -> Result<Vec<String>, ComponentError> {
    let wanted = wanted(&database.counts, options)?;
    let mut session = Session::open(&target.programs, &target.server, None).await?;
    refuse_tables(&mut session, &wanted, options).await?;
    restore(target, database, options, None, "--no-password").await?;
    let differs = counts::differences(&mut session, &wanted).await?;
    session.end().await?;
    Ok(differs)
}

/// All of a backup into a server; returns what differs from what was captured.
///
/// # Errors
/// A database has tables already: then nothing was changed. Or loading failed.
pub async fn all(
    target: &Target,
    globals: Option<&Source>,
    databases: &[Database],
    options: &LoadOptions,
) -> Result<Vec<String>, ComponentError> {
    let mut session = Session::open(&target.programs, &target.server, None).await?;
    let there: Vec<String> = session.ask("SELECT jsonb_agg(datname) FROM pg_database").await?;
    session.end().await?;
    let is_there = |database: &&Database| there.contains(&database.counts.database);
    for database in databases.iter().filter(is_there) {
        let mut session = Session::open(&target.programs, &target.server, Some(&database.counts.database)).await?;
        refuse_tables(&mut session, &[], options).await?;
        session.end().await?;
    }
    if let Some(globals) = globals {
        load_globals(target, globals).await?;
    }
    let mut differs = Vec::new();
    for database in databases {
        let name = database.counts.database.as_str();
        match is_there(&database) {
            true => restore(target, database, options, Some(name), "--no-password").await?,
            false => restore(target, database, options, None, "--create").await?,
        }
        let mut session = Session::open(&target.programs, &target.server, Some(name)).await?;
        let tables: Vec<&Table> = database.counts.tables.iter().collect();
        let found = counts::differences(&mut session, &tables).await?;
        differs.extend(found.iter().map(|line| format!("{name}: {line}")));
        session.end().await?;
    }
    Ok(differs)
}

/// A dump, or tables of it, as an SQL script.
///
/// # Errors
/// It cannot be made.
pub async fn to_sql(
    target: &Target,
    database: &Database,
    options: &LoadOptions,
    file: &Path,
) -> Result<(), ComponentError> {
    wanted(&database.counts, options)?;
    let mut command = target.server.program(&target.programs.path("pg_restore"));
    command.arg("--file").arg(file);
    if file == Path::new("-") {
        command.stdout(Stdio::inherit());
    }
    let list = list_of(target, database, options, &mut command).await?;
    let made = database.source.feed(command, "writing the script".into()).await;
    drop(list);
    made.map(|_| ())
}

/// The tables that are wanted.
fn wanted<'c>(counts: &'c Counts, options: &LoadOptions) -> Result<Vec<&'c Table>, ComponentError> {
    if options.tables.is_empty() {
        return Ok(counts.tables.iter().collect());
    }
    let find = |title: &String| {
        let found = counts.tables.iter().find(|table| table.title() == *title);
        found.ok_or_else(|| {
            ComponentError::refused(
                format!("the dump has no rows of a table \"{}\"", title.escape_debug()),
                "Write SCHEMA.TABLE as it was then, without quotes; --contents prints what the dump holds.",
            )
        })
    };
    options.tables.iter().map(find).collect()
}

/// Where tables of somebody's are, nothing is loaded unless that was said.
async fn refuse_tables(session: &mut Session, wanted: &[&Table], options: &LoadOptions) -> Result<(), ComponentError> {
    let tables: u64 = session.ask(USER_TABLES).await?;
    if options.over || tables == 0 {
        return Ok(());
    }
    if options.tables.is_empty() {
        return Err(ComponentError::refused(
            format!("the database has {tables} tables already"),
            "Nothing was changed. Load into a new database, or replace what is there with --over.",
        ));
    }
    for table in wanted {
        let name = table.title().replace('\'', "''");
        let there: bool = session
            .ask(&format!(
                "SELECT to_jsonb(EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname || '.' || c.relname = '{name}'))"
            ))
            .await?;
        if there {
            return Err(ComponentError::refused(
                format!("table {} is there already", table.title()),
                "Nothing was changed. Rename it first, or replace it with --over.",
            ));
        }
    }
    Ok(())
}

/// Roles and tablespaces; those that are there stay as they are.
async fn load_globals(target: &Target, globals: &Source) -> Result<(), ComponentError> {
    let psql = target.programs.path("psql");
    refuse_obedient(&psql).await?;
    let token = u64::from_le_bytes(store::entropy::bytes()?);
    let mut command = target.server.command(&psql, None);
    command
        .args([
            "--command",
            // What is stored comes from another host: it may hold SQL, and no orders to this program.
            &format!("\\restrict seawall{token:016x}"),
            "--no-psqlrc",
            "--quiet",
            "--no-password",
            "--set",
            "VERBOSITY=verbose",
            "--file",
            "-",
        ])
        .stdout(Stdio::null());
    let said = globals.feed(command, "loading roles and tablespaces".into()).await?;
    // One that could not be made would be missed by what it owns: that is said there, clearer than here.
    let is_error = |part: &&str| part.contains("ERROR:") && !part.contains(DUPLICATE_OBJECT);
    for error in said.split("; ").filter(is_error) {
        tracing::warn!(error, "a statement of the roles and tablespaces failed");
    }
    Ok(())
}

/// A `psql` from before August 2025 obeys lines that begin with a backslash, whoever wrote them (CVE-2025-8714).
async fn refuse_obedient(psql: &Path) -> Result<(), ComponentError> {
    let said = Command::new(psql).arg("--version").output().await;
    let said = said.map_err(ComponentError::io("start", psql))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    match knows_restrict(&text) {
        true => Ok(()),
        false => Err(ComponentError::refused(
            format!(
                "\"{}\" is too old: it would run programs that stored roles name",
                psql.display()
            ),
            "Install the newest minor release of the client programs, or leave roles out with --no-globals.",
        )),
    }
}

/// First releases with `\\restrict`: 13.22, 14.19, 15.14, 16.10, 17.6.
fn knows_restrict(version: &str) -> bool {
    let version = version
        .split(' ')
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut numbers = version
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse);
    let (Some(Ok(major)), minor) = (numbers.next(), numbers.next()) else {
        return false;
    };
    let minor: u32 = minor.and_then(Result::ok).unwrap_or(0);
    let first = match major {
        13 => 22,
        14 => 19,
        15 => 14,
        16 => 10,
        17 => 6,
        major => return major > 17,
    };
    minor >= first
}

async fn restore(
    target: &Target,
    database: &Database,
    options: &LoadOptions,
    into: Option<&str>,
    how: &str,
) -> Result<(), ComponentError> {
    let mut command = target.server.command(&target.programs.path("pg_restore"), into);
    command.arg("--exit-on-error").arg(how);
    // A database cannot be made in a transaction.
    if options.jobs <= 1 && how != "--create" {
        command.arg("--single-transaction");
    }
    if options.over {
        command.args(["--clean", "--if-exists"]);
    }
    if options.no_owners {
        command.args(["--no-owner", "--no-privileges"]);
    }
    let list = list_of(target, database, options, &mut command).await?;
    let what = format!("loading database \"{}\"", database.counts.database.escape_debug());
    let loaded = match (&database.source, options.jobs) {
        (source, 0 | 1) => source.feed(command, what).await,
        (source, jobs) => {
            // Several processes look for what they need: on a pipe that cannot be done.
            let file = super::trial::fetched(source, &options.scratch).await?;
            command.arg(format!("--jobs={jobs}")).arg(file.path());
            Running::start(command, what)?.end().await
        }
    };
    drop(list);
    let said = loaded?;
    if !said.is_empty() {
        tracing::info!(said, "pg_restore said");
    }
    Ok(())
}

/// Adds what single tables need to the command; the file must stay until it has run.
async fn list_of(
    target: &Target,
    database: &Database,
    options: &LoadOptions,
    command: &mut Command,
) -> Result<Option<Private>, ComponentError> {
    if options.tables.is_empty() {
        return Ok(None);
    }
    let tables = wanted(&database.counts, options)?;
    let lines = database.source.contents(target).await?;
    let chosen: Vec<&str> = lines
        .iter()
        .filter(|line| Entry::parse(line).is_some_and(|entry| tables.iter().any(|table| is_of(&entry, table))))
        .map(String::as_str)
        .collect();
    let found = chosen.iter().filter_map(|line| Entry::parse(line)?.rows_of()).count();
    if found != tables.len() {
        return Err(failed(
            "choosing tables of the dump",
            "its table of contents and its counts do not fit",
        ));
    }
    let directory = Private::create(&options.scratch, "dump", super::trial::PATH_BYTES_MAX)?;
    let list = directory.path().join("list");
    std::fs::write(&list, chosen.join("\n") + "\n").map_err(ComponentError::io("write", &list))?;
    command.arg("--use-list").arg(list);
    Ok(Some(directory))
}

/// Whether an entry of the contents is a table's: the table, its rows, or what goes with it.
fn is_of(entry: &Entry<'_>, table: &Table) -> bool {
    let Table { schema, name, oid, .. } = table;
    if entry.oid != 0 {
        return entry.oid == *oid || table.parts.contains(&(entry.class, entry.oid));
    }
    let begins = |text: String| entry.text.starts_with(&text);
    begins(format!("ROW SECURITY {schema} {name} "))
        || ["ACL", "COMMENT"].iter().any(|kind| {
            begins(format!("{kind} {schema} TABLE {name} ")) || begins(format!("{kind} {schema} COLUMN {name}."))
        })
        || table.sequences.iter().any(|sequence| {
            begins(format!("SEQUENCE SET {schema} {sequence} "))
                || begins(format!("SEQUENCE OWNED BY {schema} {sequence} "))
                || begins(format!("ACL {schema} SEQUENCE {sequence} "))
        })
}

#[cfg(test)]
mod tests {
    use super::knows_restrict;

    #[test]
    fn programs_that_obey_what_is_stored_are_known() {
        let of = |version: &str| knows_restrict(&format!("psql (PostgreSQL) {version}"));
        assert!(of("15.14 (Debian 15.14-0+deb12u1)") && of("17.6") && of("18.0") && of("19beta1"));
        assert!(!of("15.13") && !of("17.5 (Debian 17.5-1)") && !of("12.22") && !of("") && !of("devel"));
    }
}
