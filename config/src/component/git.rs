//! `kind = "git"`: Git repositories.

use std::path::PathBuf;

use super::files::absolute;
use crate::reader::Reader;

pub(super) const KEYS: [&str; 2] = ["repositories", "exclude"];

/// Git repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// `repositories`: absolute; each is one, bare or not, or a directory with some below it.
    pub repositories: Vec<PathBuf>,
    /// `exclude`: directories that are not looked into, as rsync has patterns.
    pub exclude: Vec<String>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> GitSource {
    let hint = "Write absolute paths of repositories, or of directories with repositories below them: [\"/srv/git\"].";
    GitSource {
        repositories: absolute(reader, "repositories", "names no repositories", hint),
        exclude: reader.list("exclude"),
    }
}
