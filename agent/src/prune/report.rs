//! What was done, or would be; and what remains.

use serde_json::{Value, json};
use store::prune::{Done, Looked, Plan, Policy, Verdict, bytes_of};

use crate::output;

/// US dollars for a GB and month: S3 Standard, us-east-1, list price.
const DOLLARS_A_GB_AND_MONTH: f64 = 0.023;

/// The report of one place.
pub(super) struct Report {
    json: Value,
    text: String,
}

impl Report {
    /// Of what was planned, and done unless somebody only asked.
    pub(super) fn of(looked: &Looked, plan: &Plan, policy: &Policy, done: Option<Done>) -> Self {
        let sums = Sums::of(plan);
        Report {
            json: json(looked, plan, policy, done, &sums),
            text: text(looked, plan, policy, done, &sums),
        }
    }

    /// Prints it, with those of the copies.
    pub(super) fn print(mut self, copies: &[(&str, Report)], json: bool) -> anyhow::Result<()> {
        if json {
            if !copies.is_empty() {
                let of_copies = copies
                    .iter()
                    .map(|(name, report)| ((*name).to_owned(), report.json.clone()));
                self.json["copies"] = Value::Object(of_copies.collect());
            }
            return output::print_json(&self.json);
        }
        print!("{}", self.text);
        for (name, report) in copies {
            print!("\nCopy \"{name}\":\n{}", report.text);
        }
        Ok(())
    }
}

/// Bytes, and what they cost.
struct Sums {
    now: u64,
    later: u64,
    remain: u64,
    dollars: f64,
}

impl Sums {
    fn of(plan: &Plan) -> Self {
        let tails: u64 = plan.tails.iter().map(|(tail, _)| tail.bytes).sum();
        let now = bytes_of(&plan.packs) + bytes_of(&plan.wal) + bytes_of(&plan.leftovers) + tails;
        let later = bytes_of(&plan.waiting) + bytes_of(&plan.wal_waiting);
        let remain = plan.bytes.saturating_sub(now).saturating_sub(later);
        Sums {
            now,
            later,
            remain,
            dollars: remain as f64 / 1e9 * DOLLARS_A_GB_AND_MONTH,
        }
    }
}

fn json(looked: &Looked, plan: &Plan, policy: &Policy, done: Option<Done>, sums: &Sums) -> Value {
    json!({
        "dry_run": done.is_none(),
        "backups": plan.verdicts.iter().zip(&looked.backups).map(|(verdict, seen)| json!({
            "backup": verdict.id.to_string(),
            "component": seen.component,
            "kept": !plan.retire.contains(&verdict.id),
            "reasons": verdict.kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "late": verdict.is_late,
        })).collect::<Vec<_>>(),
        "delete": {
            "packs": plan.packs.len(),
            "wal": plan.wal.len() + plan.tails.len(),
            "leftovers": plan.leftovers.len(),
            "bytes": sums.now,
        },
        "waiting": { "packs": plan.waiting.len(), "wal": plan.wal_waiting.len(), "bytes": sums.later },
        "retire": plan.retire.len(),
        "locked": done.map(|done| done.locked),
        "deleted_objects": done.map(|done| done.objects),
        "stored_bytes": plan.bytes,
        "remaining_bytes": sums.remain,
        "dollars_a_month": sums.dollars,
        "grace_seconds": policy.grace.as_secs(),
    })
}

fn text(looked: &Looked, plan: &Plan, policy: &Policy, done: Option<Done>, sums: &Sums) -> String {
    let mut table = output::table(&["backup", "of", "stored", "logical", "", "why"]);
    for (verdict, seen) in plan.verdicts.iter().zip(&looked.backups) {
        table.add_row([
            verdict.id.to_string(),
            seen.component.clone().unwrap_or_else(|| "the cluster".into()),
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
    let (deleted, given_up) = match done {
        None => ("Would be deleted now", "would be given up"),
        Some(_) => ("Deleted", "given up"),
    };
    let mut lines = vec![
        table.to_string(),
        format!(
            "{deleted}: {} packs, {} WAL objects and tails, {} leftovers of backups: {}. {} backups {given_up}.",
            plan.packs.len(),
            plan.wal.len() + plan.tails.len(),
            plan.leftovers.len(),
            output::bytes(sums.now),
            plan.retire.len(),
        ),
        format!(
            "Waiting for the end of the grace of {:?}: {} packs, {} WAL objects: {}.",
            policy.grace,
            plan.waiting.len(),
            plan.wal_waiting.len(),
            output::bytes(sums.later),
        ),
        format!(
            "In the end {} of {} remain: {:.2} $ a month at {DOLLARS_A_GB_AND_MONTH} $ a GB.",
            output::bytes(sums.remain),
            output::bytes(plan.bytes),
            sums.dollars,
        ),
    ];
    match done {
        None => lines.push("Nothing was changed.".into()),
        Some(done) => {
            if done.locked > 0 {
                let locked = done.locked;
                lines.push(format!(
                    "Of these, {locked} objects are locked and stay: a run after their lock has ended deletes them."
                ));
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn why(verdict: &Verdict) -> String {
    let reasons = verdict.kept.iter().map(ToString::to_string);
    let late = verdict
        .is_late
        .then(|| "was stored too late: it cannot be relied on".to_owned());
    reasons.chain(late).collect::<Vec<_>>().join(", ")
}
