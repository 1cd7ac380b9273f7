//! Configuration files that lie outside the data directory (Debian keeps them in /etc), with everything that they include.
//!
//! The server names the three files; includes are found by reading them, because its views are for superusers only and do not show
//! files without settings. A file that is named and cannot be read fails the backup; one of `include_if_exists` may be absent.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use store::file_table::EntryClass;
use store::manifest::ConfigurationPaths;
use store::pipeline::FileJob;
use tokio_postgres::Client;

use super::error::BackupError;
use super::sql::{RawText, setting};

/// A configuration file larger than this is none.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// PostgreSQL's own limit is 10.
const INCLUDE_DEPTH_MAX: usize = 10;

/// Files outside the data directory, with their content.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    pub(super) paths: ConfigurationPaths,
    pub(super) files: Vec<(FileJob, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Include {
    File(PathBuf),
    FileIfExists(PathBuf),
    Directory(PathBuf),
}

/// Asks the server for its files and reads those that the data directory does not hold.
pub(super) async fn capture(sql: &Client, data_directory: &Path) -> Result<Configuration, BackupError> {
    let inside =
        std::fs::canonicalize(data_directory).map_err(|error| BackupError::io("resolve", data_directory, error))?;
    let mut capture = Capture {
        inside,
        seen: BTreeSet::new(),
        files: Vec::new(),
    };
    let mut paths = ConfigurationPaths::default();
    for (name, slot) in [
        ("config_file", &mut paths.config),
        ("hba_file", &mut paths.hba),
        ("ident_file", &mut paths.ident),
    ] {
        let path = setting(sql, name).await?.map(RawText::path);
        let Some(path) = path.filter(|path| path.is_absolute()) else {
            continue;
        };
        if capture.file(&path, false, 0)? {
            *slot = Some(path.into_os_string().into_vec().into());
        }
    }
    Ok(Configuration {
        paths,
        files: capture.files,
    })
}

/// Asks a server whose files we cannot read for the content of those outside its data directory, as far as the role may read them.
/// Includes are not followed.
pub(super) async fn ask(sql: &Client, data_directory: &Path) -> Result<Configuration, BackupError> {
    const STEP: &str = "read its configuration files";
    let mut out = Configuration::default();
    for (name, slot) in [
        ("config_file", &mut out.paths.config),
        ("hba_file", &mut out.paths.hba),
        ("ident_file", &mut out.paths.ident),
    ] {
        let Some(path) = setting(sql, name).await?.map(RawText::path) else {
            continue;
        };
        if !path.is_absolute() || path.starts_with(data_directory) {
            continue;
        }
        let query = "SELECT pg_catalog.pg_read_binary_file($1)";
        let bytes = match sql.query_one(query, &[&path.to_string_lossy()]).await {
            Ok(row) => row.try_get::<_, Vec<u8>>(0).map_err(BackupError::sql(STEP))?,
            Err(error) if error.code().is_some() => {
                tracing::warn!(path = %path.display(), %error, "a configuration file outside the data directory is not in the backup; grant pg_read_server_files, or back it up otherwise");
                continue;
            }
            Err(error) => return Err(BackupError::sql(STEP)(error)),
        };
        *slot = Some(path.as_os_str().as_bytes().to_vec().into());
        out.files.push((job_of(&path, 0o600, bytes.len()), bytes));
    }
    Ok(out)
}

fn job_of(path: &Path, mode: u32, bytes: usize) -> FileJob {
    FileJob {
        path: path.as_os_str().as_bytes().to_vec(),
        on_disk: path.to_owned(),
        mode,
        size: bytes as u64,
        class: EntryClass::Configuration,
        first_block: 0,
        is_judged: false,
        may_vanish: false,
        attributes: None,
    }
}

/// What the server opens for a path.
fn canonical(path: &Path) -> PathBuf {
    PathBuf::from(OsString::from_vec(pg::path::canonical(path.as_os_str().as_bytes())))
}

struct Capture {
    inside: PathBuf,
    seen: BTreeSet<PathBuf>,
    files: Vec<(FileJob, Vec<u8>)>,
}

impl Capture {
    /// Reads a file and what it includes; keeps it when it lies outside the data directory, and says whether it does.
    fn file(&mut self, path: &Path, may_be_absent: bool, depth: usize) -> Result<bool, BackupError> {
        let path = &canonical(path);
        let resolved = match std::fs::canonicalize(path) {
            Ok(resolved) => resolved,
            Err(error) if error.kind() == ErrorKind::NotFound && may_be_absent => return Ok(false),
            Err(error) => return Err(BackupError::io("resolve", path, error)),
        };
        let is_outside = !resolved.starts_with(&self.inside);
        if depth > INCLUDE_DEPTH_MAX || !self.seen.insert(path.to_owned()) {
            return Ok(is_outside);
        }
        let metadata = std::fs::metadata(path).map_err(|error| BackupError::io("look at", path, error))?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            let source =
                std::io::Error::other("a configuration file should be a regular file and not larger than 16 MiB");
            return Err(BackupError::io("read the configuration file", path, source));
        }
        let bytes = std::fs::read(path).map_err(|error| BackupError::io("read the configuration file", path, error))?;
        let includes = includes_of(path.parent().unwrap_or(path), &bytes);
        if is_outside {
            let job = job_of(path, metadata.permissions().mode() & 0o7777, bytes.len());
            self.files.push((job, bytes));
        }
        for include in includes {
            match include {
                Include::File(path) => self.file(&path, false, depth + 1).map(drop)?,
                Include::FileIfExists(path) => self.file(&path, true, depth + 1).map(drop)?,
                Include::Directory(path) => self.directory(&path, depth + 1)?,
            }
        }
        Ok(is_outside)
    }

    /// The files of an `include_dir`: those whose names end in `.conf` and do not begin with a dot.
    fn directory(&mut self, path: &Path, depth: usize) -> Result<(), BackupError> {
        let path = &canonical(path);
        let list = |error| BackupError::io("list", path, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            if name.as_bytes().ends_with(b".conf") && !name.as_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        names.sort_unstable();
        for name in names {
            let file = path.join(name);
            if file.is_file() {
                self.file(&file, true, depth)?;
            }
        }
        Ok(())
    }
}

/// The include lines of a configuration file (`include 'x'`, with or without `=`) or of an HBA or ident file (16 and later, quoted
/// with `"`). Relative paths count from the directory of the file.
fn includes_of(directory: &Path, bytes: &[u8]) -> Vec<Include> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| include_of(directory, line.trim_ascii()))
        .collect()
}

