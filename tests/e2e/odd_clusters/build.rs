//! The odd clusters themselves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tests::scratch::write_private;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, StopMode, user};
use tokio_postgres::Client;

/// Locations below `<scratch>/ts`. `a` and `ab` have a prefix in common, one lies in another, one is a link.
const LOCATIONS: [&str; 9] = [
    "with space ",
    "größe 日本",
    "say \"hi\"",
    "back\\slash",
    "100%=of",
    "new\nline",
    "a",
    "ab",
    "a/inner/deep",
];

/// Names that PostgreSQL never gives, and that operators, editors and attackers do.
const NAMES: [&[u8]; 9] = [
    b"FOO\xe0\xe0\xe0BAR",
    b"back\\slash",
    b" around ",
    b"new\nline",
    b"=[#]%f%p",
    b"-rf",
    b"'one\"two",
    b".hidden",
    b"16384.bak",
];

/// Where only relations should be.
pub(crate) const BESIDE_RELATIONS: [&str; 2] = ["base/not a database", "global/not a relation"];

/// Rows of every table.
pub(crate) const ROWS: u32 = 1000;

pub(crate) struct Odd {
    pub(crate) cluster: Cluster,
    /// Where tablespaces are, outside of the data directory.
    pub(crate) outside: BTreeMap<u32, PathBuf>,
    /// Paths of the main forks of unlogged relations.
    pub(crate) unlogged: Vec<String>,
    /// A session with temporary tables: they are there as long as it is.
    pub(crate) session: Client,
}

/// `mode` is that of the data directory: 0700, or 0750 for a group that may read.
pub(crate) async fn build(scratch: &Scratch, mode: u32) -> Result<Odd> {
    let cluster = Cluster::builder(15)
        .setting("fsync", "off")
        .setting("autovacuum", "off")
        .setting("checkpoint_timeout", "1d")
        .setting("allow_in_place_tablespaces", "on")
        .create(scratch, "main")
        .await?;
    cluster.stop(StopMode::Fast).await?;
    let data = cluster.data_directory();
    let wal = scratch.dir("w a l")?.join("pg_wal");
    fs::rename(data.join("pg_wal"), &wal)?;
    symlink(&wal, data.join("pg_wal"))?;
    odd_files(data)?;
    set_modes(data, mode)?;
    cluster.start().await?;

    let session = cluster.connect().await?;
    let mut places = vec![String::new()];
    for location in LOCATIONS {
        places.push(scratch.dir(Path::new("ts").join(location))?.display().to_string());
    }
    symlink(scratch.dir("ts/real")?, scratch.join("ts/link"))?;
    places.push(scratch.join("ts/link").display().to_string());
    for (number, place) in places.iter().enumerate() {
        session
            .batch_execute(&format!("create tablespace ts{number} location '{place}'"))
            .await?;
        session
            .batch_execute(&tables(&format!("_{number}"), &format!("ts{number}")))
            .await?;
    }
    session.batch_execute(&tables("", "pg_default")).await?;
    session.batch_execute("checkpoint").await?;
    let outside = outside(&session).await?;
    assert_eq!(outside.len(), places.len() - 1);
    let unlogged = paths(&session, "relpersistence = 'u'").await?;
    Ok(Odd {
        cluster,
        outside,
        unlogged,
        session,
    })
}

fn tables(suffix: &str, tablespace: &str) -> String {
    let rows = format!("select i, md5(i::text) from generate_series(1, {ROWS}) i");
    format!(
        "set default_tablespace = {tablespace}; set temp_tablespaces = {tablespace};
         create table kept{suffix} (i int primary key, words text);
         insert into kept{suffix} {rows};
         create unlogged table unlogged{suffix} (i int primary key, words text, n serial);
         insert into unlogged{suffix} {rows};
         create temporary table temporary{suffix} (i int primary key, words text);
         insert into temporary{suffix} {rows};"
    )
}

pub(crate) async fn paths(client: &Client, condition: &str) -> Result<Vec<String>> {
    let sql =
        format!("select pg_relation_filepath(oid) from pg_class where {condition} and relkind in ('r', 'i', 't', 'S')");
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn outside(client: &Client) -> Result<BTreeMap<u32, PathBuf>> {
    let sql = "select oid, pg_tablespace_location(oid) from pg_tablespace";
    let rows = client.query(sql, &[]).await?;
    let locations = rows
        .iter()
        .map(|row| (row.get(0), PathBuf::from(row.get::<_, String>(1))));
    Ok(locations.filter(|(_, path)| path.is_absolute()).collect())
}

/// The server does not care for any of these.
fn odd_files(data: &Path) -> Result<()> {
    for name in NAMES {
        write(&data.join(OsStr::from_bytes(name)), name)?;
    }
    write(&data.join("x".repeat(200)), b"a long name")?;
    write(&data.join("y".repeat(255)), b"the longest name")?;
    write(&data.join("empty"), b"")?;
    // Several pieces, some of them the same.
    let large: Vec<u8> = (0..3u32 << 20).map(|n| (n >> (n >> 21)) as u8).collect();
    write(&data.join("large"), &large)?;
    write(&data.join("read only"), b"0400")?;
    for path in BESIDE_RELATIONS {
        write(&data.join(path), b"odd")?;
    }
    let mut deep = data.join(OsStr::from_bytes(b"deep\xff"));
    for _ in 0..12 {
        make(&deep)?;
        deep.push("down here");
    }
    write(&deep, b"at the bottom")?;
    make(&data.join("empty directory"))?;
    make(&data.join("base/pgsql_tmp"))?;
    write(&data.join("base/pgsql_tmp/pgsql_tmp1.0"), b"of a sort")
}

/// What is neither a file nor a directory; it comes later, because the server wants modes that these cannot have.
pub(crate) async fn no_files(data: &Path) -> Result<()> {
    let mut command = user::command("mkfifo");
    command.arg(data.join("a pipe"));
    user::run(command, DEADLINE).await?;
    drop(UnixListener::bind(data.join("socket"))?);
    symlink("/nonexistent/some.conf", data.join("a link"))?;
    fs::set_permissions(data.join("read only"), Permissions::from_mode(0o400))?;
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    write_private(path, content)
}

fn make(path: &Path) -> Result<()> {
    if !path.is_dir() {
        fs::create_dir(path)?;
    }
    user::give(path)
}

fn set_modes(directory: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(mode))?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            set_modes(&path, mode)?;
        } else if metadata.is_file() {
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o640))?;
        }
    }
    Ok(())
}
