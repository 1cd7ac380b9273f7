//! Errors of the file system, classified in one place.

use std::fmt::Display;
use std::io::{self, ErrorKind};

use super::super::{ErrorClass, ObjectError, Operation, Outcome};

/// What is said of a symbolic link where an object or its directory should be.
pub(super) const LINK_HINT: &str =
    "The repository must not contain symbolic links; find out who made this one and remove it.";

const FULL: &str = "Free space or raise the quota of the repository's file system. WAL waits on the server until then, so watch \
                    the space of pg_wal too.";
const RIGHTS: &str = "Give the user that runs seawall read and write permission on the repository directory, and check that the \
                      file system is not mounted read-only.";
const BROKEN: &str =
    "The file system reports a failed device. Check the kernel log, and verify the repository afterwards.";
const MOUNT: &str = "Is its file system mounted? Else correct the path. Where there was none yet, `wal-agent init` makes a repository, `wal-agent copy` a copy.";

/// The error for `error`, which came from `action` on behalf of `operation`.
pub(super) fn io_error(
    operation: Operation,
    name: impl Display,
    outcome: Outcome,
    action: &str,
    error: io::Error,
) -> ObjectError {
    let (class, hint) = class_of(&error);
    let detail = format!("could not {action}: {}", text_of(&error));
    let built = ObjectError::new(operation, name, outcome, class, detail).with_source(error);
    match hint {
        Some(hint) => built.with_hint(hint),
        None => built,
    }
}

/// The error for a root that is not there (any more).
pub(super) fn root_missing(operation: Operation, name: impl Display, detail: impl Display) -> ObjectError {
    ObjectError::new(
        operation,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Misconfigured,
        detail,
    )
    .with_hint(MOUNT)
}

fn text_of(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| {
            let text = error.to_string();
            text.strip_suffix(&format!(" (os error {code})"))
                .map_or(text.clone(), str::to_owned)
        },
    )
}

fn class_of(error: &io::Error) -> (ErrorClass, Option<&'static str>) {
    use rustix::io::Errno;
    if let Some(code) = error.raw_os_error() {
        match Errno::from_raw_os_error(code) {
            Errno::IO | Errno::NODEV | Errno::NXIO => return (ErrorClass::Permanent, Some(BROKEN)),
            Errno::LOOP => return (ErrorClass::Misconfigured, Some(LINK_HINT)),
            Errno::NOSPC | Errno::DQUOT => return (ErrorClass::Full, Some(FULL)),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR | Errno::STALE | Errno::NOLCK => {
                return (ErrorClass::Transient, None);
            }
            _ => {}
        }
    }
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => (ErrorClass::Full, Some(FULL)),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (ErrorClass::Misconfigured, Some(RIGHTS)),
        ErrorKind::TimedOut
        | ErrorKind::Interrupted
        | ErrorKind::WouldBlock
        | ErrorKind::ResourceBusy
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => (ErrorClass::Transient, None),
        ErrorKind::UnexpectedEof => (ErrorClass::Corrupt, None),
        _ => (ErrorClass::Permanent, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_full_with_a_hint_and_a_busy_one_is_transient() {
        use rustix::io::Errno;
        let class =
            |errno: Errno| io_error(Operation::PutNew, "a", Outcome::DidNotHappen, "write", errno.into()).class();
        assert_eq!(class(Errno::NOSPC), ErrorClass::Full);
        assert_eq!(class(Errno::DQUOT), ErrorClass::Full);
        assert_eq!(class(Errno::ROFS), ErrorClass::Misconfigured);
        assert_eq!(class(Errno::ACCESS), ErrorClass::Misconfigured);
        assert_eq!(class(Errno::LOOP), ErrorClass::Misconfigured);
        assert_eq!(class(Errno::STALE), ErrorClass::Transient);
        assert_eq!(class(Errno::MFILE), ErrorClass::Transient);
        assert_eq!(class(Errno::IO), ErrorClass::Permanent);
        let full = io_error(
            Operation::PutNew,
            "a/b",
            Outcome::DidNotHappen,
            "write",
            Errno::NOSPC.into(),
        );
        assert_eq!(
            full.to_string(),
            "cannot put object \"a/b\": could not write: No space left on device"
        );
        assert!(full.hint().is_some_and(|hint| hint.ends_with('.')));
    }
}
