//! What `wal-get` has to know about the restore that it serves, and `wal-agent adopt` about what it has set: `seawall.restore/restore.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, SegmentSize};
use pg::timeline::TimelineId;
use serde::{Deserialize, Serialize};
use store::id::LineageId;

use crate::error::{RestoreError, Result};
use crate::paths::OURS;
use crate::route::{Part, Route};

/// Name of the file.
pub(crate) const STATE: &str = "restore.json";

#[derive(Debug, Serialize, Deserialize)]
struct PartText {
    timeline: u32,
    begin: String,
    end: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Text {
    version: u32,
    restore: String,
    cluster: String,
    lineage: String,
    segment_bytes: u64,
    path: Vec<PartText>,
    start_lsn: String,
    needed_until_lsn: Option<String>,
    #[serde(default)]
    backup: Option<String>,
    #[serde(default)]
    stop_lsn: Option<String>,
    #[serde(default)]
    stop_inclusive: bool,
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

/// The state of a restore.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Id of the restore: what another one left is never served.
    pub(crate) restore: String,
    /// Its cluster.
    pub(crate) cluster: String,
    /// Its lineage.
    pub(crate) lineage: LineageId,
    /// Its way.
    pub(crate) route: Route,
    /// Recovery begins here.
    pub(crate) start: Lsn,
    /// WAL is needed up to here; `None` for a standby, which takes what there is.
    pub(crate) needed_until: Option<Lsn>,
    /// The backup; older restores do not say.
    pub(crate) backup: Option<String>,
    /// Where recovery stops, and whether behind the record there; `None` for a standby.
    pub(crate) stop: Option<(Lsn, bool)>,
    /// What is set in postgresql.auto.conf: ALTER SYSTEM takes our line above it away.
    pub(crate) settings: BTreeMap<String, String>,
}

impl State {
    /// As JSON.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        let part = |part: &Part| PartText {
            timeline: part.timeline.as_u32(),
            begin: part.begin.to_string(),
            end: part.end.map(|end| end.to_string()),
        };
        let text = Text {
            version: 1,
            restore: self.restore.clone(),
            cluster: self.cluster.clone(),
            lineage: self.lineage.to_string(),
            segment_bytes: self.route.size.bytes(),
            path: self.route.parts.iter().map(part).collect(),
            start_lsn: self.start.to_string(),
            needed_until_lsn: self.needed_until.map(|lsn| lsn.to_string()),
            backup: self.backup.clone(),
            stop_lsn: self.stop.map(|(lsn, _)| lsn.to_string()),
            stop_inclusive: self.stop.is_some_and(|(_, inclusive)| inclusive),
            settings: self.settings.clone(),
        };
        serde_json::to_vec_pretty(&text).map_err(|error| RestoreError::Failed(error.to_string()))
    }

    /// From JSON.
    pub(crate) fn parse(bytes: &[u8]) -> Option<State> {
        let text: Text = serde_json::from_slice(bytes).ok()?;
        let part = |part: &PartText| {
            let end = part.end.as_ref().map(|end| end.parse()).transpose().ok()?;
            Some(Part {
                timeline: TimelineId::new(part.timeline)?,
                begin: part.begin.parse().ok()?,
                end,
            })
        };
        let parts: Vec<Part> = text.path.iter().map(part).collect::<Option<_>>()?;
        let is_plain = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if text.version != 1 || parts.is_empty() || !is_plain(&text.restore) {
            return None;
        }
        Some(State {
            restore: text.restore,
            cluster: text.cluster,
            lineage: text.lineage.parse().ok()?,
            route: Route {
                parts,
                size: SegmentSize::new(text.segment_bytes).ok()?,
            },
            start: text.start_lsn.parse().ok()?,
            needed_until: text.needed_until_lsn.map(|lsn| lsn.parse()).transpose().ok()?,
            backup: text.backup,
            stop: match text.stop_lsn {
                Some(lsn) => Some((lsn.parse().ok()?, text.stop_inclusive)),
                None => None,
            },
            settings: text.settings,
        })
    }

    /// Reads it below a data directory.
    pub(crate) fn read(pgdata: &Path) -> Result<State> {
        let path = pgdata.join(OURS).join(STATE);
        let bytes = std::fs::read(&path).map_err(RestoreError::io("read", &path))?;
        State::parse(&bytes).ok_or_else(|| RestoreError::Failed(format!("\"{}\" makes no sense", path.display())))
    }

    /// Where segments are kept that will be asked for.
    pub(crate) fn prefetch_directory(&self, pgdata: &Path) -> PathBuf {
        pgdata.join(OURS).join("prefetch").join(&self.restore)
    }

    /// The last segment that is needed.
    pub(crate) fn last_segment(&self) -> Option<SegmentNumber> {
        self.needed_until
            .map(|until| self.route.size.segment_of(Lsn::new(until.as_u64().saturating_sub(1))))
    }

    /// Does recovery need this segment of this timeline?
    pub(crate) fn needs(&self, timeline: TimelineId, number: SegmentNumber) -> bool {
        let first = self.route.size.segment_of(self.start);
        self.last_segment()
            .is_some_and(|last| first <= number && number <= last)
            && self.route.timelines_of(number).any(|one| one == timeline)
    }

    /// The way to a timeline on the way; a timeline that is not on it stands alone.
    pub(crate) fn route_to(&self, timeline: TimelineId) -> Route {
        let mut parts: Vec<Part> = self
            .route
            .parts
            .iter()
            .take_while(|part| part.timeline <= timeline)
            .copied()
            .collect();
        match parts.last_mut().filter(|last| last.timeline == timeline) {
            Some(last) => last.end = None,
            None => {
                parts = vec![Part {
                    timeline,
                    begin: Lsn::ZERO,
                    end: None,
                }]
            }
        }
        Route {
            parts,
            size: self.route.size,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::route::tests::{MIB, size, tli};

    /// Timelines 1 to 2 with a fork in segment 3; recovery from segment 1 to the middle of segment 5.
    pub(crate) fn state() -> State {
        let fork = Lsn::new(3 * MIB + 4096);
        State {
            restore: "R1".into(),
            cluster: "main".into(),
            lineage: LineageId::default(),
            route: Route {
                parts: vec![
                    Part {
                        timeline: tli(1),
                        begin: Lsn::ZERO,
                        end: Some(fork),
                    },
                    Part {
                        timeline: tli(2),
                        begin: fork,
                        end: None,
                    },
                ],
                size: size(),
            },
            start: Lsn::new(MIB + 40),
            needed_until: Some(Lsn::new(5 * MIB + 8192)),
            backup: Some("B1".into()),
            stop: Some((Lsn::new(5 * MIB + 8000), true)),
            settings: BTreeMap::from([("archive_mode".into(), "off".into())]),
        }
    }

    #[test]
    fn the_file_comes_back_as_it_was() {
        let state = state();
        let back = State::parse(&state.to_json().unwrap()).unwrap();
        assert_eq!(
            (
                back.route,
                back.start,
                back.needed_until,
                back.restore,
                back.backup,
                back.stop,
                back.settings
            ),
            (
                state.route,
                state.start,
                state.needed_until,
                state.restore,
                state.backup,
                state.stop,
                state.settings
            )
        );
        assert!(State::parse(b"{}").is_none());
    }

    #[test]
    fn needed_is_what_lies_between_start_and_stop_on_the_way() {
        let state = state();
        let needs = |timeline, number| state.needs(tli(timeline), SegmentNumber(number));
        assert!(needs(1, 1) && needs(1, 3) && needs(2, 3) && needs(2, 5));
        assert!(!needs(1, 0) && !needs(2, 2) && !needs(2, 6) && !needs(3, 4));
    }
}
