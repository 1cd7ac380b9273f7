//! Components beside restic: what is captured, what changes in it, and who captures it.

pub mod install;
pub mod sources;
pub mod tree;

pub use install::{Ours, Restic};
