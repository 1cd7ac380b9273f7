//! `wal-agent prune`: the keeper gives up what `[retention]` does not keep, and deletes what nobody needs any more.

mod report;

use std::collections::BTreeSet;
use std::sync::Arc;

use config::Retention;
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroU32;
use store::id::BackupId;
use store::prune::{Looked, Policy, carry_out, mark_time, plan};
use store::repository::{Repository, Writer};
use store::retention::Rules;

use crate::cli::PruneOptions;
use crate::exit::Failure;
use crate::open::{Context, backup_policy, host_name};
use crate::{component, output};
use report::Report;

/// More than this between the store's clock and ours: one of them is wrong.
const CLOCKS_APART_MAX_MS: i64 = 3_600_000;

/// Runs the command: in the repository, then in each of its copies, by the times of each.
pub async fn run(context: &Context, options: &PruneOptions) -> anyhow::Result<()> {
    let (report, pinned) = one(context, options, None).await?;
    let mut copies = Vec::new();
    let mut failed = None;
    for name in context.config.copies.keys() {
        let pruned = Box::pin(one(&context.at_copy(name)?, options, Some(&pinned))).await;
        match pruned {
            Ok((report, _)) => copies.push((name.as_str(), report)),
            Err(error) => {
                tracing::error!(copy = %name, error = %crate::exit::describe(&error), "the copy was not pruned");
                failed.get_or_insert(error);
            }
        }
    }
    report.print(&copies, options.json)?;
    failed.map_or(Ok(()), Err)
}

/// One place. A copy has the pins of the repository, whether they have come there yet or not.
async fn one(
    context: &Context,
    options: &PruneOptions,
    pinned: Option<&BTreeSet<BackupId>>,
) -> anyhow::Result<(Report, BTreeSet<BackupId>)> {
    let policy = Policy {
        is_copy: pinned.is_some() || context.is_copy,
        components: component::of_cluster(context)
            .into_iter()
            .map(|component| (component.name.clone(), rules(&component.retention)))
            .collect(),
        ..policy(&context.cluster.retention)
    };
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
    refuse_doubtful(&repository, now_ms, now_us)?;
    let mut looked = Looked::look(&repository, now_ms, policy.times().grace_ms).await?;
    looked.pinned.extend(pinned.into_iter().flatten());
    let plan = plan(&looked, &policy, &host, now_us)?;
    let done = match marked {
        None => None,
        Some((mark, _)) => {
            let bar = bar(&plan, options.json);
            let done = carry_out(&writer, &looked, &plan, |_| bar.inc(1)).await?;
            bar.finish_and_clear();
            repository
                .store()
                .delete(&mark)
                .await
                .map_err(store::StoreError::from)?;
            Some(done)
        }
    };
    Ok((Report::of(&looked, &plan, &policy, done), looked.pinned))
}

/// Times and keys that cannot be believed: then nothing may be deleted.
fn refuse_doubtful(repository: &Repository, now_ms: i64, now_us: i64) -> anyhow::Result<()> {
    if repository.is_trust_in_doubt() {
        return Err(Failure::refused(
            "something at keys/ cannot be read or is not signed by the root key: there may be hosts that are not known here",
            "`wal-agent verify` names it. Remove what was planted; bring back what is damaged from a copy.",
        )
        .into());
    }
    let apart_ms = now_ms.saturating_sub(now_us / 1000).saturating_abs();
    if apart_ms <= CLOCKS_APART_MAX_MS {
        return Ok(());
    }
    Err(Failure::refused(
        format!("the clock of the repository's store and ours are {} s apart", apart_ms / 1000),
        "Set the wrong one right. By a store's clock that has jumped, what was written down just now would seem old, and be deleted.",
    )
    .into())
}

fn policy(retention: &Retention) -> Policy {
    Policy {
        rules: rules(retention),
        components: std::collections::BTreeMap::new(),
        grace: retention.grace,
        is_copy: false,
    }
}

/// Of the cluster, or of a component.
fn rules(retention: &Retention) -> Rules {
    let count = |count: Option<u32>| count.and_then(NonZeroU32::new);
    Rules {
        keep_within: retention.keep_within,
        keep_last: count(retention.keep_last),
        keep_daily: count(retention.keep_daily),
        keep_weekly: count(retention.keep_weekly),
        keep_monthly: count(retention.keep_monthly),
        keep_yearly: count(retention.keep_yearly),
        window: retention.window,
    }
}

/// What protects a running backup is the grace: a backup that may take longer could lose packs that it refers to.
fn refuse_short_grace(context: &Context, policy: &Policy) -> anyhow::Result<()> {
    let of_components = component::of_cluster(context).into_iter();
    let longest = of_components
        .map(|component| component.duration_max)
        .fold(context.cluster.backup.duration_max, std::time::Duration::max);
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
