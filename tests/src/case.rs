//! The frame around one test: runtime, scratch directory, deadline, and the report when it fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::scratch::{Scratch, keep};
use crate::seed::seed;

/// No test may hang a run. Generous, because the machine may be slow and shared.
const CASE_DEADLINE: Duration = Duration::from_secs(600);

/// Runs one test. A failure prints the seed and the ends of all logs in the scratch directory.
pub fn case(name: &str, body: impl AsyncFnOnce(Scratch) -> Result<()>) {
    case_for(name, CASE_DEADLINE, body);
}

/// As [`case`], for one that may take another time.
pub fn case_for(name: &str, deadline: Duration, body: impl AsyncFnOnce(Scratch) -> Result<()>) {
    let scratch = Scratch::create().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let body = Box::pin(body(scratch.clone()));
        runtime.block_on(async {
            tokio::time::timeout(deadline, body)
                .await
                .with_context(|| format!("not over after {deadline:.0?}"))?
        })
    }));
    if matches!(ended, Ok(Ok(()))) {
        return;
    }
    eprintln!("{}", scratch.log_tails());
    eprintln!("test {name} failed; run it again with SEAWALL_SEED={}", seed());
    if !keep() {
        eprintln!("SEAWALL_KEEP=1 keeps its directory");
    }
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:#}"),
        Err(panic) => resume_unwind(panic),
    }
}
