//! For tests, of this crate and of others: the suite that every store passes, and stores that misbehave on order or count.
//!
//! Nothing here is used by the binaries. The suite panics where a promise is broken, as tests do.

pub mod conformance;
pub mod manifest;
mod recording;
mod scripted;

use crate::repository::NewRepository;

pub use recording::{Counts, RecordingStore};
pub use scripted::{Fault, Hold, ScriptedStore};

/// A cluster "main" of a host "h", at the beginning of 1970.
pub const NEW_REPOSITORY: NewRepository<'static> = NewRepository {
    cluster: "main",
    host: "h",
    now_us: 0,
    now_text: "1970-01-01T00:00:00Z",
    creator: "test",
};

/// `len` bytes that look random and depend on `seed` only.
#[must_use]
pub fn bytes_of(seed: u64, len: usize) -> bytes::Bytes {
    let random = crate::retry::SplitMix::new(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(len);
    out.into()
}