fn include_of(directory: &Path, line: &[u8]) -> Option<Include> {
    let end = line
        .iter()
        .position(|byte| !(byte.is_ascii_alphabetic() || *byte == b'_'))?;
    let (keyword, rest) = line.split_at_checked(end)?;
    let value = rest.trim_ascii_start();
    let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii_start();
    let name = match value.split_first()? {
        (quote @ (b'\'' | b'"'), rest) => unquote(rest, *quote)?,
        _ => value
            .split(|byte| byte.is_ascii_whitespace() || *byte == b'#')
            .next()?
            .to_vec(),
    };
    if name.is_empty() || rest.len() == value.len() {
        return None;
    }
    let path = directory.join(OsStr::from_bytes(&name));
    match keyword.to_ascii_lowercase().as_slice() {
        b"include" => Some(Include::File(path)),
        b"include_if_exists" => Some(Include::FileIfExists(path)),
        b"include_dir" => Some(Include::Directory(path)),
        _ => None,
    }
}

/// Up to the closing quote; a doubled quote is one.
fn unquote(text: &[u8], quote: u8) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.iter().peekable();
    while let Some(byte) = bytes.next() {
        if *byte != quote {
            out.push(*byte);
        } else if bytes.next_if_eq(&&quote).is_some() {
            out.push(quote);
        } else {
            return Some(out);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn include_lines_are_found_and_others_are_not() {
        let text = b"include 'a.conf'\n  include_if_exists = 'it''s.conf' # x\ninclude_dir='conf.d'\n#include 'no'\nINCLUDE plain.conf#c\n\
                     included = 'no'\nport = 5432\ninclude_dir \"hba.d\"\ninclude\ninclude 'open\n@inc\ninclude /abs\n";
        let found = includes_of(Path::new("/etc/pg"), text);
        assert_eq!(
            found,
            [
                Include::File("/etc/pg/a.conf".into()),
                Include::FileIfExists("/etc/pg/it's.conf".into()),
                Include::Directory("/etc/pg/conf.d".into()),
                Include::File("/etc/pg/plain.conf".into()),
                Include::Directory("/etc/pg/hba.d".into()),
                Include::File("/abs".into()),
            ]
        );
    }

    #[test]
    fn files_outside_are_kept_with_their_includes_and_files_inside_are_not() {
        let inside = tempfile_dir("inside");
        let outside = tempfile_dir("outside");
        std::fs::create_dir_all(outside.join("conf.d")).unwrap();
        std::fs::write(
            outside.join("postgresql.conf"),
            "include_dir 'conf.d'\ninclude_if_exists 'none'\n",
        )
        .unwrap();
        std::fs::write(outside.join("conf.d/one.conf"), "include '../postgresql.conf'\n").unwrap();
        std::fs::write(outside.join("conf.d/.hidden.conf"), "").unwrap();
        std::fs::write(inside.join("pg_hba.conf"), "local all all trust\n").unwrap();
        let mut capture = Capture {
            inside: inside.clone(),
            seen: BTreeSet::new(),
            files: Vec::new(),
        };
        assert!(capture.file(&outside.join("postgresql.conf"), false, 0).unwrap());
        assert!(!capture.file(&inside.join("pg_hba.conf"), false, 0).unwrap());
        assert!(capture.file(&outside.join("gone"), false, 0).is_err());
        let kept: Vec<_> = capture.files.iter().map(|(job, _)| job.on_disk.clone()).collect();
        assert_eq!(kept.first(), Some(&outside.join("postgresql.conf")));
        assert!(
            kept.contains(&outside.join("conf.d/one.conf")) && !kept.contains(&outside.join("conf.d/.hidden.conf"))
        );
    }

    fn tempfile_dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("seawall-configuration-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path.canonicalize().unwrap()
    }
}
