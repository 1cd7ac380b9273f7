//! One line and an exit code, as the Monitoring Plugins' Development Guidelines want them: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
//!
//! Looks at the daemon's state alone: quick, and without a request to the repository.

use std::fmt::Write as _;

use super::state::{DaemonState, last_said};
use crate::exit::Said;
use crate::health::Severity;
use crate::open::Context;

/// Prints the line; the code is that of the error.
pub async fn run(context: &Context) -> anyhow::Result<()> {
    let (code, line) = judge(&context.cluster.name, last_said(context));
    println!("{line}");
    match code {
        0 => Ok(()),
        code => Err(Said(code).into()),
    }
}

fn judge(cluster: &str, state: Option<DaemonState>) -> (u8, String) {
    let Some(state) = state else {
        return (3, format!("SEAWALL UNKNOWN - no agent has run for cluster {cluster}"));
    };
    if !state.is_fresh() {
        return (
            2,
            format!("SEAWALL CRITICAL - no agent is running for cluster {cluster}"),
        );
    }
    let worst = state.alarms.iter().map(|open| open.severity).max();
    let (code, word) = match worst {
        Some(Severity::Page) => (2, "CRITICAL"),
        Some(Severity::Warning) => (1, "WARNING"),
        None if !state.streaming => (1, "WARNING"),
        None => (0, "OK"),
    };
    let mut line = format!("SEAWALL {word} - cluster {cluster}");
    match state.alarms.first() {
        Some(first) => {
            let _ = write!(line, ": {}: {}", first.alarm.kind.name(), plain(&first.alarm.text));
            if let more @ 1.. = state.alarms.len() - 1 {
                let _ = write!(line, " (and {more} more)");
            }
        }
        None if !state.streaming => line.push_str(": not streaming yet"),
        None => {
            let _ = write!(line, ": RPO {} ms", state.rpo_ms);
        }
    }
    let _ = write!(
        line,
        " | rpo={:.3}s unarchived={}B retained={}B alarms={}",
        state.rpo_ms as f64 / 1e3,
        state.unarchived_bytes,
        state.retained_bytes,
        state.alarms.len()
    );
    (code, line)
}

/// One line; "|" begins the figures.
fn plain(text: &str) -> String {
    text.replace('\n', " ").replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::board::Open;
    use crate::health::{Alarm, Kind};

    fn running(kinds: &[Kind]) -> DaemonState {
        let open = |kind: &Kind| Open {
            alarm: Alarm::new(*kind, "a|b\nc", "hint"),
            severity: kind.severity(),
            since_us: 0,
            is_raised: true,
            gone_us: None,
        };
        DaemonState {
            written_us: crate::output::now_us(),
            streaming: true,
            rpo_ms: 1234,
            alarms: kinds.iter().map(open).collect(),
            ..DaemonState::default()
        }
    }

    #[test]
    fn the_worst_alarm_is_the_code_and_the_line() {
        let (code, line) = judge("main", Some(running(&[])));
        assert_eq!(code, 0);
        assert!(
            line.starts_with("SEAWALL OK - cluster main: RPO 1234 ms | rpo=1.234s"),
            "{line}"
        );
        let (code, line) = judge("main", Some(running(&[Kind::NoBackup, Kind::DiskHigh])));
        assert_eq!(code, 2);
        assert!(
            line.contains("CRITICAL - cluster main: no_backup: a/b c (and 1 more) |"),
            "{line}"
        );
        assert_eq!(judge("main", Some(running(&[Kind::DiskHigh]))).0, 1);
        assert_eq!(judge("main", Some(DaemonState::default())).0, 2);
        assert_eq!(judge("main", None).0, 3);
    }
}
