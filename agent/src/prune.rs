//! `wal-agent prune`: the keeper gives up what `[retention]` does not keep, and deletes what nobody needs any more.

mod report;

use std::sync::Arc;
use std::time::Instant;

use config::Retention;
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroU32;
use store::prune::{Looked, Policy, carry_out, mark_time, plan};
use store::repository::Writer;
use store::retention::Rules;

use crate::cli::PruneOptions;
use crate::exit::Failure;
use crate::open::{Context, backup_policy, host_name};
use crate::output;

/// Runs the command.
pub async fn run(context: &Context, options: &PruneOptions) -> anyhow::Result<()> {
    let since = Instant::now();
    let policy = policy(&context.cluster.retention);
    refuse_short_grace(context, &policy)?;
    let (repository, signing) = context.keeper(backup_policy()).await?;
    let writer = Writer::new(Arc::clone(&repository), Arc::new(signing), 0);
    let (host, now_us) = (host_name(), output::now_us());
    // Whoever only asks changes nothing, and may have no right to.
    let marked = match options.dry_run {
        true => None,
        false => Some(mark_time(&writer, &host, now_us).await?),
    };
    let now_ms = marked.as_ref().map_or(now_us / 1000, |(_, now_ms)| *now_ms);
    let looked = Looked::look(&repository, now_ms, policy.times().grace_ms).await?;
    let plan = plan(&looked, &policy, &host, now_us)?;
    let done = match marked {
        None => None,
        Some((mark, _)) => {
            let bar = bar(&plan, options.json);
            let done = carry_out(&writer, &looked, &plan, &policy, &|| since.elapsed(), |_| bar.inc(1)).await?;
            bar.finish_and_clear();
            repository
                .store()
                .delete(&mark)
                .await
                .map_err(store::StoreError::from)?;
            Some(done)
        }
    };
    report::print(&looked, &plan, &policy, done, options.json)
}

fn policy(retention: &Retention) -> Policy {
    let count = |count: Option<u32>| count.and_then(NonZeroU32::new);
    Policy {
        rules: Rules {
            keep_within: retention.keep_within,
            keep_last: count(retention.keep_last),
            keep_daily: count(retention.keep_daily),
            keep_weekly: count(retention.keep_weekly),
            keep_monthly: count(retention.keep_monthly),
            keep_yearly: count(retention.keep_yearly),
            window: retention.window,
        },
        grace: retention.grace,
    }
}

/// What protects a running backup is the grace: a backup that may take longer could lose packs that it refers to.
fn refuse_short_grace(context: &Context, policy: &Policy) -> anyhow::Result<()> {
    let longest = context.cluster.backup.duration_max;
    if longest <= policy.duration_max() {
        return Ok(());
    }
    Err(Failure {
        code: crate::exit::USAGE,
        message: format!("a backup may take {longest:?}, and retention.grace of {:?} protects it for {:?} only", policy.grace, policy.duration_max()),
        hint: Some("Raise retention.grace to four thirds of backup.duration_max at least, or lower backup.duration_max on all hosts.".into()),
    }
    .into())
}

fn bar(plan: &store::prune::Plan, json: bool) -> ProgressBar {
    let objects = plan.packs.len() + plan.wal.len() + plan.tails.len() + plan.leftovers.len();
    if json || objects < 100 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(objects as u64);
    let style = ProgressStyle::with_template("deleting {bar:30} {pos}/{len} objects, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
