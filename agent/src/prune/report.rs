//! What was done, or would be; and what remains.

use serde_json::json;
use store::prune::{Done, Looked, Plan, Policy, Verdict, bytes_of};

use crate::output;

/// US dollars for a GB and month: S3 Standard, us-east-1, list price.
const DOLLARS_A_GB_AND_MONTH: f64 = 0.023;

/// Prints the report.
pub(super) fn print(
    looked: &Looked,
    plan: &Plan,
    policy: &Policy,
    done: Option<Done>,
    json: bool,
) -> anyhow::Result<()> {
    let tails: u64 = plan.tails.iter().map(|(tail, _)| tail.bytes).sum();
    let now = bytes_of(&plan.packs) + bytes_of(&plan.wal) + bytes_of(&plan.leftovers) + tails;
    let later = bytes_of(&plan.waiting) + bytes_of(&plan.wal_waiting);
    let remain = plan.bytes.saturating_sub(now).saturating_sub(later);
    let dollars = remain as f64 / 1e9 * DOLLARS_A_GB_AND_MONTH;
    if json {
        return output::print_json(&json!({
            "dry_run": done.is_none(),
            "backups": plan.verdicts.iter().map(|verdict| json!({
                "backup": verdict.id.to_string(),
                "kept": !plan.retire.contains(&verdict.id),
                "reasons": verdict.kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "late": verdict.is_late,
            })).collect::<Vec<_>>(),
            "delete": {
                "packs": plan.packs.len(),
                "wal": plan.wal.len() + plan.tails.len(),
                "leftovers": plan.leftovers.len(),
                "bytes": now,
            },
            "waiting": { "packs": plan.waiting.len(), "wal": plan.wal_waiting.len(), "bytes": later },
            "retire": plan.retire.len(),
            "postponed": done.map(|done| done.postponed),
            "deleted_objects": done.map(|done| done.objects),
            "stored_bytes": plan.bytes,
            "remaining_bytes": remain,
            "dollars_a_month": dollars,
            "grace_seconds": policy.grace.as_secs(),
        }));
    }
    let mut table = output::table(&["backup", "stored", "logical", "", "why"]);
    for (verdict, seen) in plan.verdicts.iter().zip(&looked.backups) {
        table.add_row([
            verdict.id.to_string(),
            output::time_us(seen.stored_ms.saturating_mul(1000)),
            output::bytes(seen.logical_bytes),
            if plan.retire.contains(&verdict.id) {
                "goes".into()
            } else {
                "stays".to_owned()
            },
            why(verdict),
        ]);
    }
    println!("{table}");
    let (deleted, given_up) = match done {
        None => ("Would be deleted now", "would be given up"),
        Some(_) => ("Deleted", "given up"),
    };
    println!(
        "{deleted}: {} packs, {} WAL objects and tails, {} leftovers of backups: {}. {} backups {given_up}.",
        plan.packs.len(),
        plan.wal.len() + plan.tails.len(),
        plan.leftovers.len(),
        output::bytes(now),
        plan.retire.len(),
    );
    println!(
        "Waiting for the end of the grace of {:?}: {} packs, {} WAL objects: {}.",
        policy.grace,
        plan.waiting.len(),
        plan.wal_waiting.len(),
        output::bytes(later),
    );
    println!(
        "In the end {} of {} remain: {dollars:.2} $ a month at {DOLLARS_A_GB_AND_MONTH} $ a GB.",
        output::bytes(remain),
        output::bytes(plan.bytes),
    );
    match done {
        None => println!("Nothing was changed."),
        Some(done) if done.postponed > 0 => {
            println!(
                "{} backups are given up by the next run: this one took too long.",
                done.postponed
            );
        }
        Some(_) => {}
    }
    Ok(())
}

fn why(verdict: &Verdict) -> String {
    let reasons = verdict.kept.iter().map(ToString::to_string);
    let late = verdict
        .is_late
        .then(|| "was stored too late: it cannot be relied on".to_owned());
    reasons.chain(late).collect::<Vec<_>>().join(", ")
}
