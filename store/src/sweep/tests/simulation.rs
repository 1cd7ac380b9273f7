//! Writers, restores, retirements and sweeps take turns in random order, sleep, die, come too late; after every step each manifest that
//! counts has its packs, and so has each restore. Variants in which one rule is broken must be found out.
//!
//! `SEAWALL_INTERLEAVINGS` is the number of histories; each is some hundred steps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::retry::SplitMix;

const TIMES: Times = Times {
    duration_max_ms: 1000,
    grace_ms: 1500,
};
/// Restores take no longer.
const RESTORE_MAX_MS: i64 = TIMES.grace_ms;
const STEPS: u32 = 250;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Writers refer to packs in lists.
    ListsIgnored,
    /// Lists are read before the intent is stored.
    ListsReadTooEarly,
    /// A manifest counts whenever it comes.
    LateManifestsCount,
    /// What is condemned is deleted without another look at the manifests.
    NoSecondLook,
    /// The manifests are listed before the time is asked for.
    ManifestsListedFirst,
    /// The lists are read before the manifests.
    ListsBeforeManifests,
    /// Packs of a manifest that goes are not written down again.
    RetiredUnlisted,
    /// Packs are taken to be seen unneeded when their last manifest is about to go.
    RetiringIsSighting,
}

fn below(random: &SplitMix, limit: usize) -> usize {
    usize::try_from(random.next() % limit.max(1) as u64).unwrap()
}

fn one_in(random: &SplitMix, n: usize) -> bool {
    below(random, n) == 0
}

#[derive(Default)]
struct Store {
    now_ms: i64,
    packs: BTreeMap<PackNumber, i64>,
    intents: BTreeMap<BackupId, i64>,
    manifests: BTreeMap<BackupId, (i64, Vec<PackNumber>)>,
    lists: BTreeMap<u64, ListSeen>,
    next: u64,
}

impl Store {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn manifests(&self) -> Vec<ManifestSeen> {
        let all = self.manifests.iter().map(|(backup, (stored_ms, packs))| ManifestSeen {
            backup: *backup,
            stored_ms: *stored_ms,
            intent_stored_ms: self.intents.get(backup).copied(),
            duration_max_ms: TIMES.duration_max_ms,
            packs: packs.iter().collect(),
        });
        all.collect()
    }
}

struct Writer {
    backup: BackupId,
    has_intent: bool,
    /// What stood in lists when they were read.
    condemned: Option<BTreeSet<PackNumber>>,
    refers: Option<Vec<PackNumber>>,
    own_left: usize,
}

#[derive(Default)]
struct Sweeper {
    seen: Option<Seen>,
    manifests_first: Option<Vec<ManifestSeen>>,
    lists: Vec<u64>,
    looks: u32,
    plan: Option<SweepPlan>,
}

struct Restore {
    packs: RoaringBitmap,
    until_ms: i64,
}

