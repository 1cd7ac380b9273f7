//! You will know within five minutes when protection stops: failures are injected at default settings, each is told to whoever is named, with
//! the right words, and shown by `/metrics`, `/readyz` and `status`; when it is mended, that is told too.
//!
//! The stages run beside each other, each with a server, a repository and an agent of its own: most of their time they wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod alarms {
    pub mod host;
    pub mod repository;
    pub mod schedule;
    pub mod server;
    pub mod stage;
    pub mod wal;
}

use std::time::Duration;

use alarms::{host, repository, schedule, server, wal};
use anyhow::Result;
use tests::Scratch;
use tests::case::case_for;

/// For one stage.
const STAGE_MAX: Duration = Duration::from_secs(1200);

type Body = fn(Scratch) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>>;

#[test]
fn each_failure_is_told_within_five_minutes_and_so_is_its_end() {
    let stages: [(&str, Body); 9] = [
        ("server", |scratch| Box::pin(server::is_away_or_full(scratch))),
        ("settings", |scratch| Box::pin(server::has_changed(scratch))),
        ("pages", |scratch| Box::pin(server::has_corrupt_pages(scratch))),
        ("repository", |scratch| Box::pin(repository::is_away_or_spoilt(scratch))),
        ("copy", |scratch| Box::pin(repository::waits_for_nobody(scratch))),
        ("disk", |scratch| Box::pin(host::runs_full(scratch))),
        ("host", |scratch| Box::pin(host::loses_what_it_needs(scratch))),
        ("schedule", |scratch| Box::pin(schedule::fails(scratch))),
        ("wal", |scratch| Box::pin(wal::is_lost_and_taken_over(scratch))),
    ];
    let results: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = stages
            .iter()
            .map(|(name, body)| (*name, scope.spawn(move || case_for(name, STAGE_MAX, *body))))
            .collect();
        running
            .into_iter()
            .map(|(name, stage)| (name, stage.join().is_ok()))
            .collect()
    });
    let failed: Vec<_> = results.iter().filter(|(_, fine)| !fine).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
