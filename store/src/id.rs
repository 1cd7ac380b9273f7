//! Identifiers: fixed byte strings with one text form each.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder, bytes::ByteArray};

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $n:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $n]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                ctx: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                ByteArray::from(self.0).encode(e, ctx)
            }
        }
        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
                Ok($name(ByteArray::<$n>::decode(d, ctx)?.into()))
            }
        }
    };
}

byte_id!(
    /// Name of a pack: 128 random bits.
    PackId,
    16
);
byte_id!(
    /// First 16 bytes of the BLAKE3 of a public key (signers and recipients).
    KeyId,
    16
);
byte_id!(
    /// Identifies a session key.
    SessionId,
    16
);
byte_id!(
    /// A keyed digest or chunk id, 32 bytes.
    Digest,
    32
);
byte_id!(
    /// Keyed digest of one page, 16 bytes.
    PageDigest,
    16
);

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(ulid::Ulid);

        impl $name {
            /// From a time in milliseconds since 1970 and 10 random bytes.
            #[must_use]
            pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
                let random = random.iter().fold(0u128, |all, byte| (all << 8) | u128::from(*byte));
                $name(ulid::Ulid::from_parts(unix_ms, random))
            }
            /// From its 128 bits.
            #[must_use]
            pub const fn from_number(bits: u128) -> Self {
                $name(ulid::Ulid(bits))
            }
            /// The 16 bytes of the binary form.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }
            /// Milliseconds since 1970 at which the identifier was made, by its maker's clock.
            #[must_use]
            pub fn unix_ms(self) -> u64 {
                self.0.timestamp_ms()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl FromStr for $name {
            type Err = ulid::DecodeError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // One text for one id: in lower case, or with other bits above its 128, it would be another name of the same object.
                let id = ulid::Ulid::from_string(text)?;
                match id.to_string() == text {
                    true => Ok($name(id)),
                    false => Err(ulid::DecodeError::InvalidChar),
                }
            }
        }
        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                ctx: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                ByteArray::from(self.to_bytes()).encode(e, ctx)
            }
        }
        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
                Ok($name(ulid::Ulid::from_bytes(ByteArray::<16>::decode(d, ctx)?.into())))
            }
        }
    };
}

ulid_id!(
    /// A repository.
    RepositoryId
);
ulid_id!(
    /// One unbroken physical history of a cluster.
    LineageId
);
ulid_id!(
    /// A backup; sorts by the time it began.
    BackupId
);

/// Lower-case hex of any bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of a hex text of exactly `2 * N` digits.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (to, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *to = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}
