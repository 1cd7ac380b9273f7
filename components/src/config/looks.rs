//! What looks like a secret. It need not be complete: it keeps the usual ones out of a backup that many may read.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::ComponentError;

/// Names of files, upper or lower case.
const NAMES: [&str; 41] = [
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.ppk",
    "*.kdb",
    "*.kdbx",
    "*.keytab",
    "*.jceks",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "ssh_host_*_key",
    "secring*",
    ".pgpass",
    "pgpass*",
    ".my.cnf",
    ".mylogin.cnf",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".htpasswd",
    "htpasswd*",
    "*password*",
    "*passphrase*",
    "*secret*",
    "*credential*",
    "*.token",
    ".vault-token",
    "vault-token*",
    "*vault*pass*",
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    ".env",
    ".env.*",
    "*kubeconfig*",
    ".dockercfg",
];
/// Names of directories of which nothing is taken.
const DIRECTORIES: [&str; 4] = ["private", "secrets", ".gnupg", ".aws"];
/// Paths that only as a whole say what they are.
const PATHS: [&str; 2] = [".docker/config.json", ".kube/config"];
/// What a file with a secret in it has somewhere.
const MARKS: [&[u8]; 5] = [
    b"PRIVATE KEY-----",
    b"PRIVATE KEY BLOCK-----",
    b"PuTTY-User-Key-File-",
    b"AGE-SECRET-KEY-1",
    b"$ANSIBLE_VAULT;",
];

/// The patterns.
#[derive(Debug)]
pub(super) struct Looks {
    files: GlobSet,
    directories: GlobSet,
}

impl Looks {
    /// # Errors
    /// Never for these patterns.
    pub(super) fn new() -> Result<Self, ComponentError> {
        Ok(Looks {
            files: set(NAMES.iter().chain(&PATHS))?,
            directories: set(DIRECTORIES.iter())?,
        })
    }

    /// True for the path of a file that is not even read.
    pub(super) fn by_name(&self, path: &Path) -> bool {
        self.files.is_match(path) || path.ancestors().skip(1).any(|above| self.directories.is_match(above))
    }

    /// True for the content of one.
    pub(super) fn by_content(content: &[u8]) -> bool {
        MARKS.iter().any(|mark| has(content, mark))
    }
}

fn set<'n>(names: impl Iterator<Item = &'n &'n str>) -> Result<GlobSet, ComponentError> {
    let mut all = GlobSetBuilder::new();
    for name in names {
        let glob = GlobBuilder::new(&format!("**/{name}"))
            .literal_separator(true)
            .case_insensitive(true)
            .build();
        all.add(glob.map_err(|error| bad(&error))?);
    }
    all.build().map_err(|error| bad(&error))
}

/// Looks for the first byte, then for the rest.
fn has(content: &[u8], mark: &[u8]) -> bool {
    let Some((first, rest)) = mark.split_first() else {
        return false;
    };
    let mut left = content;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = left.get(at + 1..).unwrap_or_default();
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

fn bad(error: &globset::Error) -> ComponentError {
    ComponentError::refused(
        format!("a pattern is wrong: {}", error.kind()),
        "This is a mistake of the program.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_secrets_look_like_it_and_ordinary_files_do_not() {
        let looks = Looks::new().unwrap();
        for path in [
            "etc/shadow",
            "etc/ssl/private/site.pem",
            "etc/app/DB_Password.txt",
            "root/.ssh/id_rsa",
            "root/.ssh/id_ed25519.old",
            "home/a/.pgpass",
            "etc/app/server.KEY",
            "srv/x.kdbx",
            "etc/app/.env",
            "home/a/.kube/config",
            "home/a/.vault-token",
            "home/a/.aws/credentials",
            "etc/secrets/db/user",
            "etc/ssh/ssh_host_rsa_key",
            "home/a/.gnupg/x/y",
        ] {
            assert!(looks.by_name(Path::new(path)), "{path}");
        }
        for path in [
            "etc/passwd",
            "etc/group",
            "etc/ssl/certs/site.pem",
            "etc/postgresql/17/main/pg_hba.conf",
            "etc/keyboard",
            "etc/ssh/ssh_host_rsa_key.pub",
            "etc/nginx/nginx.conf",
            "etc/environment",
            "root/.ssh/authorized_keys",
        ] {
            assert!(!looks.by_name(Path::new(path)), "{path}");
        }
        assert!(Looks::by_content(b"x\n-----BEGIN EC PRIVATE KEY-----\n"));
        assert!(Looks::by_content(b"PPPRIVATE KEY-----"));
        assert!(!Looks::by_content(b"-----BEGIN CERTIFICATE-----\nPRIVATE KEY----"));
    }
}
