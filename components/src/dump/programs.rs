//! PostgreSQL's client programs of the right version.
//!
//! `pg_dump` refuses a server that is newer than itself; what a newer one writes may not load into an older server (docs, "pg_dump: Notes").
//! So of all that are installed the oldest is taken that is not older than the server: that of its own version, as a rule.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::ComponentError;

/// Where packages put them: a directory for each version.
const PLACES: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// Where to look for programs.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Only there.
    pub directory: Option<PathBuf>,
    /// The search path of the environment.
    pub path: Vec<PathBuf>,
}

/// Client programs of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Where they are.
    pub directory: PathBuf,
    /// As they say it: `17.2`.
    pub version: String,
    /// Its first number.
    pub major: u32,
}

impl Programs {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Places {
    /// Programs of any version: all of them can ask a server something.
    ///
    /// # Errors
    /// There are none.
    pub async fn any(&self) -> Result<Programs, ComponentError> {
        self.all().await.pop().ok_or_else(|| self.none())
    }

    /// Those for what has this major version.
    ///
    /// # Errors
    /// There are none, or only older ones.
    pub async fn for_major(&self, major: u32) -> Result<Programs, ComponentError> {
        let mut all = self.all().await;
        if let Some(at) = all.iter().position(|programs| programs.major >= major) {
            return Ok(all.swap_remove(at));
        }
        let newest = all.pop().ok_or_else(|| self.none())?;
        Err(ComponentError::refused(
            format!(
                "pg_dump {} in \"{}\" is older than PostgreSQL {major}, which it is needed for",
                newest.version,
                newest.directory.display()
            ),
            format!(
                "Install the client programs of PostgreSQL {major} or later, and name their directory in \"bin_directory\"."
            ),
        ))
    }

    fn none(&self) -> ComponentError {
        let place = match &self.directory {
            Some(directory) => format!("in \"{}\"", directory.display()),
            None => "on this host".into(),
        };
        ComponentError::refused(
            format!("there are no pg_dump, pg_restore and psql {place}"),
            "Install PostgreSQL's client programs, and name their directory in \"bin_directory\" where they are in no usual place.",
        )
    }

    /// All there are, the oldest first.
    async fn all(&self) -> Vec<Programs> {
        let directories = match &self.directory {
            Some(directory) => vec![directory.clone()],
            None => [self.packaged(), self.path.clone()].concat(),
        };
        let mut all = Vec::new();
        for directory in directories {
            all.extend(look(directory).await);
        }
        // A stable sort: among the same versions those of a package come first.
        all.sort_by_key(|programs: &Programs| programs.major);
        all
    }

    fn packaged(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for (above, before) in PLACES {
            let entries = std::fs::read_dir(above).into_iter().flatten().flatten();
            let versions = entries.filter(|entry| {
                let name = entry.file_name();
                let version = name.to_str().and_then(|name| name.strip_prefix(before));
                version.is_some_and(|version| version.parse::<u32>().is_ok())
            });
            found.extend(versions.map(|entry| entry.path().join("bin")));
        }
        found.sort();
        found
    }
}

async fn look(directory: PathBuf) -> Option<Programs> {
    let has = |name: &str| directory.join(name).is_file();
    if !["pg_dump", "pg_restore", "psql"].into_iter().all(has) {
        return None;
    }
    let version = version_of(&directory.join("pg_dump")).await?;
    let major = version.chars().take_while(char::is_ascii_digit).collect::<String>();
    Some(Programs {
        major: major.parse().ok()?,
        directory,
        version,
    })
}

async fn version_of(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").kill_on_drop(true);
    let output = command.output().await.ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// `pg_dump (PostgreSQL) 15.18 (Debian ...)`.
fn parse(text: &str) -> Option<String> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    version.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_as_the_program_prints_it() {
        assert_eq!(
            parse("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").as_deref(),
            Some("15.18")
        );
        assert_eq!(parse("pg_dump (PostgreSQL) 18beta1").as_deref(), Some("18beta1"));
        assert_eq!(parse("sh: not found"), None);
    }
}
