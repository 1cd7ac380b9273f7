//! What the operator typed into `seawall.toml`, checked and with units.
//!
//! Both binaries read the same file through [`load`]. There are two layers: `raw` holds what was
//! typed, key by key, and where it came from; `checked` holds what it means. Between them stands
//! one table of keys (`keys`) with the kind, the bounds and the default of each.
//!
//! Invariants:
//! - every problem is reported, not only the first one, and none of them repeats a secret;
//! - a variable of the environment wins over the file, and [`Config::effective`] says which it was;
//! - this crate reads the configuration file and the secret files, and neither environment nor
//!   arguments: the variables come in as pairs, best from `std::env::vars_os`.
//!
//! Nothing is written, so a crash here leaves nothing.

mod check;
mod checked;
mod component;
mod effective;
mod environment;
mod error;
mod files;
mod group;
mod key_command;
mod keys;
mod notify;
mod origin;
mod raw;
mod reader;
mod reference;
mod repository;
mod schedule;
mod secret;
mod suggest;
mod template;
mod units;
mod value;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub mod open;

pub use checked::{
    Backup, BackupSource, Brake, Checkpoint, Cluster, Config, Drill, Keys, Log, LogFormat, LogLevel, Objectives,
    OnUnknownHistory, Postgres, Restore, Retained, Retention, Schedules, Status, Wal,
};
pub use component::{
    Component, ComponentKind, ConfigSource, DumpSource, FilesSource, GitSource, RedisAddress, RedisServers,
    RedisSource, RedisTls,
};
pub use effective::Effective;
pub use error::{ConfigErrors, Problem};
pub use group::Group;
pub use notify::{Channel, Email, Notify};
pub use origin::Origin;
pub use reference::reference;
pub use repository::{Credentials, Repository, RepositoryUrl, S3};
pub use schedule::Schedule;
pub use secret::SecretText;
pub use template::template;
pub use units::{ByteSize, print_duration};

use environment::Environment;

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/seawall/seawall.toml";

/// Whether the passwords of the PostgreSQL servers, and the secrets of who is notified, are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    Read,
    Leave,
}

/// Reads and checks the configuration file at `path` and the secret files that it names.
///
/// `env` are the variables of the environment; those that are not ours are ignored, and so is one
/// with an empty value.
pub fn load<K, V>(path: &Path, env: impl IntoIterator<Item = (K, V)>) -> Result<Config, ConfigErrors>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    load_with(path, env, Secrets::Read)
}

/// Like [`load`], but leaves the password files of the PostgreSQL servers alone, and the secrets of those who are notified.
///
/// A restore often runs on a host that has no such file and needs none. Nor do mistakes in tables that only the agent reads stop it: they are
/// in [`Config::passed_over`].
pub fn load_for_restore<K, V>(path: &Path, env: impl IntoIterator<Item = (K, V)>) -> Result<Config, ConfigErrors>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    load_with(path, env, Secrets::Leave)
}

/// The file to read when the command line names none: `SEAWALL_CONFIG`, then [`DEFAULT_PATH`].
///
/// A named file that does not exist is an error of [`load`]; the next place is not tried.
pub fn default_path<K, V>(env: impl IntoIterator<Item = (K, V)>) -> PathBuf
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    env.into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .find(|(name, value)| name == "SEAWALL_CONFIG" && !value.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_PATH), |(_, value)| value.into())
}

fn load_with<K, V>(
    path: &Path,
    env: impl IntoIterator<Item = (K, V)>,
    passwords: Secrets,
) -> Result<Config, ConfigErrors>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    let mut problems = Vec::new();
    let env = Environment::collect(env, &mut problems);
    let table = match files::read_text(path).and_then(|text| raw::parse(path, &text)) {
        Ok(table) => table,
        Err(problem) => {
            problems.push(problem);
            return Err(ConfigErrors(problems));
        }
    };
    let mut raw = raw::walk(&table, &mut problems);
    environment::apply(&env, &mut raw, &mut problems);
    check::check(&raw, &env, passwords, problems)
}

#[cfg(test)]
mod tests;
