//! Where the servers and our binaries are: from the environment, else from the file `make setup` wrote.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail, ensure};

use crate::user;

/// The directory of a major version's programs.
pub fn pg_bin(major: u32) -> Result<PathBuf> {
    let name = format!("SEAWALL_PG{major}_BIN");
    lookup(&name).with_context(|| {
        format!("PostgreSQL {major} is not installed ({name} is not set)\nHINT: run: make setup MAJORS={major}")
    })
}

/// The SeaweedFS program.
pub fn weed_bin() -> Result<PathBuf> {
    lookup("SEAWALL_WEED_BIN")
        .context("SeaweedFS is not installed (SEAWALL_WEED_BIN is not set)\nHINT: run: make setup")
}

/// The rclone program, as an S3 server without conditional PUT.
pub fn rclone_bin() -> Result<PathBuf> {
    lookup("SEAWALL_RCLONE_BIN")
        .context("rclone is not installed (SEAWALL_RCLONE_BIN is not set)\nHINT: run: make setup")
}

/// A Redis or Valkey server.
pub fn redis_bin(name: &str) -> Result<PathBuf> {
    let variable = format!("SEAWALL_{}_BIN", name.to_uppercase());
    lookup(&variable).with_context(|| format!("{name} is not installed ({variable} is not set)\nHINT: run: make setup"))
}

/// The Python that has the packages of the second decoder.
pub fn reader_python() -> Result<PathBuf> {
    lookup("SEAWALL_READER_PYTHON").context(
        "the second decoder's packages are not installed (SEAWALL_READER_PYTHON is not set)\nHINT: run: make setup",
    )
}

/// pgBackRest, for measurements beside it.
pub fn pgbackrest_bin() -> Result<PathBuf> {
    lookup("SEAWALL_PGBACKREST_BIN").context(
        "pgBackRest is not installed (SEAWALL_PGBACKREST_BIN is not set)\nHINT: run: make setup PEERS=pgbackrest",
    )
}

/// `wal-agent`, where the server user can run it.
pub fn agent_bin() -> Result<PathBuf> {
    ours("wal-agent")
}

/// `wal-restore`, where the server user can run it.
pub fn restore_bin() -> Result<PathBuf> {
    ours("wal-restore")
}

fn lookup(name: &str) -> Option<PathBuf> {
    let set = std::env::var_os(name).filter(|value| !value.is_empty());
    set.map(PathBuf::from)
        .or_else(|| env_file().get(name).map(PathBuf::from))
        .filter(|path| path.exists())
}

fn env_file() -> &'static HashMap<String, String> {
    static FILE: OnceLock<HashMap<String, String>> = OnceLock::new();
    FILE.get_or_init(|| {
        let cache = std::env::var_os("SEAWALL_TEST_CACHE")
            .map_or_else(|| PathBuf::from("/var/tmp/seawall-test"), PathBuf::from);
        let text = fs::read_to_string(cache.join("env")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    })
}

fn ours(name: &str) -> Result<PathBuf> {
    let built = profile_dir()?.join(name);
    ensure!(
        built.is_file(),
        "{} does not exist\nHINT: cargo build --workspace (make test does it)",
        built.display()
    );
    if user::server_user().is_none() {
        return Ok(built);
    }
    open_copy(&built)
}

/// `target/<profile>`: tests run from `deps` below it, binaries from itself.
fn profile_dir() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let mut dir = executable.parent().context("executable has no directory")?;
    while matches!(
        dir.file_name().and_then(|name| name.to_str()),
        Some("deps" | "examples")
    ) {
        dir = dir.parent().context("no directory above deps")?;
    }
    Ok(dir.to_owned())
}

/// Root's build directory may be closed to others. One copy a build directory, renewed when it changes:
/// written aside and renamed, so that a program that is running keeps its file.
fn open_copy(built: &Path) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap();

    let mut hasher = DefaultHasher::new();
    built.parent().hash(&mut hasher);
    let dir = std::env::temp_dir().join(format!("sw-bin-{:016x}", hasher.finish()));
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let owner = fs::symlink_metadata(&dir)?;
    if !owner.is_dir() || owner.uid() != rustix::process::geteuid().as_raw() {
        bail!("{} belongs to somebody else", dir.display());
    }

    let copy = dir.join(built.file_name().context("no file name")?);
    let (source, present) = (fs::metadata(built)?, fs::metadata(&copy));
    let current =
        present.is_ok_and(|present| present.len() == source.len() && present.modified().ok() == source.modified().ok());
    if !current {
        let aside = copy.with_extension(format!("{}", std::process::id()));
        fs::copy(built, &aside).with_context(|| format!("copy to {}", aside.display()))?;
        let file = fs::File::options().write(true).open(&aside)?;
        file.set_modified(source.modified()?)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        drop(file);
        fs::rename(&aside, &copy)?;
    }
    Ok(copy)
}
