//! Timelines and their history files.
//!
//! A history file says from which ancestor, and at which LSN, a timeline branched off. Restore
//! follows it to pick the right WAL, the receiver archives it before the first byte of its
//! timeline. Rules: src/backend/access/transam/timeline.c (`readTimeLineHistory`,
//! `tliOfPointInHistory`, `tliSwitchPoint`) and the docs, "Continuous Archiving: Timelines".

use std::fmt;
use std::num::NonZeroU32;

use crate::lsn::{Lsn, parse_upper_hex};

/// A timeline's number; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The first timeline of every cluster.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// The timeline of this number; zero is none.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(TimelineId(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }

    /// Eight uppercase hexadecimal digits, as in WAL file names.
    pub fn hex8(self) -> String {
        format!("{:08X}", self.as_u32())
    }

    /// Reads what [`TimelineId::hex8`] writes.
    pub fn from_hex8(text: &str) -> Option<Self> {
        parse_upper_hex(text, 8)
            .and_then(|id| u32::try_from(id).ok())
            .and_then(Self::new)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a history file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimelineError {
    /// There is no entry although the timeline has a parent.
    #[error("history file of timeline {timeline} has no entry")]
    Empty {
        /// The timeline whose file it is.
        timeline: TimelineId,
    },
    /// A line is not `parent TAB switch point TAB reason`.
    #[error("syntax error in line {line} of the history file of timeline {timeline}")]
    Syntax {
        /// The timeline whose file it is.
        timeline: TimelineId,
        /// Number of the line, from 1.
        line: usize,
    },
    /// Ancestors are not in increasing order, or not below the timeline itself.
    #[error("timeline {found} in line {line} of the history file of timeline {timeline} is out of order")]
    Order {
        /// The timeline whose file it is.
        timeline: TimelineId,
        /// Number of the line, from 1.
        line: usize,
        /// The ancestor named there.
        found: TimelineId,
    },
    /// A switch point lies before the one of the line above.
    #[error("switch point {found} in line {line} of the history file of timeline {timeline} goes backwards")]
    SwitchPointOrder {
        /// The timeline whose file it is.
        timeline: TimelineId,
        /// Number of the line, from 1.
        line: usize,
        /// The switch point named there.
        found: Lsn,
    },
}

/// One line of a history file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// The ancestor that ended here.
    pub timeline: TimelineId,
    /// First LSN that is no longer on the ancestor.
    pub switch_point: Lsn,
    /// Free text that the server wrote.
    pub reason: String,
}

/// The ancestors of a timeline, oldest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    /// The timeline itself.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first; empty for a timeline without a parent.
    pub entries: Vec<HistoryEntry>,
}

impl TimelineHistory {
    /// A timeline without ancestors (timeline 1 has no history file).
    pub fn root(timeline: TimelineId) -> Self {
        TimelineHistory {
            timeline,
            entries: Vec::new(),
        }
    }

    /// Reads the history file of `timeline`. Comments (`#`), blank lines and what follows the
    /// switch point are free text, as in `readTimeLineHistory`. Two rules are stricter than the
    /// server's: an empty file is an error for any timeline but 1 (it would silently cut the
    /// ancestry off), and switch points must not go backwards.
    ///
    /// # Errors
    /// [`TimelineError`] names the line that breaks a rule.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, TimelineError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        let text = String::from_utf8_lossy(bytes);
        for (index, raw) in text.split('\n').enumerate() {
            let line = index + 1;
            let trimmed = raw.trim_matches(|c: char| c.is_ascii_whitespace());
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let entry = parse_entry(trimmed).ok_or(TimelineError::Syntax { timeline, line })?;
            let above = entries.last();
            if entry.timeline >= timeline || above.is_some_and(|a| entry.timeline <= a.timeline) {
                return Err(TimelineError::Order {
                    timeline,
                    line,
                    found: entry.timeline,
                });
            }
            if above.is_some_and(|a| entry.switch_point < a.switch_point) {
                return Err(TimelineError::SwitchPointOrder {
                    timeline,
                    line,
                    found: entry.switch_point,
                });
            }
            entries.push(entry);
        }
        if entries.is_empty() && timeline != TimelineId::FIRST {
            return Err(TimelineError::Empty { timeline });
        }
        Ok(TimelineHistory { timeline, entries })
    }

    /// Every timeline with the LSN where it begins and the one where it ends (exclusive; `None`
    /// for the timeline itself), oldest first. The oldest begins at zero.
    pub fn ancestry(&self) -> Vec<(TimelineId, Lsn, Option<Lsn>)> {
        let mut begin = Lsn::ZERO;
        let mut spans = Vec::with_capacity(self.entries.len() + 1);
        for entry in &self.entries {
            spans.push((entry.timeline, begin, Some(entry.switch_point)));
            begin = entry.switch_point;
        }
        spans.push((self.timeline, begin, None));
        spans
    }

    /// The timeline that the byte at `lsn` belongs to in this history. A switch point belongs to
    /// the newer timeline.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.entries
            .iter()
            .find(|entry| lsn < entry.switch_point)
            .map_or(self.timeline, |entry| entry.timeline)
    }

    /// Where `timeline` ended in this history; `None` when it is the newest or not part of it.
    pub fn switch_point_after(&self, timeline: TimelineId) -> Option<Lsn> {
        self.entries
            .iter()
            .find(|entry| entry.timeline == timeline)
            .map(|entry| entry.switch_point)
    }
}

