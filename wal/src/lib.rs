//! WAL as Seawall handles it: received, shipped, fetched back and scanned.
//!
//! [`lane`] is the list of steps from connect to disconnect. On its way WAL passes [`receive`] (one streaming session),
//! [`assemble`] (bytes into ranges), [`ship`] (ranges into objects), [`progress`] (what may be confirmed), [`lag`] (how long it
//! took). [`lineage`] asks on every connect whether the server is still the one we archive.
//!
//! [`page`], [`record`], [`commit`] and [`reader`] read the format without any I/O: bytes in, records out, every
//! page header and every record checksum verified. [`block`], [`heap`] and [`xact_end`] take whole records further apart.

pub mod assemble;
pub mod block;
pub mod commit;
pub mod heap;
pub mod lag;
pub mod lane;
pub mod lineage;
pub mod page;
pub mod progress;
pub mod reader;
pub mod receive;
pub mod record;
pub mod segment_file;
pub mod ship;
mod unconfirmed;
pub mod xact_end;
