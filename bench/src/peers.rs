//! Whole programs beside each other: ours, and others' that do the same work, on one real cluster.
//!
//! `benches/peers.rs` has the order of things. Everything here belongs to one throwaway server in one directory: what is started
//! is ended by its id, at the latest when its value is dropped, and the directory goes with the run.

pub mod archiver;
pub mod backlog;
pub mod backup;
pub mod barman;
pub mod base_backup;
pub mod board;
pub mod case;
pub mod database;
pub mod effect;
pub mod files;
pub mod left_out;
pub mod machine;
pub mod orphans;
pub mod ours;
pub mod page;
pub mod pages;
pub mod pgbackrest;
pub mod process;
pub mod program;
pub mod recovery;
pub mod report;
pub mod restores;
pub mod settings;
pub mod slots;
pub mod stream;
pub mod walg;
