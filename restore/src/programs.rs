//! The server's programs, of the right major version.

use std::path::{Path, PathBuf};
use std::process::Command;

use pg::identity::ServerVersion;

use crate::error::{RestoreError, Result};

/// The directory with `postgres` and `pg_ctl` of this major version.
pub(crate) fn find(configured: Option<&Path>, major: u32) -> Result<PathBuf> {
    let mut seen = Vec::new();
    for directory in candidates(configured, major) {
        match version(&directory) {
            Some(found) if found.major() == major && directory.join("pg_ctl").exists() => return Ok(directory),
            Some(found) => seen.push(format!("{found} in \"{}\"", directory.display())),
            None => {}
        }
    }
    let seen = if seen.is_empty() {
        "none".to_owned()
    } else {
        seen.join(", ")
    };
    Err(RestoreError::refused(
        format!("the backup needs the programs of PostgreSQL {major} to be started; found: {seen}"),
        format!(
            "Install PostgreSQL {major}, set bin_directory under [cluster.<name>.postgres], or restore without --start."
        ),
    ))
}

fn candidates(configured: Option<&Path>, major: u32) -> Vec<PathBuf> {
    if let Some(configured) = configured {
        return vec![configured.to_owned()];
    }
    let mut out = vec![
        PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        PathBuf::from(format!("/usr/pgsql-{major}/bin")),
    ];
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        out.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        if let Ok(program) = directory.join("postgres").canonicalize()
            && let Some(parent) = program.parent()
        {
            out.push(parent.to_owned());
        }
    }
    out.dedup();
    out
}

fn version(directory: &Path) -> Option<ServerVersion> {
    let output = Command::new(directory.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian ...)`.
fn parse(text: &str) -> Option<ServerVersion> {
    text.trim().strip_prefix("postgres (PostgreSQL) ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_as_the_server_prints_it() {
        assert_eq!(
            parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n")
                .unwrap()
                .major(),
            15
        );
        assert_eq!(parse("postgres (PostgreSQL) 18beta1").unwrap().major(), 18);
        assert_eq!(parse("bash: no such file"), None);
    }

    #[test]
    fn another_major_is_refused_before_anything_is_copied() {
        let error = find(Some(Path::new("/nowhere")), 15).unwrap_err();
        assert_eq!(error.exit_code(), crate::exit::REFUSED);
        assert!(error.to_string().contains("found: none"));
    }
}
