//! PostgreSQL's nouns, file formats and replication protocol.
//!
//! The lowest layer: everything above speaks of WAL, timelines, control files and relation pages
//! in the types of this crate. There is no I/O policy here: parsers take bytes and give typed
//! facts or a typed error, and the only socket is the replication connection
//! ([`replication::ReplicationSession`]). Supported servers: major versions 13 to 18, little-endian,
//! 8 KiB blocks.
//!
//! Invariants: nothing that comes from a socket or a file can panic; no module reads the
//! environment, the wall clock or a configuration file (one exception: the files of certificates and
//! the key that [`conninfo::ConnectOptions`] names are read when a connection is made, see [`tls`]).

pub mod backup_manifest;
mod bytes_at;
pub mod catalog;
pub mod collations;
pub mod conninfo;
pub mod control;
pub mod heap;
pub mod identity;
pub mod label;
pub mod lsn;
pub mod page;
pub mod path;
pub mod preflight;
pub mod relation;
pub mod relation_map;
pub mod replication;
pub mod segment;
pub mod standby_names;
pub mod timeline;
pub mod tls;
