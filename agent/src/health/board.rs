//! What is open, since when, and what has changed: nobody is told twice, and nobody is woken by what passes by itself.
//!
//! The board is kept in a file, so that a restart neither tells everything again nor forgets to say that something is well. Losing the file
//! costs a second message.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, Severity};

/// What was gone for so long is over; sooner it may be flapping.
const GONE_S: i64 = 45;

/// An alarm that is, or may become, open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What.
    #[serde(flatten)]
    pub alarm: Alarm,
    /// How bad.
    pub severity: Severity,
    /// Since when, microseconds since 1970.
    pub since_us: i64,
    /// It has lasted long enough to be told.
    pub is_raised: bool,
    /// It is not there at the moment.
    pub gone_us: Option<i64>,
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is open from now on.
    Raised(Open),
    /// It is over.
    Cleared(Open),
}

/// The alarms that are open.
#[derive(Debug)]
pub struct Board {
    open: Vec<Open>,
    path: PathBuf,
}

impl Board {
    /// What was open when the agent ended last.
    pub fn load(path: &Path) -> Self {
        let kept = std::fs::read(path).ok();
        let open = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Board {
            open: open.unwrap_or_default(),
            path: path.to_owned(),
        }
    }

    /// Those that were told, worst first.
    pub fn raised(&self) -> Vec<Open> {
        let mut raised: Vec<Open> = self.open.iter().filter(|open| open.is_raised).cloned().collect();
        raised.sort_by_key(|open| (std::cmp::Reverse(open.severity), open.since_us));
        raised
    }

    /// Takes what is wrong now, and says what has changed by that.
    pub fn update(&mut self, now_us: i64, alarms: Vec<Alarm>) -> Vec<Change> {
        let mut changes = Vec::new();
        for open in &mut self.open {
            if !alarms.iter().any(|alarm| alarm.key() == open.alarm.key()) {
                open.gone_us.get_or_insert(now_us);
            }
        }
        for alarm in alarms {
            match self.open.iter_mut().find(|open| open.alarm.key() == alarm.key()) {
                Some(open) => {
                    open.alarm = alarm;
                    open.gone_us = None;
                }
                None => self.open.push(Open {
                    severity: alarm.kind.severity(),
                    alarm,
                    since_us: now_us,
                    is_raised: false,
                    gone_us: None,
                }),
            }
        }
        let is_over = |open: &Open| match open.gone_us {
            // What nobody was told of goes without a word.
            Some(_) if !open.is_raised => true,
            Some(gone_us) => now_us.saturating_sub(gone_us) >= GONE_S * 1_000_000,
            None => false,
        };
        for open in self.open.extract_if(.., |open| is_over(open)) {
            if open.is_raised {
                changes.push(Change::Cleared(open));
            }
        }
        for open in &mut self.open {
            let lasted_us = now_us.saturating_sub(open.since_us);
            if !open.is_raised && lasted_us >= open.alarm.kind.hold_s() * 1_000_000 {
                open.is_raised = true;
                changes.push(Change::Raised(open.clone()));
            }
        }
        changes
    }

    /// Writes it down.
    pub fn keep(&self) -> std::io::Result<()> {
        let json = serde_json::to_vec_pretty(&self.open)?;
        store::durable::atomic_write(&self.path, &json)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn alarm(kind: Kind, text: &str) -> Alarm {
        Alarm::new(kind, text, "hint")
    }

    fn board() -> (tempfile::TempDir, Board) {
        let directory = tempfile::tempdir().unwrap();
        let board = Board::load(&directory.path().join("alarms.json"));
        (directory, board)
    }

    #[test]
    fn an_alarm_is_raised_once_and_cleared_once_however_its_figures_change() {
        let (_kept, mut board) = board();
        let raised = board.update(0, vec![alarm(Kind::RpoBroken, "61 s")]);
        assert!(matches!(&raised[..], [Change::Raised(open)] if open.alarm.text == "61 s"));
        assert!(board.update(SECOND, vec![alarm(Kind::RpoBroken, "62 s")]).is_empty());
        assert_eq!(board.raised()[0].alarm.text, "62 s");
        assert!(board.update(2 * SECOND, vec![]).is_empty());
        // It flaps.
        assert!(
            board
                .update(3 * SECOND, vec![alarm(Kind::RpoBroken, "64 s")])
                .is_empty()
        );
        assert!(board.update(4 * SECOND, vec![]).is_empty());
        let cleared = board.update((4 + GONE_S) * SECOND, vec![]);
        assert!(matches!(&cleared[..], [Change::Cleared(open)] if open.since_us == 0));
        assert!(board.raised().is_empty());
    }

    #[test]
    fn what_passes_by_itself_is_never_told() {
        let (_kept, mut board) = board();
        let lost = || vec![alarm(Kind::NotStreaming, "the server restarts")];
        assert!(board.update(0, lost()).is_empty());
        assert!(board.update(29 * SECOND, lost()).is_empty());
        assert!(board.update(29 * SECOND + 1, vec![]).is_empty());
        // The time begins anew.
        assert!(board.update(31 * SECOND, lost()).is_empty());
        assert_eq!(board.update(61 * SECOND, lost()).len(), 1);
    }

    #[test]
    fn two_of_a_kind_are_two_alarms() {
        let (_kept, mut board) = board();
        let disks = ["pg_wal", "state"].map(|disk| alarm(Kind::DiskFull, disk).of(disk));
        assert_eq!(board.update(0, disks.to_vec()).len(), 2);
        assert_eq!(board.raised().len(), 2);
    }

    #[test]
    fn a_restart_neither_tells_again_nor_forgets() {
        let (kept, mut board) = board();
        board.update(0, vec![alarm(Kind::NoBackup, "none"), alarm(Kind::WalHole, "hole")]);
        board.keep().unwrap();
        let mut again = Board::load(&kept.path().join("alarms.json"));
        assert!(again.update(SECOND, vec![alarm(Kind::WalHole, "hole")]).is_empty());
        let cleared = again.update((1 + GONE_S) * SECOND, vec![]);
        assert!(cleared.is_empty(), "it has only just gone");
        assert_eq!(again.update((2 + 2 * GONE_S) * SECOND, vec![]).len(), 1);
    }
}
