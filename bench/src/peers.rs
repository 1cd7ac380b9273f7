//! Whole programs beside each other: ours, and others' that do the same work, on one real cluster.
//!
//! `benches/peers.rs` has the order of things. Everything here belongs to one throwaway server in one directory: what is started
//! is ended by its id, at the latest when its value is dropped, and the directory goes with the run.

pub mod backup;
pub mod database;
pub mod effect;
pub mod files;
pub mod ours;
pub mod pages;
pub mod process;
pub mod report;
pub mod restores;
pub mod settings;
pub mod theirs;
