//! The same rules once more, slowly: each question is answered for one backup, or one byte of WAL, from its definition.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the judge under test is given.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub backups: Vec<Backup>,
    pub ancestry: Vec<TimelineOf>,
    pub now: Timestamp,
}

/// What should come out.
pub(super) struct Model<'a> {
    case: &'a Case,
    rules: &'a Rules,
    known: BTreeSet<(LineageId, u32)>,
    /// Timelines of which everything is kept for want of something to judge by.
    whole: BTreeSet<(LineageId, u32)>,
    unknown: BTreeSet<LineageId>,
    kept: Vec<bool>,
    leading_on: Vec<bool>,
}

impl<'a> Model<'a> {
    pub(super) fn new(case: &'a Case, rules: &'a Rules) -> Self {
        let mut known: BTreeSet<_> = case.backups.iter().map(|b| (b.lineage, b.timeline)).collect();
        for entry in &case.ancestry {
            known.insert((entry.lineage, entry.timeline));
            known.extend(entry.parent.map(|parent| (entry.lineage, parent.0)));
        }
        let mut model = Self {
            case,
            rules,
            known,
            whole: BTreeSet::new(),
            unknown: BTreeSet::new(),
            kept: Vec::new(),
            leading_on: Vec::new(),
        };
        model.unknown = model
            .known
            .iter()
            .map(|key| key.0)
            .filter(|l| model.is_unknown(*l))
            .collect();
        model.whole = model.known.iter().copied().filter(|key| model.is_whole(*key)).collect();
        model.kept = case
            .backups
            .iter()
            .map(|b| model.always(b) || model.by_window(b) || model.by_time(b))
            .collect();
        model.leading_on = case.backups.iter().map(|b| model.leads_on(b)).collect();
        model
    }

    pub(super) fn kept(&self) -> &[bool] {
        &self.kept
    }

