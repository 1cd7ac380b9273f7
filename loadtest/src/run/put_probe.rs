//! How long the store takes for one object, measured in the same run: what the lag is held against.
//!
//! At an S3 store its own log of requests says it. In a directory it is a durable file of the size of a tail, made beside the repository.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::tests::wait::Pace;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(200);
const FILE_BYTES: usize = 256 << 10;
/// Longer counts as a minute.
const MAX_US: u64 = 60_000_000;

/// Times in microseconds.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, MAX_US, 3)?)
}

/// A task that makes files.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Histogram<u64>>>,
}

impl Probe {
    /// In this directory, which exists.
    pub(crate) fn start(directory: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut times = histogram()?;
            let mut pace = Pace::every(EVERY);
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                let place = directory.clone();
                let took = tokio::task::spawn_blocking(move || durable_file(&place)).await??;
                let us = u64::try_from(took.as_micros()).unwrap_or(MAX_US);
                times.saturating_record(us.clamp(1, MAX_US));
            }
            Ok(times)
        });
        Self { stop, task }
    }

    pub(crate) async fn finish(self) -> Result<Histogram<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the probe panicked")?
    }
}

/// Written aside, flushed, named, and the directory flushed: what a durable object in a directory costs.
fn durable_file(directory: &Path) -> Result<Duration> {
    let (aside, name) = (directory.join("probe.new"), directory.join("probe"));
    let begun = Instant::now();
    let mut file = File::create(&aside)?;
    file.write_all(&vec![0x5E; FILE_BYTES])?;
    file.sync_all()?;
    fs::rename(&aside, &name)?;
    File::open(directory)?.sync_all()?;
    Ok(begun.elapsed())
}
