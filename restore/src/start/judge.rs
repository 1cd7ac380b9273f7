//! Was it the right end?

use pg::lsn::Lsn;

use crate::plan::{StopKind, StopPoint};
use crate::time;

/// Is this where it should have stopped? The server tells the end of the last record that it replayed.
pub(super) fn judge(stop: &StopPoint, replayed: Lsn, commit_us: Option<i64>) -> std::result::Result<(), String> {
    let wrong = |what: &str| Err(format!("recovery stopped at {replayed}, {what}"));
    match stop.kind {
        StopKind::Follow => {}
        StopKind::Immediate if replayed < stop.lsn => return wrong("before the end of the backup"),
        StopKind::Immediate => {}
        StopKind::Time | StopKind::Lsn | StopKind::Xid | StopKind::Name | StopKind::Latest => {
            judge_position((stop.lsn, stop.inclusive), stop.record_end_lsn, replayed)?;
        }
    }
    match (stop.asked_time_us, commit_us) {
        (Some(asked), Some(commit)) if commit > asked => Err(format!(
            "the last replayed transaction ended at {}, after {}",
            time::show(commit),
            time::show(asked)
        )),
        _ => Ok(()),
    }
}

/// Is it on the right side of the record? `stop` is where that begins and whether it is replayed, `until` its end.
pub(super) fn judge_position(
    (stop, inclusive): (Lsn, bool),
    until: Lsn,
    replayed: Lsn,
) -> std::result::Result<(), String> {
    match inclusive {
        // The end that the header tells is cut at the object's end; the record's own end is at most its padding later.
        true if replayed < until => Err(format!(
            "recovery stopped at {replayed}, before the record at {stop} that it should have replayed"
        )),
        false if replayed > stop => Err(format!(
            "recovery stopped at {replayed}, behind the record at {stop} that it should not have replayed"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Found;

    #[test]
    fn a_server_that_waits_elsewhere_is_not_promoted() {
        let (stop, until) = (Lsn::new(100), Lsn::new(140));
        assert!(judge_position((stop, true), until, Lsn::new(140)).is_ok());
        assert!(judge_position((stop, true), until, Lsn::new(139)).is_err());
        assert!(judge_position((stop, false), until, Lsn::new(100)).is_ok());
        assert!(judge_position((stop, false), until, Lsn::new(101)).is_err());
    }

    #[test]
    fn a_wrong_end_is_noticed_on_either_side() {
        let found = Found {
            start: Lsn::new(100),
            end: Lsn::new(140),
            time_us: None,
            commit_before_us: None,
        };
        let stop = |inclusive| StopPoint::record(StopKind::Lsn, &found, inclusive);
        assert!(judge(&stop(true), Lsn::new(140), None).is_ok());
        assert!(judge(&stop(true), Lsn::new(100), None).is_err());
        assert!(judge(&stop(false), Lsn::new(100), None).is_ok());
        assert!(judge(&stop(false), Lsn::new(140), None).is_err());
        let timed = StopPoint {
            asked_time_us: Some(5),
            ..StopPoint::record(StopKind::Time, &found, false)
        };
        assert!(judge(&timed, Lsn::new(96), Some(5)).is_ok());
        assert!(judge(&timed, Lsn::new(96), Some(6)).is_err());
        let end = StopPoint::record(StopKind::Immediate, &found, true);
        assert!(judge(&end, Lsn::new(99), None).is_err());
    }
}
