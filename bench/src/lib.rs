//! How fast is one part: repeatable, without a network, one question a file in `benches/`.
//!
//! What is compared runs in one process on the same bytes, in turns, with all cores; medians of an odd number of runs are shown. A
//! *bound* is what the stages of a path cost when each is run alone in the same run: nothing that does all of them can be faster.
//! Only [`peers`] and [`components`] measure whole programs, and need a server and those of others.

pub mod components;
pub mod dataset;
pub mod floors;
pub mod measure;
pub mod null_store;
pub mod peers;
pub mod scale;
pub mod server;
pub mod stages;
pub mod summary;
pub mod wal_data;
pub mod wal_stages;
