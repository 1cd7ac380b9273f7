//! Histories as they happen (backups, failovers, recoveries to a point, new lineages, clocks that differ), and nonsense.

use jiff::SignedDuration;

use super::*;

/// A state of the database that one may want back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub lineage: LineageId,
    pub timeline: u32,
    pub lsn: u64,
    pub time: Timestamp,
}

/// What happened.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub case: Case,
    /// In order; the last is the state now.
    pub moments: Vec<Moment>,
}

impl World {
    /// Is what was noted at this place the state of its timeline at an instant from `start` on? Of several at that very instant the
    /// last is: restoring to a time includes all that happened by then.
    pub(super) fn is_moment_since(&self, at: usize, start: Timestamp) -> bool {
        let moment = self.moments[at];
        let replaces = |later: &Moment| {
            (later.lineage, later.timeline, later.time) == (moment.lineage, moment.timeline, moment.time)
        };
        moment.time > start || moment.time == start && !self.moments[at + 1..].iter().any(replaces)
    }
}

/// 2025-12-27T23:00Z: a year, a month and a week change soon.
const BEGIN: i64 = 1_766_876_400;
const HOURS: [i64; 8] = [0, 1, 5, 24, 30, 170, 800, 5000];

struct Live {
    of: TimelineOf,
    begin_lsn: u64,
    lsn: u64,
    last: Timestamp,
}

struct Builder {
    timelines: Vec<Live>,
    at: usize,
    time: Timestamp,
    backups: Vec<Backup>,
    moments: Vec<Moment>,
}

fn hours(n: u8) -> SignedDuration {
    SignedDuration::from_hours(HOURS[usize::from(n % 8)])
}

impl Builder {
    fn step(&mut self, [what, wait, wal, extra, flags]: [u8; 5]) {
        self.time += hours(wait);
        self.timelines[self.at].lsn += u64::from(wal % 4);
        match what % 16 {
            0..8 => self.back_up(extra, flags),
            8 | 9 => self.switch(self.timelines[self.at].lsn),
            10 => {
                let live = &self.timelines[self.at];
                self.switch(live.lsn - u64::from(extra) % (live.lsn - live.begin_lsn + 1));
            }
            11 => self.begin_lineage(extra),
            12 => self.return_to(extra),
            _ => {}
        }
        self.note();
    }

    fn note(&mut self) {
        let live = &mut self.timelines[self.at];
        live.last = self.time;
        let (lineage, timeline) = (live.of.lineage, live.of.timeline);
        self.moments.push(Moment {
            lineage,
            timeline,
            lsn: live.lsn,
            time: self.time,
        });
    }

    fn back_up(&mut self, length: u8, flags: u8) {
        let live = &mut self.timelines[self.at];
        let start_lsn = live.lsn;
        live.lsn += 1 + u64::from(length % 3);
        self.time += SignedDuration::from_mins(i64::from(length));
        self.backups.push(Backup {
            id: BackupId::from_number(self.backups.len() as u128 + 1),
            lineage: live.of.lineage,
            timeline: live.of.timeline,
            start_lsn,
            end_lsn: live.lsn,
            stored_at: self.time + SignedDuration::from_mins(i64::from(flags / 32) * 7),
            end_time: self.time,
            pinned: flags % 8 == 1,
            proven: flags % 4 == 2,
        });
    }

    fn add(&mut self, lineage: LineageId, timeline: u32, parent: Option<(u32, u64)>, lsn: u64) {
        let of = TimelineOf {
            lineage,
            timeline,
            parent,
            ended_at: None,
        };
        self.at = self.timelines.len();
        self.timelines.push(Live {
            of,
            begin_lsn: lsn,
            lsn,
            last: self.time,
        });
    }

    fn switch(&mut self, lsn: u64) {
        let from = self.timelines[self.at].of;
        let of_lineage = self.timelines.iter().filter(|live| live.of.lineage == from.lineage);
        let highest = of_lineage.map(|live| live.of.timeline).max().unwrap_or(0);
        self.add(from.lineage, highest + 1, Some((from.timeline, lsn)), lsn);
    }