/// Fields of one line, or `None` when it is not `number whitespace X/X [text]`.
fn parse_entry(line: &str) -> Option<HistoryEntry> {
    let mut fields = line.splitn(2, |c: char| c.is_ascii_whitespace());
    let timeline = TimelineId::new(fields.next()?.parse().ok()?)?;
    let rest = fields.next()?.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let (lsn, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    Some(HistoryEntry {
        timeline,
        switch_point: lsn.parse().ok()?,
        reason: reason.trim().to_owned(),
    })
}

/// Name of the history file of a timeline (`TLHistoryFileName`, src/include/access/xlog_internal.h).
pub fn history_file_name(timeline: TimelineId) -> String {
    format!("{}.history", timeline.hex8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    const FILE: &[u8] =
        b"# made by hand\n1\t0/3000000\tno recovery target specified\n\n  2\t0/5000060\tbefore 2026-01-01\n";

    #[test]
    fn a_history_gives_its_ancestry_oldest_first() {
        let history = TimelineHistory::parse(tli(5), FILE).unwrap();
        assert_eq!(
            history.ancestry(),
            vec![
                (tli(1), Lsn::ZERO, Some(Lsn::new(0x300_0000))),
                (tli(2), Lsn::new(0x300_0000), Some(Lsn::new(0x500_0060))),
                (tli(5), Lsn::new(0x500_0060), None),
            ]
        );
        assert_eq!(history.entries[0].reason, "no recovery target specified");
        assert_eq!(history.timeline_at(Lsn::new(0x2FF_FFFF)), tli(1));
        assert_eq!(history.timeline_at(Lsn::new(0x300_0000)), tli(2));
        assert_eq!(history.timeline_at(Lsn::new(0x900_0000)), tli(5));
        assert_eq!(history.switch_point_after(tli(2)), Some(Lsn::new(0x500_0060)));
        assert_eq!(history.switch_point_after(tli(5)), None);
    }

    #[test]
    fn an_empty_file_is_refused_unless_it_is_the_first_timeline() {
        assert_eq!(
            TimelineHistory::parse(tli(2), b"# nothing\n"),
            Err(TimelineError::Empty { timeline: tli(2) })
        );
        assert_eq!(TimelineHistory::parse(tli(1), b""), Ok(TimelineHistory::root(tli(1))));
    }

    #[test]
    fn order_and_syntax_are_checked() {
        let parse = |text: &str| TimelineHistory::parse(tli(4), text.as_bytes());
        assert!(matches!(
            parse("2\t0/1\n1\t0/2\n"),
            Err(TimelineError::Order { line: 2, .. })
        ));
        assert!(matches!(parse("4\t0/1\n"), Err(TimelineError::Order { line: 1, .. })));
        assert!(matches!(
            parse("1\t0/9\n2\t0/8\n"),
            Err(TimelineError::SwitchPointOrder { line: 2, .. })
        ));
        for bad in ["x\t0/1\n", "1\n", "1\tzero\n", "0\t0/1\n", "-1\t0/1\n"] {
            assert!(
                matches!(parse(bad), Err(TimelineError::Syntax { line: 1, .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn names_and_texts() {
        assert_eq!(history_file_name(tli(26)), "0000001A.history");
        assert_eq!(TimelineId::from_hex8("0000001A"), Some(tli(26)));
        assert_eq!(TimelineId::from_hex8("00000000"), None);
        assert_eq!(tli(26).to_string(), "26");
        assert_eq!(TimelineId::new(0), None);
    }
}
