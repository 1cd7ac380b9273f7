//! The protocol of writers, commit, prune and restore as a model: every order of steps of a small configuration is gone through, with the plan
//! that the product makes. `SEAWALL_MODEL=large` takes the larger configuration.
//!
//! One tick of the store's clock is the unit. Anybody sleeps between any two steps for any number of ticks, or for ever.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker as _, Model, Property};

use super::*;

const TIMES: Times = Times {
    duration_max_ms: 1,
    grace_ms: 3,
};
/// A restore takes no longer: the grace.
const RESTORE_MAX: i8 = 3;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    ListsIgnored,
    LateManifestsCount,
    RetiringIsSighting,
}

#[derive(Clone, Debug)]
struct Protocol {
    broken: Broken,
    /// The clock stops here.
    ticks: i8,
    writers: u8,
    sweepers: usize,
    /// Runs of each sweeper.
    runs: u8,
}

type Packs = BTreeSet<u8>;
/// When each was stored, when the run began that sighted its packs, and what stands in it.
type Lists = BTreeMap<u8, (i8, Option<i8>, Packs)>;
/// When each was stored and begun, and what it needs.
type Manifests = BTreeMap<u8, (i8, Option<i8>, Packs)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: i8,
    packs: BTreeMap<u8, i8>,
    intents: BTreeMap<u8, i8>,
    manifests: BTreeMap<u8, (i8, Packs)>,
    /// By number, in the order in which they were written.
    lists: Lists,
    next_list: u8,
    writers: Vec<Writer>,
    sweepers: Vec<Sweeper>,
    /// Until when, and what it relies on.
    restore: Option<(i8, Packs)>,
    has_restored: bool,
    is_asleep: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Announced,
    /// What stood in lists.
    Asked(Packs),
    /// What its manifest will need.
    Chosen(Packs),
    Done,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Sweeper {
    runs: u8,
    began: Option<i8>,
    manifests: Option<Manifests>,
    /// Packs and lists as they were seen.
    rest: Option<(BTreeMap<u8, i8>, Lists)>,
    plan: Option<Todo>,
}

/// What is left of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Todo {
    delete: Packs,
    close: BTreeSet<u8>,
    condemn: Packs,
    condemn_last: Packs,
    retire: BTreeSet<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    /// The next step of a writer; what it chooses to refer to.
    Write(u8, Packs),
    /// The next step of a sweeper; which backup it gives up.
    Sweep(usize, Option<u8>),
    Restore(u8),
    /// The sweeper that has slept since it wrote down that backup 0 goes deletes its manifest.
    Wake,
}

impl State {
    fn condemned(&self) -> Packs {
        self.lists
            .values()
            .flat_map(|(_, _, packs)| packs.iter().copied())
            .collect()
    }

    fn counts(&self, backup: u8, stored: i8, broken: Broken) -> bool {
        let begun = self.intents.get(&backup);
        broken == Broken::LateManifestsCount
            || begun.is_some_and(|begun| i64::from(stored - begun) <= TIMES.duration_max_ms)
    }
}

/// All subsets of a small set.
fn subsets(of: &Packs) -> Vec<Packs> {
    of.iter().fold(vec![Packs::new()], |known, pack| {
        let with = known.iter().map(|one| one.iter().copied().chain([*pack]).collect());
        with.chain(known.iter().cloned()).collect()
    })
}