    fn begin_lineage(&mut self, extra: u8) {
        let lineages = self
            .timelines
            .iter()
            .map(|live| u128::from_be_bytes(live.of.lineage.to_bytes()));
        let next = lineages.max().unwrap_or(0) + 1;
        if next <= 3 {
            self.add(
                LineageId::from_number(next),
                1 + u32::from(extra % 2),
                None,
                self.timelines[self.at].lsn,
            );
        }
    }

    fn return_to(&mut self, extra: u8) {
        self.at = usize::from(extra) % self.timelines.len();
    }

    /// `ends` says for each timeline whether its end is known, and how late its last WAL was stored.
    fn finish(mut self, ends: [u8; 16], now: Timestamp) -> World {
        self.time = self.time.max(now);
        self.note();
        let mut ancestry = Vec::new();
        for (at, live) in self.timelines.iter().enumerate() {
            let end = ends[at % 16];
            let is_known = at != self.at && !end.is_multiple_of(4);
            ancestry.push(TimelineOf {
                ended_at: is_known.then(|| live.last + hours(end / 64)),
                ..live.of
            });
        }
        World {
            case: Case {
                backups: self.backups,
                ancestry,
                now,
            },
            moments: self.moments,
        }
    }
}

/// Histories in which time goes forward. Now is mostly at their end, sometimes in their midst.
pub(super) fn worlds() -> impl Strategy<Value = World> {
    let steps = proptest::collection::vec(any::<[u8; 5]>(), 1..14);
    (steps, any::<[u8; 16]>(), any::<u8>(), any::<u8>()).prop_map(|(steps, ends, wait, back)| {
        let time = Timestamp::constant(BEGIN, 0);
        let mut builder = Builder {
            timelines: Vec::new(),
            at: 0,
            time,
            backups: Vec::new(),
            moments: Vec::new(),
        };
        builder.add(LineageId::from_number(1), 1, None, 0);
        steps.into_iter().for_each(|step| builder.step(step));
        let back = if back < 200 { SignedDuration::ZERO } else { hours(back) };
        let now = builder.time + hours(wait) - back;
        builder.finish(ends, now)
    })
}

/// Clocks that jump, LSNs and timelines that contradict each other.
pub(super) fn nonsense() -> impl Strategy<Value = Case> {
    let backups = proptest::collection::vec(any::<[u8; 8]>(), 0..10);
    let ancestry = proptest::collection::vec(any::<[u8; 6]>(), 0..6);
    (backups, ancestry, any::<u8>()).prop_map(|(backups, ancestry, now)| {
        let time = |n: u8| Timestamp::constant(BEGIN, 0) + SignedDuration::from_hours(i64::from(n) * 9);
        let backup = |(n, [place, start, length, stored, ended, flags, id, _]): (usize, [u8; 8])| Backup {
            id: BackupId::from_number(u128::from(id) * 100 + n as u128),
            lineage: LineageId::from_number(1 + u128::from(place & 1)),
            timeline: 1 + u32::from(place / 64),
            start_lsn: u64::from(start % 40),
            end_lsn: u64::from(start % 40) + u64::from(length % 12),
            stored_at: time(stored),
            end_time: time(ended),
            pinned: flags % 8 == 1,
            proven: flags % 4 == 2,
        };
        let entry = |[place, parent, switch, end, kind, own]: [u8; 6]| {
            let timeline = 1 + u32::from(place / 64);
            let sane = timeline.saturating_sub(1 + u32::from(parent % 3)).max(1);
            let parent = if kind > 250 { u32::from(parent % 5) } else { sane };
            TimelineOf {
                lineage: LineageId::from_number(1 + u128::from(place & 1)),
                timeline,
                parent: (timeline > 1 || kind > 250).then_some((parent, u64::from(switch % 50))),
                ended_at: (!own.is_multiple_of(4)).then(|| time(end)),
            }
        };
        let mut ancestry: Vec<TimelineOf> = ancestry.into_iter().map(entry).collect();
        if !now.is_multiple_of(8) {
            ancestry.sort_by_key(|entry| (entry.lineage, entry.timeline));
            ancestry.dedup_by_key(|entry| (entry.lineage, entry.timeline));
        }
        Case {
            backups: backups.into_iter().enumerate().map(backup).collect(),
            ancestry,
            now: time(now),
        }
    })
}