struct World {
    random: SplitMix,
    broken: Broken,
    store: Store,
    writers: Vec<Writer>,
    sweepers: [Sweeper; 2],
    restores: Vec<Restore>,
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        World {
            random: SplitMix::new(seed),
            broken,
            store: Store::default(),
            writers: Vec::new(),
            sweepers: Default::default(),
            restores: Vec::new(),
        }
    }

    /// The first thing that is wrong.
    fn play(&mut self) -> Result<(), String> {
        for step in 0..STEPS {
            self.step();
            self.check().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        Ok(())
    }

    fn step(&mut self) {
        match below(&self.random, 10) {
            0 | 1 => {
                let longest = if one_in(&self.random, 12) { 2500 } else { 200 };
                self.store.now_ms += below(&self.random, longest) as i64;
            }
            2 => self.begin(),
            3..=5 => self.write(),
            6 => self.restore(),
            _ => {
                let which = below(&self.random, 2);
                self.sweep(which);
            }
        }
        let now_ms = self.store.now_ms;
        self.restores.retain(|restore| restore.until_ms >= now_ms);
    }

    fn begin(&mut self) {
        if self.writers.len() >= 3 {
            // One of them dies; what it stored stays.
            let which = below(&self.random, 3);
            self.writers.remove(which);
            return;
        }
        let backup = BackupId::from_number(u128::from(self.store.number()));
        let early = (self.broken == Broken::ListsReadTooEarly).then(|| self.condemned());
        self.writers.push(Writer {
            backup,
            has_intent: false,
            condemned: early,
            refers: None,
            own_left: below(&self.random, 3),
        });
    }

    fn condemned(&self) -> BTreeSet<PackNumber> {
        self.store
            .lists
            .values()
            .flat_map(|list| list.packs.iter().copied())
            .collect()
    }

    /// One step of one writer.
    fn write(&mut self) {
        if self.writers.is_empty() {
            return;
        }
        let which = below(&self.random, self.writers.len());
        let condemned = self.condemned();
        let (store, random, broken) = (&mut self.store, &self.random, self.broken);
        let Some(writer) = self.writers.get_mut(which) else {
            return;
        };
        if !writer.has_intent {
            store.intents.insert(writer.backup, store.now_ms);
            writer.has_intent = true;
        } else if writer.condemned.is_none() {
            writer.condemned = Some(condemned);
        } else if writer.refers.is_none() {
            // What the newest backup has, or what a dead one had stored: anything that is there and not condemned.
            let spared = |pack: &PackNumber| {
                broken == Broken::ListsIgnored || writer.condemned.as_ref().is_some_and(|list| !list.contains(pack))
            };
            let there = store.packs.keys().copied().filter(spared);
            writer.refers = Some(there.filter(|_| one_in(random, 3)).collect());
        } else if writer.own_left > 0 {
            writer.own_left -= 1;
            let own = PackNumber::try_from(store.number()).unwrap();
            store.packs.insert(own, store.now_ms);
            writer.refers.get_or_insert_default().push(own);
        } else {
            let writer = self.writers.remove(which);
            let refers = writer.refers.unwrap_or_default();
            // The commit looks whether everything is there, as it does; but that is no protection against what is deleted afterwards.
            if refers.iter().all(|pack| store.packs.contains_key(pack)) {
                store.manifests.insert(writer.backup, (store.now_ms, refers));
            }
        }
    }

    fn restore(&mut self) {
        let counting: Vec<_> = self
            .store
            .manifests()
            .into_iter()
            .filter(|manifest| self.counts(manifest))
            .collect();
        if counting.is_empty() {
            return;
        }
        let which = below(&self.random, counting.len());
        self.restores.push(Restore {
            packs: counting[which].packs.clone(),
            until_ms: self.store.now_ms + RESTORE_MAX_MS,
        });
    }

    fn counts(&self, manifest: &ManifestSeen) -> bool {
        self.broken == Broken::LateManifestsCount || is_in_time(manifest, TIMES)
    }

    /// One step of one sweeper; it may die before any of them.
    fn sweep(&mut self, which: usize) {
        let mut sweeper = std::mem::take(&mut self.sweepers[which]);
        if one_in(&self.random, 40) {
            return;
        }
        if self.broken == Broken::ManifestsListedFirst && sweeper.manifests_first.is_none() {
            sweeper.manifests_first = Some(self.store.manifests());
        } else if sweeper.seen.is_none() {
            sweeper.seen = Some(Seen {
                now_ms: self.store.now_ms,
                ..Seen::default()
            });
        } else if sweeper.plan.is_none() {
            self.look(&mut sweeper);
        } else if !self.carry_out(&mut sweeper) {
            return;
        }
        self.sweepers[which] = sweeper;
    }

    fn look(&mut self, sweeper: &mut Sweeper) {
        let Some(seen) = &mut sweeper.seen else { return };
        let (store, lists_first) = (&self.store, self.broken == Broken::ListsBeforeManifests);
        sweeper.looks += 1;
        if (sweeper.looks == 1) == lists_first {
            seen.packs = store.packs.clone();
            sweeper.lists = store.lists.keys().copied().collect();
            seen.lists = store.lists.values().cloned().collect();
        } else {
            seen.manifests = sweeper.manifests_first.take().unwrap_or_else(|| store.manifests());
        }
        if sweeper.looks == 1 {
            return;
        }
        let retire: BTreeSet<BackupId> = seen
            .manifests
            .iter()
            .filter(|_| one_in(&self.random, 4))
            .map(|manifest| manifest.backup)
            .collect();
        let mut plan = plan_sweep(seen, &retire, TIMES).unwrap();
        match self.broken {
            Broken::NoSecondLook => plan.delete.extend(std::mem::take(&mut plan.reprieved)),
            Broken::RetiredUnlisted => {
                let named: BTreeSet<_> = seen.lists.iter().flat_map(|list| &list.packs).collect();
                plan.condemn_last.retain(|pack| !named.contains(pack));
            }
            _ => {}
        }
        sweeper.plan = Some(plan);
    }

    /// False at the end of the run.
    fn carry_out(&mut self, sweeper: &mut Sweeper) -> bool {
        let Some(plan) = &mut sweeper.plan else { return false };
        let store = &mut self.store;
        if let Some(pack) = plan.delete.pop_first() {
            store.packs.remove(&pack);
        } else if let Some(place) = plan.close.pop() {
            store.lists.remove(&sweeper.lists[place]);
        } else if !plan.condemn.is_empty() {
            let list = ListSeen {
                stored_ms: store.now_ms,
                looked_ms: sweeper.seen.as_ref().map(|seen| seen.now_ms),
                packs: std::mem::take(&mut plan.condemn).into_iter().collect(),
            };
            let number = store.number();
            store.lists.insert(number, list);
        } else if !plan.condemn_last.is_empty() {
            let list = ListSeen {
                stored_ms: store.now_ms,
                looked_ms: (self.broken == Broken::RetiringIsSighting).then_some(store.now_ms),
                packs: std::mem::take(&mut plan.condemn_last).into_iter().collect(),
            };
            let number = store.number();
            store.lists.insert(number, list);
        } else if let Some(backup) = plan.retire.pop_first() {
            store.manifests.remove(&backup);
        } else {
            return false;
        }
        true
    }

    fn check(&self) -> Result<(), String> {
        for manifest in self.store.manifests().iter().filter(|manifest| self.counts(manifest)) {
            if let Some(pack) = manifest.packs.iter().find(|pack| !self.store.packs.contains_key(pack)) {
                return Err(format!("backup {:?} has lost pack {pack:?}", manifest.backup));
            }
        }
        for restore in &self.restores {
            if let Some(pack) = restore.packs.iter().find(|pack| !self.store.packs.contains_key(pack)) {
                return Err(format!("a restore has lost pack {pack:?}"));
            }
        }
        Ok(())
    }
}

