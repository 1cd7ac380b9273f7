//! What lies behind each byte of an RDB file that says what comes: enough to step over it.
//!
//! Sources: the RDB file format at rdb.fnordig.de, and the headers and loaders of the servers (`rdb.h`, `rdb.c` of Redis 6.0 to 8.0 and of
//! Valkey 8 and 9), which are the only complete description of the newer types.

/// One thing in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many bytes.
    Bytes(u64),
    /// A number in the encoding of lengths.
    Number,
    /// A string: its length and its bytes, a small integer, or compressed (LZF).
    Text,
    /// A string that may be worth keeping.
    AuxName,
    /// The string behind it.
    AuxValue,
    /// A floating point number as text, before RDB 8: one byte of length, of which three are values of their own.
    TextDouble,
    /// A number, and so many times the parts.
    Times(&'static [Part]),
    /// A number that selects the database.
    SelectDatabase,
    /// What a module wrote: opcodes with values, up to a zero.
    ModuleParts,
}

use Part::{AuxName, AuxValue, Bytes, ModuleParts, Number, SelectDatabase, Text, TextDouble, Times};

/// Who wrote the file: the same numbers mean other things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Magic `REDIS`: all of Redis, and Valkey before 9.
    #[default]
    Redis,
    /// Magic `VALKEY`: Valkey from 9 on.
    Valkey,
}

/// End of the file; the checksum follows.
pub const END: u8 = 255;
/// Expiry of the next key, in milliseconds.
pub const EXPIRES_MS: u8 = 252;
/// The same in seconds.
pub const EXPIRES: u8 = 253;
/// A library of functions.
pub const FUNCTION: u8 = 245;

/// What lies behind an opcode that is no key; none: not known.
pub const fn opcode(family: Family, byte: u8) -> Option<&'static [Part]> {
    match (family, byte) {
        // Job and slot ranges of a migration that is under way (Valkey 9, cluster_migrateslots.c).
        (Family::Valkey, 243) => Some(&[Text, Times(&[Number, Number])]),
        // Slot, its keys, its keys with expiry.
        (_, 244) => Some(&[Number, Number, Number]),
        (_, FUNCTION) => Some(&[Text]),
        // Module, opcode of the next, before or behind the keys.
        (_, 247) => Some(&[Number, Number, Number, ModuleParts]),
        // Idle time (LRU), frequency (LFU).
        (_, 248) => Some(&[Number]),
        (_, 249) => Some(&[Bytes(1)]),
        (_, 250) => Some(&[AuxName, AuxValue]),
        // Sizes of the tables of keys and of expiries.
        (_, 251) => Some(&[Number, Number]),
        (_, EXPIRES_MS) => Some(&[Bytes(8)]),
        (_, EXPIRES) => Some(&[Bytes(4)]),
        (_, 254) => Some(&[SelectDatabase]),
        _ => None,
    }
}

/// A stream's consumer: name, times when it was seen, its pending entries. From type 21 on with a second time.
const CONSUMER: &[Part] = &[Text, Bytes(8), Times(&[Bytes(16)])];
const CONSUMER_3: &[Part] = &[Text, Bytes(8), Bytes(8), Times(&[Bytes(16)])];
/// A pending entry: id, time of delivery, deliveries.
const PENDING: &[Part] = &[Bytes(16), Bytes(8), Number];

/// What a key's value is made of; none: not known.
pub const fn value(family: Family, byte: u8) -> Option<&'static [Part]> {
    match (family, byte) {
        // Strings, and all that is packed into one: zipmap, ziplist, intset, listpack.
        (_, 0 | 9..=13 | 16 | 17 | 20) => Some(&[Text]),
        // Lists and sets.
        (_, 1 | 2 | 14) => Some(&[Times(&[Text])]),
        // Sorted sets, with scores as text and as eight bytes.
        (_, 3) => Some(&[Times(&[Text, TextDouble])]),
        (_, 5) => Some(&[Times(&[Text, Bytes(8)])]),
        // Hashes.
        (_, 4) => Some(&[Times(&[Text, Text])]),
        // A module's value.
        (_, 7) => Some(&[Number, ModuleParts]),
        // Lists: how the next piece is packed, the piece.
        (_, 18) => Some(&[Times(&[Number, Text])]),
        // Streams: pieces; entries and last id; groups. Then with first id, deleted id, entries ever added.
        (_, 15) => Some(&[
            Times(&[Text, Text]),
            Number,
            Number,
            Number,
            Times(&[Text, Number, Number, Times(PENDING), Times(CONSUMER)]),
        ]),
        (_, 19) => Some(&[
            Times(&[Text, Text]),
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Times(&[Text, Number, Number, Number, Times(PENDING), Times(CONSUMER)]),
        ]),
        (_, 21) => Some(&[
            Times(&[Text, Text]),
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Times(&[Text, Number, Number, Number, Times(PENDING), Times(CONSUMER_3)]),
        ]),
        // Hashes whose fields expire. Valkey: field, value, time.
        (Family::Valkey, 22) => Some(&[Times(&[Text, Text, Bytes(8)])]),
        // Redis, before and since 7.4 was released: time, field, value; the smallest time before all.
        (Family::Redis, 22) => Some(&[Times(&[Number, Text, Text])]),
        (Family::Redis, 23) => Some(&[Text]),
        (Family::Redis, 24) => Some(&[Bytes(8), Times(&[Number, Text, Text])]),
        (Family::Redis, 25) => Some(&[Bytes(8), Text]),
        _ => None,
    }
}

/// What follows an opcode of a module's value; none: not known. Zero ends it.
pub const fn module_value(opcode: u64) -> Option<&'static [Part]> {
    match opcode {
        0 => Some(&[]),
        // Signed and unsigned.
        1 | 2 => Some(&[Number, ModuleParts]),
        // Float and double.
        3 => Some(&[Bytes(4), ModuleParts]),
        4 => Some(&[Bytes(8), ModuleParts]),
        5 => Some(&[Text, ModuleParts]),
        _ => None,
    }
}
