//! `kind = "files"`.

use std::path::PathBuf;

use crate::reader::Reader;

pub(super) const KEYS: [&str; 4] = ["paths", "exclude", "one_file_system", "read_all"];

/// Directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSource {
    /// `paths`: absolute.
    pub paths: Vec<PathBuf>,
    /// `exclude`: patterns as rsync has them.
    pub exclude: Vec<String>,
    /// `one_file_system`; no: what is mounted below is captured too.
    pub one_file_system: bool,
    /// `read_all`; no: unchanged files are read again only now and then.
    pub read_all: bool,
}

pub(super) fn read(reader: &mut Reader<'_>) -> FilesSource {
    let hint = "Write absolute paths: [\"/srv/uploads\", \"/etc/app\"].";
    let paths = absolute(reader, "paths", "names no directories", hint);
    FilesSource {
        paths,
        exclude: reader.list("exclude"),
        one_file_system: reader.flag("one_file_system").unwrap_or_default(),
        read_all: reader.flag("read_all").unwrap_or_default(),
    }
}

/// One absolute path or more.
pub(super) fn absolute(reader: &mut Reader<'_>, name: &str, none: &str, hint: &str) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = reader.list(name).into_iter().map(PathBuf::from).collect();
    let is_path = |path: &PathBuf| path.is_absolute() && path.components().all(|part| part.as_os_str() != "..");
    if paths.is_empty() || !paths.iter().all(is_path) {
        reader.complain(name, none, hint);
    }
    paths
}
