//! The settings that are a choice between words: how much TLS, channel binding, which server.

use std::fmt;
use std::str::FromStr;

use super::ConninfoError;

/// The words of one key: the enum, its spelling, and back.
macro_rules! words {
    ($name:ident, $key:literal, $($variant:ident = $word:literal),+ $(,)?) => {
        impl $name {
            /// libpq's words, in the order of its documentation.
            pub const WORDS: &[&str] = &[$($word),+];

            /// libpq's word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ConninfoError;

            fn from_str(text: &str) -> Result<Self, ConninfoError> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(ConninfoError::invalid($key, text)),
                }
            }
        }
    };
}

/// How much TLS (docs, "libpq: SSL Support"). libpq's `allow` is left out: it protects nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SslMode {
    /// None.
    Disable,
    /// When the server has it.
    #[default]
    Prefer,
    /// Always; the certificate is checked only when `sslrootcert` is set.
    Require,
    /// Always, with a certificate of the CA.
    VerifyCa,
    /// Always, with a certificate of the CA for this host name.
    VerifyFull,
}

words!(
    SslMode,
    "sslmode",
    Disable = "disable",
    Prefer = "prefer",
    Require = "require",
    VerifyCa = "verify-ca",
    VerifyFull = "verify-full",
);

/// Whether SCRAM must be tied to the TLS connection, so that nobody can sit in between.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// When the server has it.
    #[default]
    Prefer,
    /// Always: a server that lets us in without it is refused.
    Require,
}

words!(
    ChannelBinding,
    "channel_binding",
    Disable = "disable",
    Prefer = "prefer",
    Require = "require",
);

/// Which of several servers will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TargetSessionAttrs {
    /// The first that lets us in.
    #[default]
    Any,
    /// One whose sessions can write unless they say otherwise.
    ReadWrite,
    /// One whose sessions cannot.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is.
    Standby,
    /// A standby; if there is none, any.
    PreferStandby,
}

words!(
    TargetSessionAttrs,
    "target_session_attrs",
    Any = "any",
    ReadWrite = "read-write",
    ReadOnly = "read-only",
    Primary = "primary",
    Standby = "standby",
    PreferStandby = "prefer-standby",
);

impl TargetSessionAttrs {
    /// Whether a server in this state is what is wanted. `PreferStandby` wants a standby here; that
    /// it takes what there is otherwise is for who looks at all servers.
    pub const fn accepts(self, is_standby: bool, is_read_only: bool) -> bool {
        match self {
            TargetSessionAttrs::Any => true,
            TargetSessionAttrs::ReadWrite => !is_read_only,
            TargetSessionAttrs::ReadOnly => is_read_only,
            TargetSessionAttrs::Primary => !is_standby,
            TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => is_standby,
        }
    }
}