    fn past(&self) -> impl Iterator<Item = &'a Backup> {
        self.case.backups.iter().filter(|b| b.stored_at <= self.case.now)
    }

    /// Nothing in `others` is newer.
    fn is_newest(backup: &Backup, mut others: impl Iterator<Item = &'a Backup>) -> bool {
        others.all(|other| (other.stored_at, other.id) <= (backup.stored_at, backup.id))
    }

    fn is_unknown(&self, lineage: LineageId) -> bool {
        let lowest = self.known.iter().filter(|(l, _)| *l == lineage).map(|(_, t)| *t).min();
        self.known.iter().filter(|(l, _)| *l == lineage).any(|(_, t)| {
            let entries = self
                .case
                .ancestry
                .iter()
                .filter(|e| e.lineage == lineage && e.timeline == *t);
            let parents: BTreeSet<_> = entries.map(|e| e.parent).collect();
            let orphan = parents.is_empty() || parents.contains(&None);
            parents.len() > 1
                || (orphan && Some(*t) != lowest)
                || parents.iter().flatten().any(|(parent, _)| parent >= t)
        })
    }

    fn always(&self, backup: &Backup) -> bool {
        *self.rules == Rules::default()
            || backup.pinned
            || backup.stored_at > self.case.now
            || self.is_newest_proven(backup)
            || self.is_anchor(backup)
            || self.unknown.contains(&backup.lineage)
    }

    /// The newest of something.
    fn is_newest_proven(&self, backup: &Backup) -> bool {
        backup.proven && Self::is_newest(backup, self.past().filter(|b| b.proven))
    }

    fn is_anchor(&self, backup: &Backup) -> bool {
        let newest_lineage = self.past().map(|b| b.lineage).max();
        let of_growing = |key: &(LineageId, u32)| {
            let after = |b: &&Backup| (b.end_lsn, b.id) > (backup.end_lsn, backup.id) && self.reaches(b, *key);
            self.grows(*key) && self.reaches(backup, *key) && self.past().filter(after).count() == 0
        };
        backup.stored_at <= self.case.now
            && (Self::is_newest(backup, self.past())
                || Some(backup.lineage) == newest_lineage
                    && Self::is_newest(backup, self.past().filter(|b| b.lineage == backup.lineage))
                || self.known.iter().any(of_growing))
    }

    fn ended_at(&self, key: (LineageId, u32)) -> Option<Timestamp> {
        let entries = || {
            self.case
                .ancestry
                .iter()
                .filter(move |e| (e.lineage, e.timeline) == key)
        };
        if entries().any(|e| e.ended_at.is_none()) || self.is_head(key) {
            return None;
        }
        entries().filter_map(|e| e.ended_at).max()
    }

    /// The last timeline of the last lineage, or of the one of the newest backup.
    fn is_head(&self, (lineage, timeline): (LineageId, u32)) -> bool {
        let newest = self.past().max_by_key(|b| (b.stored_at, b.id)).map(|b| b.lineage);
        let last_lineage = self.known.iter().all(|(l, _)| *l <= lineage);
        let last_timeline = self.known.iter().all(|(l, t)| *l != lineage || *t <= timeline);
        last_timeline && (last_lineage || newest == Some(lineage))
    }

    fn grows(&self, key: (LineageId, u32)) -> bool {
        self.ended_at(key).is_none()
    }

    fn parent(&self, (lineage, timeline): (LineageId, u32)) -> Option<((LineageId, u32), u64)> {
        let entry = self
            .case
            .ancestry
            .iter()
            .find(|e| (e.lineage, e.timeline) == (lineage, timeline));
        let parent = entry.and_then(|e| e.parent).filter(|(parent, _)| *parent < timeline);
        parent.map(|(parent, switch)| ((lineage, parent), switch))
    }

    /// Can recovery from this backup go along this timeline?
    fn reaches(&self, backup: &Backup, key: (LineageId, u32)) -> bool {
        key == (backup.lineage, backup.timeline)
            || self
                .parent(key)
                .is_some_and(|(parent, switch)| backup.end_lsn <= switch && self.reaches(backup, parent))
    }

    fn by_window(&self, backup: &Backup) -> bool {
        let Some(window) = self.rules.window else { return false };
        let start = self.case.now.checked_sub(window).unwrap_or(Timestamp::MIN);
        let order = |b: &Backup| (b.end_lsn, b.id);
        let needs = |key: &(LineageId, u32)| {
            let inside = |b: &Backup| (b.lineage, b.timeline) == *key && b.end_time >= start;
            let has_moments =
                self.ended_at(*key).is_none_or(|end| end >= start) || self.case.backups.iter().any(inside);
            let route: Vec<_> = self.case.backups.iter().filter(|b| self.reaches(b, *key)).collect();
            // A later one with which, and with all before it, the window has not begun yet makes it superfluous.
            let makes_up = |c: &&Backup| route.iter().all(|d| order(d) > order(c) || d.end_time < start);
            let superfluous = route.iter().any(|c| order(c) > order(backup) && makes_up(c));
            has_moments && self.reaches(backup, *key) && !superfluous
        };
        backup.end_time >= start || self.known.iter().any(needs)
    }

    fn by_time(&self, backup: &Backup) -> bool {
        let rules = self.rules;
        let date = |b: &Backup| b.stored_at.to_string()[..10].to_string();
        let week = |b: &Backup| {
            format!(
                "{:09}",
                (b.stored_at.as_second().div_euclid(86_400) + 3).div_euclid(7) + 1_000_000
            )
        };
        backup.stored_at <= self.case.now
            && (self.by_age_or_count(backup)
                || self.by_period(backup, rules.keep_daily, date)
                || self.by_period(backup, rules.keep_weekly, week)
                || self.by_period(backup, rules.keep_monthly, |b| date(b)[..7].to_string())
                || self.by_period(backup, rules.keep_yearly, |b| date(b)[..4].to_string()))
    }

    fn by_age_or_count(&self, backup: &Backup) -> bool {
        let age = self.case.now.as_nanosecond() - backup.stored_at.as_nanosecond();
        let newer = self
            .past()
            .filter(|b| (b.stored_at, b.id) > (backup.stored_at, backup.id))
            .count();
        backup.stored_at <= self.case.now
            && (self
                .rules
                .keep_within
                .is_some_and(|within| age <= within.as_nanos() as i128)
                || self.rules.keep_last.is_some_and(|count| newer < count.get() as usize))
    }

    fn by_period(&self, backup: &Backup, count: Option<NonZeroU32>, name: impl Fn(&Backup) -> String) -> bool {
        let Some(count) = count else { return false };
        let mut groups: BTreeMap<String, Vec<&Backup>> = BTreeMap::new();
        for b in self.past() {
            groups.entry(name(b)).or_default().push(b);
        }
        let later = groups.keys().filter(|key| **key > name(backup)).count();
        let group = groups.get(&name(backup)).into_iter().flatten().copied();
        later < count.get() as usize && Self::is_newest(backup, group)
    }

    /// Is WAL after this backup to be complete?
    fn leads_on(&self, backup: &Backup) -> bool {
        let by_rule = match self.rules.window {
            Some(_) => self.by_window(backup),
            None => self.by_age_or_count(backup),
        };
        by_rule || self.is_anchor(backup) || self.is_newest_proven(backup) || backup.stored_at > self.case.now
    }

    fn is_whole(&self, key: (LineageId, u32)) -> bool {
        *self.rules == Rules::default()
            || self.past().next().is_none()
            || self.unknown.contains(&key.0)
            || self.grows(key) && !self.case.backups.iter().any(|b| self.reaches(b, key))
    }

    /// Is WAL of this timeline at this LSN, and all after it, to stay?
    fn is_continuous(&self, key: (LineageId, u32), lsn: u64) -> bool {
        let own = |(b, leads): (&Backup, &bool)| *leads && (b.lineage, b.timeline) == key && b.start_lsn <= lsn;
        self.whole.contains(&key)
            || self.case.backups.iter().zip(&self.leading_on).any(own)
            || self
                .parent(key)
                .is_some_and(|(parent, switch)| self.is_continuous(parent, switch))
    }

    /// Does this backup need this byte to become consistent?
    pub(super) fn needs(&self, backup: &Backup, key: (LineageId, u32), lsn: u64) -> bool {
        let (mut at, mut end) = ((backup.lineage, backup.timeline), backup.end_lsn);
        loop {
            if at == key && (backup.start_lsn..end).contains(&lsn) {
                return true;
            }
            match self.parent(at) {
                Some((parent, switch)) if backup.start_lsn < switch => (at, end) = (parent, switch),
                _ => return false,
            }
        }
    }

    /// Is this byte to stay?
    pub(super) fn keeps_wal(&self, key: (LineageId, u32), lsn: u64) -> bool {
        let mut kept = self.case.backups.iter().zip(&self.kept).filter(|(_, kept)| **kept);
        !self.known.contains(&key) || self.is_continuous(key, lsn) || kept.any(|(b, _)| self.needs(b, key, lsn))
    }
}
