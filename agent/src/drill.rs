//! `wal-agent drill`: a rehearsal. Restores the cluster into a directory of its own with the host's PostgreSQL, opens it to nobody, reads and
//! proves everything, measures how long that took, and removes it again. What it showed is kept: in the repository (a proof, signed by who
//! may restore, and an event), and on this host for `status`, metrics and the estimate of the time to restore.
//!
//! A crash leaves a directory that the next drill removes, and a server in it that the next drill ends.

mod estimate;
mod place;
mod record;
mod restore;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

pub use estimate::rto_s;
pub use record::{Drilled, last};

use crate::cli::DrillOptions;
use crate::exit::{DAMAGED, FAILURE, Failure};
use crate::open::Context;
use crate::output;
use place::Place;

/// Runs the command.
pub async fn run(context: &Context, options: &DrillOptions) -> anyhow::Result<()> {
    let drill = &context.cluster.drill;
    let target = restore::choose(context, options.target.as_deref()).await?;
    let place = Place::look(context, &target)?;
    if options.dry_run {
        println!("{}", place.describe(&target));
        return Ok(());
    }
    let _alone = place.alone(context)?;
    place.refuse_no_room(&target)?;
    place.clear().await?;
    if drill.nice > 0 {
        let _ = rustix::process::setpriority_process(None, drill.nice);
    }
    let began_us = output::now_us();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Dropping it ends wal-restore; the server is ended with the directory.
    let outcome = tokio::select! {
        outcome = restore::run(context, &place, &target) => outcome,
        () = tokio::time::sleep(drill.timeout) => Err(late(drill.timeout)),
        _ = terminate.recv() => return stopped(&place).await,
        _ = interrupt.recv() => return stopped(&place).await,
    };
    let drilled = Drilled::of(began_us, &target, &outcome);
    record::keep(context, &drilled).await;
    match options.keep {
        true => println!("What was restored is kept in \"{}\".", place.root().display()),
        false => place.clear().await?,
    }
    if options.json {
        output::print_json(&serde_json::to_value(&drilled)?)?;
    } else {
        println!("{drilled}");
    }
    outcome.map(drop)
}

/// Somebody wants it to end: that shows nothing of restores.
async fn stopped(place: &Place) -> anyhow::Result<()> {
    place.clear().await?;
    Err(Failure {
        code: FAILURE,
        message: "the drill was stopped before it was over".into(),
        hint: None,
    }
    .into())
}

fn late(after: Duration) -> anyhow::Error {
    Failure {
        code: DAMAGED,
        message: format!("the drill was not over after {} s", after.as_secs()),
        hint: Some(
            "A restore would take longer than that, too. Raise [cluster.<name>.drill] timeout if that is meant.".into(),
        ),
    }
    .into()
}
