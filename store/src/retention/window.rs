//! The recoverable window: for each timeline that has moments in it, the backup that it begins with and all later ones.

use jiff::Timestamp;

use super::descent::Descent;
use super::{Backup, BackupId, Reason};

/// Keeps what the window that begins at `start` needs.
///
/// On the way to a timeline backups are in order of LSN. The base is the last of those at the beginning of the way that all ended
/// before `start`. Where time only moves forward that is simply the newest that ended before; where a clock jumped it is an earlier one,
/// which needs more WAL and misses nothing. One that ended at `start` itself is no base: of that very moment it has the end only.
pub(super) fn apply(backups: &[Backup], descent: &Descent, start: Timestamp, keep: &mut impl FnMut(BackupId, Reason)) {
    for backup in backups.iter().filter(|backup| backup.end_time >= start) {
        keep(backup.id, Reason::Window);
    }
    let all: Vec<&Backup> = backups.iter().collect();
    for (lineage, timeline) in descent.timelines() {
        let is_own = |backup: &&Backup| backup.lineage == lineage && backup.timeline == timeline;
        let has_own = backups.iter().any(|backup| is_own(&backup) && backup.end_time >= start);
        if !has_own && !descent.lasts_until(lineage, timeline, start) {
            continue;
        }
        let reaching = descent.reaching(&all, lineage, timeline);
        let before = reaching.iter().take_while(|backup| backup.end_time < start).count();
        let (before, from_then_on) = reaching.split_at(before);
        if let Some(base) = before.last() {
            keep(base.id, Reason::WindowBase);
        }
        from_then_on.iter().for_each(|backup| keep(backup.id, Reason::Window));
    }
}
