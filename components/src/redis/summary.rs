//! What a whole RDB file says of itself, and what can be wrong with one.

use std::collections::BTreeMap;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// It begins with something else.
    #[error("it is not an RDB file")]
    NotRdb,
    /// Nothing that runs today writes that.
    #[error("RDB version {0} is too old")]
    TooOld(u32),
    /// It ends too early.
    #[error("it ends in the middle")]
    CutShort,
    /// It goes on.
    #[error("something follows its end")]
    BehindEnd,
    /// A length that cannot be one.
    #[error("it holds a length that is none")]
    BadLength,
    /// More databases than there can be.
    #[error("it holds too many databases")]
    TooManyDatabases,
    /// Its bytes are not those that were written.
    #[error("its checksum is wrong")]
    WrongChecksum,
}

/// What a database holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// All of them.
    pub keys: u64,
    /// Those that expire.
    pub expiring: u64,
}

/// What a whole file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Version of the format.
    pub version: u32,
    /// Keys by database; only up to what is [unknown](Self::unknown).
    pub databases: BTreeMap<u64, Keys>,
    /// Libraries of functions.
    pub functions: u64,
    /// The first byte that says something that is not known here.
    pub unknown: Option<u8>,
    /// It has a checksum, and that is right; otherwise it was written without one.
    pub is_summed: bool,
    /// Seconds since 1970, by the clock of the server that wrote it.
    pub created_s: Option<i64>,
    /// Bytes.
    pub bytes: u64,
}
