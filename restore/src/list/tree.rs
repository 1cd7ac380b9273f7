//! Timelines as a tree: which one left which, where, and what is archived of each.

use pg::lsn::Lsn;
use serde::Serialize;
use store::catalog::Coverage;
use store::manifest::Manifest;

use crate::plan::lsn_text;

/// A timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TimelineRow {
    pub(super) lineage: String,
    pub(super) timeline: u32,
    /// The timeline that it left.
    parent: Option<u32>,
    /// Where it left it.
    switch_lsn: Option<String>,
    /// First archived byte.
    #[serde(serialize_with = "lsn_text")]
    from_lsn: Lsn,
    /// Behind the last.
    #[serde(serialize_with = "lsn_text")]
    to_lsn: Lsn,
    backups: usize,
}

/// Those of a lineage that have WAL, oldest first.
pub(super) fn rows(coverage: &Coverage, manifests: &[&Manifest]) -> Vec<TimelineRow> {
    let row = |(timeline, archived): (&pg::timeline::TimelineId, &store::catalog::TimelineCoverage)| {
        let path = coverage.path(*timeline);
        let parent = path.len().checked_sub(2).and_then(|at| path.get(at));
        Some(TimelineRow {
            lineage: coverage.lineage.to_string(),
            timeline: timeline.as_u32(),
            parent: parent.map(|(parent, _, _)| parent.as_u32()),
            switch_lsn: parent.and_then(|(_, _, end)| end.map(|end| end.to_string())),
            from_lsn: archived.begin()?,
            to_lsn: archived.end()?,
            backups: manifests
                .iter()
                .filter(|manifest| manifest.timeline == timeline.as_u32())
                .count(),
        })
    };
    coverage.timelines.iter().filter_map(row).collect()
}

/// One line a timeline, children below their parents.
pub(super) fn text(rows: &[TimelineRow]) -> String {
    let is_root = |row: &&TimelineRow| !rows.iter().any(|other| Some(other.timeline) == row.parent);
    let roots: Vec<&TimelineRow> = rows.iter().filter(is_root).collect();
    let mut out = String::new();
    branch(rows, &roots, "", &mut out);
    out
}

/// Histories come from outside: a timeline has a higher number than the one it left, or it is no child.
fn branch(rows: &[TimelineRow], siblings: &[&TimelineRow], indent: &str, out: &mut String) {
    for (at, row) in siblings.iter().enumerate() {
        let is_last = at + 1 == siblings.len();
        let (own, below) = if is_last {
            ("└─", "   ")
        } else {
            ("├─", "│  ")
        };
        out.push_str(&format!("\n{indent}{own} {}", row.line()));
        let children: Vec<&TimelineRow> = rows
            .iter()
            .filter(|child| child.parent == Some(row.timeline) && child.timeline > row.timeline)
            .collect();
        branch(rows, &children, &format!("{indent}{below}"), out);
    }
}

impl TimelineRow {
    fn line(&self) -> String {
        let left = match (&self.switch_lsn, self.parent) {
            (Some(lsn), Some(parent)) => format!(", left {parent} at {lsn}"),
            _ => String::new(),
        };
        let backups = match self.backups {
            0 => "no backup".to_owned(),
            1 => "1 backup".to_owned(),
            many => format!("{many} backups"),
        };
        format!(
            "timeline {}{left}: WAL {} to {}, {backups}",
            self.timeline, self.from_lsn, self.to_lsn
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_below_the_timeline_that_they_left() {
        let row = |timeline, parent: Option<u32>| TimelineRow {
            lineage: "L".into(),
            timeline,
            parent,
            switch_lsn: parent.map(|_| "0/20".into()),
            from_lsn: Lsn::new(0x10),
            to_lsn: Lsn::new(0x30),
            backups: 1,
        };
        let rows = [
            row(1, None),
            row(2, Some(1)),
            row(3, Some(2)),
            row(4, Some(1)),
            row(7, Some(6)),
        ];
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            lines(text(&rows).trim_start()),
            [
                "├─ timeline 1: WAL 0/10 to 0/30, 1 backup",
                "│  ├─ timeline 2, left 1 at 0/20: WAL 0/10 to 0/30, 1 backup",
                "│  │  └─ timeline 3, left 2 at 0/20: WAL 0/10 to 0/30, 1 backup",
                "│  └─ timeline 4, left 1 at 0/20: WAL 0/10 to 0/30, 1 backup",
                "└─ timeline 7, left 6 at 0/20: WAL 0/10 to 0/30, 1 backup",
            ]
        );
    }
}
