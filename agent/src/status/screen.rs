//! One screen for a person: what is wrong, what would be lost now, what can be restored, what comes next.

use std::fmt::Write as _;

use super::look::View;
use super::state::DaemonState;
use crate::health::Severity;
use crate::open::Context;
use crate::output;

/// Colours of ECMA-48 (SGR).
#[derive(Clone, Copy)]
enum Colour {
    Red,
    Yellow,
    Green,
}

struct Painter(bool);

impl Painter {
    fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Red => 31,
            Colour::Yellow => 33,
            Colour::Green => 32,
        };
        match self.0 {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// The screen.
pub fn draw(context: &Context, view: &View, coloured: bool) -> String {
    let painter = Painter(coloured);
    let state = view.state.clone().unwrap_or_default();
    let mut rows: Vec<(&str, String)> = vec![
        ("cluster", context.cluster.name.clone()),
        ("agent", agent(view, &state, &painter)),
        ("lost if the host dies now", lost(context, view, &state, &painter)),
    ];
    if view.state.is_some() {
        rows.extend(stream(&state));
    }
    rows.push(("slot", slot(context, view)));
    if let Some(archiver) = &view.archiver {
        rows.push(("archive_command", archiver.to_string()));
    }
    rows.extend(repository(view));
    if let Some(running) = &view.backup {
        rows.push(("backup now", running.to_string()));
    }
    for copy in &view.copies {
        rows.push(("place", format!("\"{}\" {}", copy.name, copy.standing)));
    }
    for (name, newest_us) in &view.components {
        let newest = newest_us.map_or_else(
            || painter.paint(Colour::Yellow, &format!("no backup yet: `wal-agent backup {name}`")),
            |at_us| format!("newest backup {}", output::time_us(at_us)),
        );
        rows.push(("component", format!("{name}: {newest}")));
    }
    let now_us = output::now_us();
    for job in &state.jobs {
        let due = job
            .due_us
            .map_or_else(|| "never".to_owned(), |due_us| in_time(due_us - now_us));
        let last = match (job.started_us, job.ended_us) {
            (None, _) => "not run yet".to_owned(),
            (Some(started), ended) if ended < Some(started) => format!("runs since {}", output::time_us(started)),
            (Some(started), _) if job.error.is_some() => {
                painter.paint(Colour::Red, &format!("FAILED at {}", output::time_us(started)))
            }
            (Some(started), _) => format!("last at {}", output::time_us(started)),
        };
        rows.push(("on schedule", format!("{}: next {due}, {last}", job.name)));
    }
    let mut text = String::new();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text.push_str(&problems(view, &state, &painter));
    text
}

fn agent(view: &View, state: &DaemonState, painter: &Painter) -> String {
    match (view.is_running, state.streaming) {
        (true, true) => painter.paint(Colour::Green, "streaming"),
        (true, false) => painter.paint(Colour::Red, "not connected"),
        (false, _) => painter.paint(Colour::Red, "not running"),
    }
}

fn lost(context: &Context, view: &View, state: &DaemonState, painter: &Painter) -> String {
    if !view.is_running && view.archiver.is_some() {
        return "not measured: what archive_command has not pushed yet, at most archive_timeout if that is set"
            .to_owned();
    }
    if !view.is_running {
        return painter.paint(
            Colour::Red,
            "unknown: no agent runs; every commit since it stopped is unprotected",
        );
    }
    if !state.streaming {
        let since = match state.contact_us {
            0 => "the agent started".to_owned(),
            contact_us => output::time_us(contact_us),
        };
        return painter.paint(
            Colour::Red,
            &format!("unknown: every commit since {since} is unprotected"),
        );
    }
    if state.rpo_ms == 0 {
        return painter.paint(Colour::Green, "nothing: every commit is archived");
    }
    let since = output::time_us(output::now_us() - i64::try_from(state.rpo_ms).unwrap_or(0) * 1000);
    let text = format!(
        "{:.1} s of commits, since {since} ({} of WAL); RPO {} ms",
        state.rpo_ms as f64 / 1e3,
        output::bytes(state.unarchived_bytes),
        state.rpo_ms
    );
    match u128::from(state.rpo_ms) > context.cluster.objectives.rpo.as_millis() {
        true => painter.paint(Colour::Red, &text),
        false => text,
    }
}

fn stream(state: &DaemonState) -> Vec<(&'static str, String)> {
    let now_us = output::now_us();
    let ago = |us: i64| match us {
        0 => "none since the agent started".to_owned(),
        us => format!("{} ({} ago)", output::time_us(us), span(now_us - us)),
    };
    let mut rows = vec![
        (
            "archived",
            format!(
                "{} on timeline {} (server at {})",
                state.archived_lsn, state.timeline, state.server_lsn
            ),
        ),
        ("last commit", ago(state.last_commit_us)),
        ("last word of the server", ago(state.contact_us)),
        (
            "commit to archived",
            format!(
                "p50 {} ms, p99 {} ms, max {} ms over {} commits",
                state.lag.p50_us / 1000,
                state.lag.p99_us / 1000,
                state.lag.max_us / 1000,
                state.lag.commits
            ),
        ),
    ];
    if !state.rpo_history_ms.is_empty() {
        let highest = state.rpo_history_ms.iter().max().copied().unwrap_or(0);
        let spark = sparkline(&state.rpo_history_ms);
        rows.push(("RPO, ten minutes", format!("{spark} up to {highest} ms")));
    }
    rows.push(("lineage", state.lineage.clone()));
    rows
}

/// One character for each value, the highest as high as it gets.
fn sparkline(values: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = values.iter().max().copied().unwrap_or(0).max(1);
    let bar = |value: &u64| {
        let at = usize::try_from(value.saturating_mul(7) / highest).unwrap_or(7);
        BARS.get(at).copied().unwrap_or('█')
    };
    values.iter().map(bar).collect()
}

fn slot(context: &Context, view: &View) -> String {
    let no_slot = match &view.archiver {
        Some(_) => "none",
        None => "unknown: the server does not answer or has no such slot",
    };
    view.slot.as_ref().map_or(no_slot.into(), |slot| {
        let (restart, status) = (
            slot.restart.unwrap_or_default(),
            slot.wal_status.clone().unwrap_or_default(),
        );
        format!(
            "{} at {restart}, WAL {status}, {}",
            context.cluster.wal.slot,
            if slot.active { "in use" } else { "not in use" }
        )
    })
}

fn repository(view: &View) -> Vec<(&'static str, String)> {
    if view.repository_error.is_some() {
        return vec![("repository", "cannot be looked at, see below".to_owned())];
    }
    let time = |us: Option<i64>, none: &str| us.map_or_else(|| none.to_owned(), output::time_us);
    let newest = view.newest.as_ref().map_or("none".into(), |manifest| {
        format!(
            "{} ({}), {} in all",
            manifest.backup,
            output::time_us(manifest.finished_us),
            view.backups
        )
    });
    vec![
        ("newest backup", newest),
        (
            "every second since",
            time(
                view.window_from_us,
                "there is no backup that WAL follows without a hole",
            ),
        ),
        (
            "stored bytes compared",
            time(view.verified_us, "never: `wal-agent verify --all`"),
        ),
        (
            "restore last tested",
            time(view.proven_us, "never: `wal-agent drill`, where the restore key is"),
        ),
        ("time to restore now", expected(view)),
    ]
}

/// How long a restore to now would take, by the last drill.
pub fn expected(view: &View) -> String {
    let Some(drilled) = &view.drill else {
        return "not measured: no drill has run on this host".to_owned();
    };
    let when = output::time_us(drilled.began_us);
    match (&drilled.error, view.rto_s, drilled.rto_ms) {
        (Some(_), _, _) => format!("the drill of {when} FAILED"),
        (None, Some(estimate_s), Some(ms)) => {
            format!(
                "about {estimate_s:.0} s (the drill of {when} took {:.0} s)",
                ms as f64 / 1e3
            )
        }
        _ => format!("not known by the drill of {when}"),
    }
}

fn problems(view: &View, state: &DaemonState, painter: &Painter) -> String {
    let mut text = String::new();
    for open in state.alarms.iter().filter(|_| view.is_running) {
        let (colour, word) = match open.severity {
            Severity::Page => (Colour::Red, "ALARM"),
            Severity::Warning => (Colour::Yellow, "alarm"),
        };
        let since = output::time_us(open.since_us);
        let head = painter.paint(colour, &format!("{word} {}", open.alarm.kind.name()));
        let _ = writeln!(text, "{head} since {since}: {}", open.alarm.text);
        let _ = writeln!(text, "      HINT: {}", open.alarm.hint);
    }
    for warning in &view.warnings {
        let _ = writeln!(text, "{}: {warning}", painter.paint(Colour::Yellow, "WARNING"));
    }
    if let Some(error) = state.error.as_ref().filter(|_| view.is_running) {
        let _ = writeln!(text, "{}: {error}", painter.paint(Colour::Red, "ERROR"));
    }
    text
}

/// A span of time, as short as people say it.
fn span(us: i64) -> String {
    let seconds = us.max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn in_time(us: i64) -> String {
    match us <= 0 {
        true => "now".to_owned(),
        false => format!("in {}", span(us)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_the_past_is_as_high_as_it_gets() {
        assert_eq!(sparkline(&[0, 500, 1000]), "▁▄█");
        assert_eq!(sparkline(&[0, 0]), "▁▁");
    }

    #[test]
    fn spans_are_said_as_people_say_them() {
        let of = |seconds: i64| span(seconds * 1_000_000);
        assert_eq!(
            [of(5), of(119), of(120), of(7200), of(200_000)],
            ["5 s", "119 s", "2 min", "2 h", "2 days"]
        );
        assert_eq!(in_time(-1), "now");
    }
}
