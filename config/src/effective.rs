//! The values in force, for `check --show-config`.

use serde::Serialize;

use crate::origin::Origin;

/// Stands for a secret wherever one would be printed.
pub(crate) const REDACTED: &str = "<redacted>";

/// One key in force. Keys without a value and without a default are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// The full key, with dots: `cluster.main.wal.ship_interval`.
    pub key: String,
    /// The value in its usual unit; `<redacted>` for a secret.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}