impl Protocol {
    fn plan(&self, sweeper: &Sweeper, retire: Option<u8>) -> Todo {
        let (Some(now), Some(manifests), Some((packs, lists))) = (sweeper.began, &sweeper.manifests, &sweeper.rest)
        else {
            return Todo::default();
        };
        let seen = Seen {
            now_ms: i64::from(now),
            packs: packs
                .iter()
                .map(|(pack, stored)| (u32::from(*pack), i64::from(*stored)))
                .collect(),
            lists: lists
                .values()
                .map(|(stored, looked, packs)| ListSeen {
                    stored_ms: i64::from(*stored),
                    looked_ms: looked.map(i64::from),
                    packs: packs.iter().map(|pack| u32::from(*pack)).collect(),
                })
                .collect(),
            manifests: manifests
                .iter()
                .map(|(backup, (stored, begun, packs))| ManifestSeen {
                    backup: BackupId::from_number(u128::from(*backup)),
                    stored_ms: i64::from(*stored),
                    intent_stored_ms: begun.map(i64::from),
                    duration_max_ms: TIMES.duration_max_ms,
                    packs: packs.iter().map(|pack| u32::from(*pack)).collect(),
                })
                .collect(),
        };
        let going = retire
            .iter()
            .map(|backup| BackupId::from_number(u128::from(*backup)))
            .collect();
        let plan = plan_sweep(&seen, &going, TIMES).unwrap();
        let numbers: Vec<u8> = lists.keys().copied().collect();
        let packs = |set: &BTreeSet<PackNumber>| set.iter().map(|pack| *pack as u8).collect();
        Todo {
            delete: packs(&plan.delete),
            close: plan.close.iter().map(|place| numbers[*place]).collect(),
            condemn: packs(&plan.condemn),
            condemn_last: packs(&plan.condemn_last),
            retire: retire
                .filter(|backup| manifests.contains_key(backup))
                .into_iter()
                .collect(),
        }
    }

    fn write(&self, state: &mut State, which: u8, chosen: &Packs) {
        let backup = which + 1;
        let writer = state.writers[usize::from(which)].clone();
        state.writers[usize::from(which)] = match writer {
            Writer::Idle => {
                state.intents.insert(backup, state.now);
                Writer::Announced
            }
            Writer::Announced => Writer::Asked(state.condemned()),
            Writer::Asked(_) => {
                // A pack of its own, numbered after the backup.
                let own = 10 + backup;
                state.packs.insert(own, state.now);
                Writer::Chosen(chosen.iter().copied().chain([own]).collect())
            }
            Writer::Chosen(packs) => {
                if packs.iter().all(|pack| state.packs.contains_key(pack)) {
                    state.manifests.insert(backup, (state.now, packs));
                }
                Writer::Done
            }
            Writer::Done => Writer::Done,
        };
    }

