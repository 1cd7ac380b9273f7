//! Harness of the end-to-end tests: real PostgreSQL, a real S3 server, the real binaries.
//!
//! A test is a plain function that calls [`case`]:
//!
//! ```text
//! #[test]
//! fn rows_survive_a_crash() {
//!     tests::case("rows_survive_a_crash", async |scratch| {
//!         let cluster = Cluster::builder(15).create(&scratch, "main").await?;
//!         ...
//!         Ok(())
//!     });
//! }
//! ```
//!
//! Nothing here sleeps: [`wait::wait_until`] is the one place where time passes. Everything random
//! comes from [`seed`]. What is started is ended by its process id when its value is dropped, so a
//! test that panics leaves neither server nor directory; `SEAWALL_KEEP=1` keeps the directories.
//!
//! Start with `make setup`, which installs the servers that [`install`] finds.

// A test library: to stop with a message is what it is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod address;
pub mod archiver;
pub mod between;
pub mod case;
pub mod caught_backup;
pub mod certificates;
pub mod child;
pub mod cluster;
pub mod config_file;
pub mod create_only;
pub mod fault_s3;
pub mod install;
pub mod judge;
pub mod kill_loop;
pub mod oracle;
pub mod pgbench;
pub mod ports;
pub mod program;
pub mod rclone;
pub mod receiver;
pub mod redis;
pub mod s3_client;
pub mod s3_server;
pub mod scratch;
pub mod seawall;
pub mod secured;
pub mod seed;
pub mod shop;
pub mod stored_wal;
pub mod tmpfs;
pub mod tree;
pub mod user;
pub mod wait;
pub mod weed;

pub use address::Address;
pub use between::Between;
pub use case::case;
pub use certificates::Certificates;
pub use child::Child;
pub use cluster::{Cluster, StopMode};
pub use config_file::ConfigFile;
pub use fault_s3::FaultS3;
pub use oracle::Oracle;
pub use program::Program;
pub use s3_server::S3Server;
pub use scratch::Scratch;
pub use seawall::Seawall;
pub use secured::Secured;
pub use tmpfs::Tmpfs;
pub use wait::wait_until;
pub use weed::Weed;
