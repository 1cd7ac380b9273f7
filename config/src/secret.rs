//! Text that is never printed.

use std::fmt;

use zeroize::Zeroizing;

use crate::effective::REDACTED;

/// A secret: without `Display`, redacted in `Debug`, overwritten when dropped.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Wraps a secret. A copy that the caller keeps is the caller's to overwrite.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}