fn histories() -> u64 {
    let asked = std::env::var("SEAWALL_INTERLEAVINGS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(3000)
}

#[test]
fn nothing_that_somebody_relies_on_is_deleted_in_any_order_of_things() {
    let mut deleted = 0u64;
    for seed in 0..histories() {
        let mut world = World::new(seed, Broken::Nothing);
        if let Err(wrong) = world.play() {
            panic!("seed {seed}: {wrong}");
        }
        deleted += world.store.next - world.store.packs.len() as u64;
    }
    assert!(deleted > histories(), "hardly anything happened");
    println!("{} histories of {STEPS} steps: nothing dangles", histories());
}

#[test]
fn each_rule_is_needed() {
    for broken in [
        Broken::ListsIgnored,
        Broken::ListsReadTooEarly,
        Broken::LateManifestsCount,
        Broken::NoSecondLook,
        Broken::ManifestsListedFirst,
        Broken::ListsBeforeManifests,
        Broken::RetiredUnlisted,
        Broken::RetiringIsSighting,
    ] {
        let found = (0..20_000).find(|seed| World::new(*seed, broken).play().is_err());
        assert!(found.is_some(), "{broken:?} was never found out");
        println!("{broken:?}: found out by history {}", found.unwrap_or_default());
    }
}

#[test]
fn in_the_end_only_what_is_needed_is_there() {
    for seed in 0..300 {
        let mut world = World::new(seed, Broken::Nothing);
        world.play().unwrap();
        let counting = world
            .store
            .manifests()
            .into_iter()
            .filter(|manifest| is_in_time(manifest, TIMES));
        let counting: Vec<_> = counting.flat_map(|manifest| manifest.packs).collect();
        let store = &mut world.store;
        for _ in 0..4 {
            store.now_ms += TIMES.grace_ms + 1;
            let lists: Vec<u64> = store.lists.keys().copied().collect();
            let seen = Seen {
                now_ms: store.now_ms,
                packs: store.packs.clone(),
                lists: store.lists.values().cloned().collect(),
                manifests: store.manifests(),
            };
            // Whoever sweeps retires what came too late; until then its packs stay, and stay listed.
            let late = seen.manifests.iter().filter(|manifest| !is_in_time(manifest, TIMES));
            let late: BTreeSet<BackupId> = late.map(|manifest| manifest.backup).collect();
            let plan = plan_sweep(&seen, &late, TIMES).unwrap();
            store.packs.retain(|pack, _| !plan.delete.contains(pack));
            plan.close
                .iter()
                .for_each(|place| drop(store.lists.remove(&lists[*place])));
            for (looked_ms, packs) in [(Some(seen.now_ms), plan.condemn), (None, plan.condemn_last)] {
                let list = ListSeen {
                    stored_ms: store.now_ms,
                    looked_ms,
                    packs: packs.into_iter().collect(),
                };
                if !list.packs.is_empty() {
                    let number = store.number();
                    store.lists.insert(number, list);
                }
            }
            store.manifests.retain(|backup, _| !plan.retire.contains(backup));
        }
        let needed: BTreeSet<PackNumber> = store
            .manifests()
            .iter()
            .flat_map(|manifest| manifest.packs.clone())
            .collect();
        let there: BTreeSet<PackNumber> = store.packs.keys().copied().collect();
        assert_eq!(there, needed, "seed {seed}");
        assert!(counting.iter().all(|pack| there.contains(pack)), "seed {seed}");
        assert!(store.lists.is_empty(), "seed {seed}");
    }
}
