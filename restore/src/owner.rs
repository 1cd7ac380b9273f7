//! Who owns the restored files.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Gid, Uid};
use store::manifest::Manifest;

use crate::error::{RestoreError, Result};

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Name.
    pub(crate) name: String,
    /// User id.
    pub(crate) uid: Uid,
    /// Primary group.
    pub(crate) gid: Gid,
}

/// Programs that become another user with all of his groups, of which the system calls behind `Command::uid` leave the other ones out: a server
/// may read its key through one (Debian's `ssl-cert`).
const SETPRIV: [&str; 2] = ["/usr/bin/setpriv", "/bin/setpriv"];

impl Owner {
    /// Runs a program as this user.
    pub(crate) fn command(&self, program: &Path) -> Command {
        if let Some(setpriv) = SETPRIV.iter().find(|path| Path::new(path).exists()) {
            let mut command = Command::new(setpriv);
            command
                .arg(format!("--reuid={}", self.uid.as_raw()))
                .arg(format!("--regid={}", self.gid.as_raw()))
                .args(["--init-groups", "--"])
                .arg(program);
            return command;
        }
        let mut command = Command::new(program);
        command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        command
    }
}

/// True when files can be given away.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The owner of a restore: as root the one asked for or recorded, else nobody but ourselves.
pub(crate) fn choose(asked: Option<&str>, manifest: &Manifest) -> Result<Option<Owner>> {
    const HINT: &str = "Create the user, or name another one with --owner.";
    if !is_root() {
        return match asked {
            None => Ok(None),
            Some(name) if find(name).is_some_and(|owner| owner.uid == rustix::process::geteuid()) => Ok(None),
            Some(name) => Err(RestoreError::refused(
                format!("only root can give files to user \"{name}\""),
                "Leave --owner out, or run as root.",
            )),
        };
    }
    let name = asked.or(manifest.owner_user.as_deref());
    let name = name.ok_or_else(|| RestoreError::refused("the backup does not say who owned its files", HINT))?;
    let owner = find(name)
        .ok_or_else(|| RestoreError::refused(format!("user \"{}\" does not exist here", name.escape_debug()), HINT))?;
    if owner.uid.is_root() {
        let message = "PostgreSQL does not run as root, so root cannot own a data directory";
        return Err(RestoreError::refused(message, "Name another user with --owner."));
    }
    Ok(Some(owner))
}

/// Name of the user that we are.
pub(crate) fn own_name() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    entry(&uid).and_then(|line| line.split(':').next().map(str::to_owned))
}

fn find(name: &str) -> Option<Owner> {
    parse(&entry(name)?, name)
}

/// The user's line of the passwd database: the C library's name services first, then the file.
fn entry(key: &str) -> Option<String> {
    let asked = Command::new("getent").args(["passwd", "--", key]).output().ok();
    if let Some(output) = asked.filter(|output| output.status.success()) {
        return String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned);
    }
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let is_key = |line: &&str| line.split(':').next() == Some(key) || line.split(':').nth(2) == Some(key);
    text.lines().find(is_key).map(str::to_owned)
}

fn parse(line: &str, name: &str) -> Option<Owner> {
    let mut fields = line.split(':');
    let found = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (found == name).then(|| Owner {
        name: name.to_owned(),
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_gives_user_and_group_and_a_number_is_no_name() {
        let owner = parse("postgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash", "postgres").unwrap();
        assert_eq!((owner.uid.as_raw(), owner.gid.as_raw()), (101, 104));
        assert_eq!(parse("postgres:x:101:104::/:/bin/sh", "101"), None);
        assert_eq!(parse("broken", "broken"), None);
    }
}
