//! Exit codes. A script may rely on them; they never change their meaning.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed in a way that has no code of its own |
//! | 2 | the command line or the configuration is wrong |
//! | 3 | refused: the stop point cannot be reached, the directory is not empty, a server runs there, wrong versions |
//! | 4 | the repository is damaged |
//! | 5 | a key is missing or does not fit |
//! | 6 | the repository cannot be reached |
//!
//! `wal-get` speaks PostgreSQL's language instead (`restore_command`): 0 the file is there, 1 it does not exist and is not needed,
//! 255 for everything else, which stops recovery.

use store::StoreError;
use store::object::ErrorClass;

/// Done.
pub(crate) const OK: u8 = 0;
/// Failed without a code of its own.
pub(crate) const FAILURE: u8 = 1;
/// Command line or configuration.
pub(crate) const USAGE: u8 = 2;
/// Refused before anything was changed.
pub(crate) const REFUSED: u8 = 3;
/// The repository is damaged.
pub(crate) const DAMAGED: u8 = 4;
/// A key is missing or wrong.
pub(crate) const KEY: u8 = 5;
/// The repository cannot be reached.
pub(crate) const UNREACHABLE: u8 = 6;

/// `wal-get`: the repository proves that the file does not exist.
pub(crate) const WAL_ABSENT: u8 = 1;
/// `wal-get`: anything that is not proven; recovery must stop.
pub(crate) const WAL_STOP: u8 = 255;

/// The code for an error of the repository.
pub(crate) fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::Object(object) => match object.class() {
            ErrorClass::NotFound | ErrorClass::Corrupt => DAMAGED,
            ErrorClass::Transient
            | ErrorClass::Permanent
            | ErrorClass::Misconfigured
            | ErrorClass::Full
            | ErrorClass::Locked => UNREACHABLE,
        },
        StoreError::KeyMissing { .. }
        | StoreError::KeyAway { .. }
        | StoreError::KeyFile { .. }
        | StoreError::WrongKey { .. } => KEY,
        StoreError::Foreign { what, .. } if *what == "the repository" => KEY,
        StoreError::NoRepository { .. } => UNREACHABLE,
        StoreError::Damaged { .. }
        | StoreError::Conflict { .. }
        | StoreError::TooNew { .. }
        | StoreError::Untrusted { .. }
        | StoreError::Foreign { .. }
        | StoreError::Codec(_) => DAMAGED,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::object::{ObjectError, Operation, Outcome};

    #[test]
    fn a_missing_object_is_damage_and_a_dead_network_is_not() {
        let of = |class| {
            of_store(&StoreError::Object(ObjectError::new(
                Operation::Get,
                "a",
                Outcome::DidNotHappen,
                class,
                "x",
            )))
        };
        assert_eq!(of(ErrorClass::NotFound), DAMAGED);
        assert_eq!(of(ErrorClass::Transient), UNREACHABLE);
        assert_eq!(of_store(&StoreError::KeyMissing { role: "restore" }), KEY);
        assert_eq!(of_store(&StoreError::damaged("a", "b")), DAMAGED);
    }
}
