//! Physical replication slots: the server's promise to keep WAL for us.
//!
//! Commands: docs, "Streaming Replication Protocol" (CREATE_REPLICATION_SLOT,
//! READ_REPLICATION_SLOT, DROP_REPLICATION_SLOT). A slot is a hint, never the truth: its restart
//! LSN follows the flush LSN that we send, and it may vanish with a failover.

use std::fmt;
use std::str::FromStr;

use super::error::ReplicationError;
use super::session::{ReplicationSession, text_column};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// First server version with READ_REPLICATION_SLOT.
const READ_SLOT_MAJOR: u32 = 15;

/// Name of a slot: 1 to 63 lowercase letters, digits and underscores
/// (src/backend/replication/slot.c, `ReplicationSlotValidateName`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotName(String);

/// A text that is not a slot's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid replication slot name \"{text}\": 1 to 63 lowercase letters, digits and underscores are allowed")]
pub struct SlotNameError {
    /// The text.
    pub text: String,
}

impl SlotName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`SlotNameError`] when the server would refuse it.
    pub fn new(text: &str) -> Result<Self, SlotNameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(SlotName(text.to_owned()))
        } else {
            Err(SlotNameError { text: text.to_owned() })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<Self, SlotNameError> {
        SlotName::new(text)
    }
}

/// What READ_REPLICATION_SLOT says of a physical slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotState {
    /// Oldest WAL that the server keeps for the slot; none when nothing is reserved yet.
    pub restart_lsn: Option<Lsn>,
    /// Timeline of that WAL in the server's history.
    pub restart_timeline: Option<TimelineId>,
}

/// Outcome of [`ReplicationSession::create_physical_slot`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotCreation {
    /// It was made, and WAL is reserved from now on.
    Created,
    /// A slot of this name is there already.
    Exists,
}

impl ReplicationSession {
    /// Reads a physical slot; `None` when there is none. A logical slot of the name is a server
    /// error. Needs PostgreSQL 15.
    ///
    /// # Errors
    /// [`ReplicationError::Unsupported`] before 15; otherwise what failed.
    pub async fn read_replication_slot(&mut self, slot: &SlotName) -> Result<Option<SlotState>, ReplicationError> {
        if self.server_version().major() < READ_SLOT_MAJOR {
            return Err(ReplicationError::Unsupported {
                feature: "READ_REPLICATION_SLOT",
                version: self.server_version().to_string(),
            });
        }
        let row = self.one_row(&format!("READ_REPLICATION_SLOT \"{slot}\"")).await?;
        if text_column(&row, 0)?.is_none() {
            return Ok(None);
        }
        let bad = |what: &str| ReplicationError::protocol(format!("{what} of a replication slot"));
        let restart_lsn = text_column(&row, 1)?
            .map(|text| text.parse().map_err(|_| bad("restart_lsn")))
            .transpose()?;
        let restart_timeline = match text_column(&row, 2)? {
            Some(text) => Some(
                text.parse()
                    .ok()
                    .and_then(TimelineId::new)
                    .ok_or_else(|| bad("restart_tli"))?,
            ),
            None => None,
        };
        Ok(Some(SlotState {
            restart_lsn,
            restart_timeline,
        }))
    }

    /// Makes a permanent physical slot that reserves WAL at once.
    ///
    /// # Errors
    /// What failed; that the slot exists is no error.
    pub async fn create_physical_slot(&mut self, slot: &SlotName) -> Result<SlotCreation, ReplicationError> {
        let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" PHYSICAL RESERVE_WAL");
        match self.rows(&command).await {
            Ok(_) => Ok(SlotCreation::Created),
            // duplicate_object
            Err(error) if error.sqlstate() == Some("42710") => Ok(SlotCreation::Exists),
            Err(error) => Err(error),
        }
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// What failed, see [`ReplicationError::is_slot_missing`] and
    /// [`ReplicationError::is_slot_in_use`].
    pub async fn drop_slot(&mut self, slot: &SlotName) -> Result<(), ReplicationError> {
        self.rows(&format!("DROP_REPLICATION_SLOT \"{slot}\"")).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_server_takes_are_slot_names() {
        assert!(SlotName::new("seawall_1").is_ok());
        assert!(SlotName::new(&"a".repeat(63)).is_ok());
        for bad in ["", "Seawall", "a-b", "a\"b", "ä", &"a".repeat(64)] {
            assert!(SlotName::new(bad).is_err(), "{bad}");
        }
    }
}
