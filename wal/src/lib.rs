//! WAL as Seawall handles it: received, shipped, fetched back and scanned.
//!
//! [`page`], [`record`], [`commit`] and [`reader`] read the format without any I/O: bytes in, records out, every
//! page header and every record checksum verified.

pub mod commit;
pub mod page;
pub mod reader;
pub mod record;