    fn sweep(&self, state: &mut State, which: usize, retire: Option<u8>) {
        let mut sweeper = state.sweepers[which].clone();
        if sweeper.began.is_none() {
            sweeper.began = Some(state.now);
        } else if sweeper.manifests.is_none() {
            let seen = state.manifests.iter().map(|(backup, (stored, packs))| {
                (*backup, (*stored, state.intents.get(backup).copied(), packs.clone()))
            });
            sweeper.manifests = Some(seen.collect());
        } else if sweeper.rest.is_none() {
            sweeper.rest = Some((state.packs.clone(), state.lists.clone()));
        } else if let Some(todo) = &mut sweeper.plan {
            if let Some(pack) = todo.delete.pop_first() {
                state.packs.remove(&pack);
            } else if let Some(list) = todo.close.pop_first() {
                state.lists.remove(&list);
            } else if !todo.condemn.is_empty() {
                let packs = std::mem::take(&mut todo.condemn);
                state.lists.insert(state.next_list, (state.now, sweeper.began, packs));
                state.next_list += 1;
            } else if !todo.condemn_last.is_empty() {
                let packs = std::mem::take(&mut todo.condemn_last);
                let sighted = (self.broken == Broken::RetiringIsSighting).then_some(state.now);
                state.lists.insert(state.next_list, (state.now, sighted, packs));
                state.next_list += 1;
            } else if let Some(backup) = todo.retire.pop_first() {
                state.manifests.remove(&backup);
            }
            if *todo == Todo::default() {
                sweeper = Sweeper {
                    runs: sweeper.runs + 1,
                    ..Sweeper::default()
                };
            }
        } else {
            sweeper.plan = Some(self.plan(&sweeper, retire));
        }
        state.sweepers[which] = sweeper;
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let is_sighting = self.broken == Broken::RetiringIsSighting;
        // Backup 0 needs pack 1; pack 2 is left over.
        vec![State {
            now: 0,
            packs: BTreeMap::from([(1, -9), (2, -9)]),
            intents: BTreeMap::from([(0, -9)]),
            manifests: BTreeMap::from([(0, (-9, Packs::from([1])))]),
            // Somebody has written down that backup 0 goes, and sleeps since.
            lists: BTreeMap::from([(0, (-1, is_sighting.then_some(-1), Packs::from([1])))]),
            next_list: 1,
            is_asleep: true,
            writers: vec![Writer::Idle; usize::from(self.writers)],
            sweepers: vec![Sweeper::default(); self.sweepers],
            restore: None,
            has_restored: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_asleep {
            actions.push(Action::Wake);
        }
        if state.now < self.ticks {
            actions.push(Action::Tick);
        }
        for (which, writer) in (0u8..).zip(&state.writers) {
            match writer {
                Writer::Done => {}
                Writer::Asked(condemned) => {
                    let is_usable = |pack: &u8| self.broken == Broken::ListsIgnored || !condemned.contains(pack);
                    let usable: Packs = state.packs.keys().copied().filter(is_usable).collect();
                    actions.extend(subsets(&usable).into_iter().map(|chosen| Action::Write(which, chosen)));
                }
                _ => actions.push(Action::Write(which, Packs::new())),
            }
        }
        for (which, sweeper) in state
            .sweepers
            .iter()
            .enumerate()
            .filter(|(_, sweeper)| sweeper.runs < self.runs)
        {
            actions.push(Action::Sweep(which, None));
            let plans = sweeper.plan.is_none() && sweeper.rest.is_some();
            let seen = sweeper.manifests.iter().filter(|_| plans).flat_map(BTreeMap::keys);
            actions.extend(seen.map(|backup| Action::Sweep(which, Some(*backup))));
        }
        if !state.has_restored {
            let counting = state
                .manifests
                .iter()
                .filter(|(backup, (stored, _))| state.counts(**backup, *stored, self.broken));
            actions.extend(counting.map(|(backup, _)| Action::Restore(*backup)));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Tick => {
                state.now += 1;
                if state.restore.as_ref().is_some_and(|(until, _)| *until < state.now) {
                    state.restore = None;
                }
            }
            Action::Write(which, chosen) => self.write(&mut state, which, &chosen),
            Action::Sweep(which, retire) => self.sweep(&mut state, which, retire),
            Action::Wake => {
                state.manifests.remove(&0);
                state.is_asleep = false;
            }
            Action::Restore(backup) => {
                let (_, packs) = state.manifests.get(&backup)?;
                state.restore = Some((state.now + RESTORE_MAX, packs.clone()));
                state.has_restored = true;
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing dangles", |model: &Protocol, state: &State| {
                let there = |packs: &Packs| packs.iter().all(|pack| state.packs.contains_key(pack));
                let mut counting = state
                    .manifests
                    .iter()
                    .filter(|(backup, (stored, _))| state.counts(**backup, *stored, model.broken));
                counting.all(|(_, (_, packs))| there(packs)) && state.restore.iter().all(|(_, packs)| there(packs))
            }),
            Property::sometimes("a pack is deleted", |_: &Protocol, state: &State| {
                !state.packs.contains_key(&2)
            }),
            Property::sometimes(
                "a pack of a backup that was given up is deleted",
                |_: &Protocol, state: &State| !state.packs.contains_key(&1),
            ),
        ]
    }
}

fn protocol(broken: Broken) -> Protocol {
    let (ticks, writers, sweepers) = match std::env::var("SEAWALL_MODEL").as_deref() {
        Ok("large") => (6, 2, 2),
        Ok("middle") => (5, 1, 1),
        _ => (4, 1, 1),
    };
    Protocol {
        broken,
        ticks,
        writers,
        sweepers,
        runs: 2,
    }
}

#[test]
fn in_every_order_of_steps_nothing_dangles() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = protocol(Broken::Nothing).checker().threads(threads).spawn_bfs().join();
    println!(
        "model: {} states, {} of them different",
        checker.state_count(),
        checker.unique_state_count()
    );
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1000);
}

#[test]
fn the_model_finds_a_rule_that_is_broken() {
    for broken in [
        Broken::ListsIgnored,
        Broken::LateManifestsCount,
        Broken::RetiringIsSighting,
    ] {
        let one = Protocol {
            sweepers: 1,
            ..protocol(broken)
        };
        let checker = one.checker().spawn_bfs().join();
        assert!(
            checker.discovery("nothing dangles").is_some(),
            "{broken:?} was not found out"
        );
        println!("{broken:?}: found out after {} states", checker.unique_state_count());
    }
}
