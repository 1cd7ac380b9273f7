//! The repository: chunks, packs, index, manifests, keys, object stores. The format lives here; `docs/FORMAT.md` is normative.
//!
//! Writing, top to bottom: `pipeline` turns files into chunks → `pack` → `repository` puts packs, index and manifest in that
//! order (law 1) through `object`. Reading: `catalog` says what there is, `repository` reads it back, checked at every step.
//!
//! No module here reads the environment, the command line or the wall clock: times come in as arguments.

pub mod buffer;
pub mod catalog;
pub mod chunk;
pub mod codec;
pub mod component;
pub mod copy;
pub mod crash;
pub mod durable;
pub mod entropy;
pub mod envelope;
mod error;
pub mod file_table;
pub mod frame;
pub mod id;
pub mod index;
pub mod inventory;
pub mod keys;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod object;
pub mod pack;
pub mod page_map;
pub mod pipeline;
pub mod prune;
pub mod records;
pub mod repair;
pub mod repository;
pub mod retention;
pub mod retry;
pub mod seal;
pub mod session;
pub mod sweep;
pub mod testing;
pub mod verify;
pub mod wal_object;

pub use error::StoreError;
