//! Backups, prunes and restores by the real code, a request at a time in random order, on a store whose clock jumps: nothing that counts ever
//! dangles. They sleep between any two requests, and die there.
//!
//! Packs are put as bare names: what is in them does not matter here. `SEAWALL_PRUNE_INTERLEAVINGS` is the number of histories, from that of
//! `SEAWALL_FIRST_SEED` on, played on as many threads as there are cores.

use std::collections::BTreeSet;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;

use super::scheduled::Scheduled;
use crate::id::{BackupId, LineageId, PackId};
use crate::inventory::Named;
use crate::keys::SigningKey;
use crate::manifest::{Manifest, PackNeed};
use crate::object::memory::MemoryStore;
use crate::object::{ObjectName, ObjectStore as _, PutNew, list_all};
use crate::pipeline::{commit, earlier};
use crate::prune::{Looked, Policy, carry_out, mark_time, plan};
use crate::records::Intent;
use crate::repository::{Repository, Writer, create};
use crate::retention::Rules;
use crate::retry::SplitMix;
use crate::testing::NEW_REPOSITORY;
use crate::testing::manifest::empty_manifest;

const GRACE: Duration = Duration::from_secs(4000);
/// Three quarters of it, see [`Policy`].
const DURATION_MAX_MS: i64 = 3_000_000;
/// Restores take no longer: the grace, less what rounding may cost.
const RESTORE_MAX_MS: i64 = 3_900_000;
const STEPS: u32 = 100;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Backups do not ask what is condemned.
    ListsIgnored,
    /// The intent comes after everything was looked at.
    IntentLast,
    /// Restores rely on what came too late.
    LateCounts,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What a restore relies on until then.
type Relied = Arc<Mutex<Vec<(i64, Vec<ObjectName>)>>>;

/// A repository in memory, made once; histories begin with its first objects.
struct Origin {
    objects: Vec<(ObjectName, Bytes)>,
    memory: MemoryStore,
    host: Arc<Writer>,
    keeper: Arc<Writer>,
    packs: String,
}

impl Origin {
    fn new() -> Self {
        let memory = MemoryStore::new();
        let (created, _) = run_alone(create(Arc::new(memory.clone()), NEW_REPOSITORY, |_| Ok(()))).unwrap();
        let store = Arc::new(Scheduled(memory.clone()));
        let host = Arc::new(run_alone(Repository::open_as_host(store.clone(), &created.host)).unwrap());
        let keeper = Arc::new(run_alone(Repository::open_as_keeper(store, &created.maintenance)).unwrap());
        let writer = |repository: &Arc<Repository>, seed| {
            let signing = Arc::new(SigningKey::from_seed(seed).unwrap());
            Arc::new(Writer::new(Arc::clone(repository), signing, 0))
        };
        Origin {
            objects: memory.snapshot().into_iter().collect(),
            packs: host.layout().prefix("packs"),
            host: writer(&host, created.host.signing.seed().clone()),
            keeper: writer(&keeper, created.maintenance.signing_seed.clone().unwrap()),
            memory,
        }
    }
}

/// Runs what never waits for anything but its turns.
fn run_alone<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

struct World<'a> {
    origin: &'a Origin,
    random: Arc<SplitMix>,
    broken: Broken,
    tasks: Vec<Task>,
    /// The first of them sleeps until this step.
    asleep_until: u32,
    relied: Relied,
    backups: u64,
    deleted: u64,
}

fn below(random: &SplitMix, limit: u64) -> u64 {
    random.next() % limit.max(1)
}

impl<'a> World<'a> {
    fn new(origin: &'a Origin, seed: u64, broken: Broken) -> Self {
        origin.memory.reset(&origin.objects);
        World {
            origin,
            random: Arc::new(SplitMix::new(seed)),
            broken,
            tasks: Vec::new(),
            asleep_until: 0,
            relied: Relied::default(),
            backups: 0,
            deleted: 0,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        for step in 0..STEPS {
            let before = self.packs();
            self.step(step);
            self.deleted += before.saturating_sub(self.packs()) as u64;
            self.check().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        Ok(())
    }

    fn step(&mut self, step: u32) {
        match below(&self.random, 16) {
            0 | 1 => {
                let longest = if below(&self.random, 3) == 0 {
                    6_000_000
                } else {
                    300_000
                };
                self.origin.memory.advance(below(&self.random, longest) as i64);
            }
            2 if self.tasks.len() < 5 => self.begin(),
            // It dies.
            3 if step >= self.asleep_until && !self.tasks.is_empty() && below(&self.random, 4) == 0 => {
                let which = below(&self.random, self.tasks.len() as u64) as usize;
                drop(self.tasks.swap_remove(which));
            }
            _ if self.tasks.is_empty() => self.begin(),
            4 if step > self.asleep_until => {
                let which = below(&self.random, self.tasks.len() as u64) as usize;
                self.tasks.swap(0, which);
                self.asleep_until = step + below(&self.random, 120) as u32;
            }
            _ => {
                let awake = usize::from(step < self.asleep_until);
                match self.tasks.len() - awake {
                    0 => self.begin(),
                    some => self.run(awake + below(&self.random, some as u64) as usize),
                }
            }
        }
        let now_ms = self.origin.memory.now_unix_ms();
        self.relied.lock().unwrap().retain(|(until_ms, _)| *until_ms >= now_ms);
    }

    /// One of them comes some requests further, the others sleep: only a few, or until it is done.
    fn run(&mut self, which: usize) {
        let longest = if below(&self.random, 2) == 0 { 4 } else { 60 };
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..=below(&self.random, longest) {
            if self.tasks[which].as_mut().poll(&mut context).is_ready() {
                drop(self.tasks.swap_remove(which));
                break;
            }
        }
    }

    fn begin(&mut self) {
        let Origin {
            memory, host, keeper, ..
        } = self.origin;
        let (random, broken) = (Arc::clone(&self.random), self.broken);
        let task: Task = match below(&self.random, 5) {
            0 | 1 => {
                self.backups += 1;
                let id = BackupId::from_parts(self.backups, [1; 10]);
                Box::pin(backup(Arc::clone(host), id, random, broken))
            }
            2 => {
                let (host, relied) = (Arc::clone(host.repository()), Arc::clone(&self.relied));
                Box::pin(restore(host, memory.clone(), relied, random, broken))
            }
            _ => Box::pin(prune(Arc::clone(keeper), random)),
        };
        self.tasks.push(task);
    }

    fn packs(&self) -> usize {
        self.origin.memory.names(&self.origin.packs).len()
    }

    fn check(&self) -> Result<(), String> {
        for (_, packs) in self.relied.lock().unwrap().iter() {
            if let Some(pack) = packs.iter().find(|pack| !self.origin.memory.contains(pack)) {
                return Err(format!("a restore has lost {pack}"));
            }
        }
        Ok(())
    }

    /// Every backup that counts has its packs. Read at the end of a history: what it has lost by then never comes back.
    fn check_backups(&self) -> Result<(), String> {
        let host = self.origin.host.repository();
        for id in run_alone(host.backup_ids()).unwrap() {
            let manifest = run_alone(host.manifest(id)).unwrap();
            let counts = self.broken == Broken::LateCounts || run_alone(host.is_in_time(&manifest)).unwrap();
            let is_lost = |need: &&PackNeed| !self.origin.memory.contains(&host.layout().pack(need.id).unwrap());
            let lost = manifest.packs.iter().find(is_lost);
            if let (true, Some(need)) = (counts, lost) {
                return Err(format!("backup {id} has lost pack {:?}", need.id));
            }
        }
        Ok(())
    }
}

/// A backup as the agent takes it: intent, look, packs, manifest.
async fn backup(writer: Arc<Writer>, id: BackupId, random: Arc<SplitMix>, broken: Broken) {
    let repository = Arc::clone(writer.repository());
    let intent = Intent {
        backup: id,
        host: "h".into(),
        begun_us: 0,
    };
    if broken != Broken::IntentLast {
        commit::put_intent(&writer, &intent).await.unwrap();
    }
    let earlier = earlier::load(&repository, None).await.unwrap();
    let mut packs: BTreeSet<PackId> = BTreeSet::new();
    // Of its parent, of one that died, by an index: anything that is there, if it may.
    for pack in all_packs(&repository).await {
        let is_usable = broken == Broken::ListsIgnored || earlier.filter.is_usable(pack);
        if is_usable && below(&random, 2) == 0 {
            packs.insert(pack);
        }
    }
    for _ in 0..1 + below(&random, 2) {
        let mut pack = [0; 16];
        for byte in &mut pack {
            *byte = random.next() as u8;
        }
        let name = repository.layout().pack(PackId(pack)).unwrap();
        let put = repository.store().put_new(&name, Bytes::from_static(b"pack")).await;
        assert_eq!(put.unwrap(), PutNew::Created);
        packs.insert(PackId(pack));
    }
    if broken == Broken::IntentLast {
        commit::put_intent(&writer, &intent).await.unwrap();
    }
    let needs = packs.into_iter().map(|id| PackNeed {
        id,
        kind: 1,
        body_bytes: 4,
        live_bytes: 4,
    });
    let manifest = Manifest {
        packs: needs.collect(),
        duration_max_us: (DURATION_MAX_MS * 1000) as u64,
        component: None,
        ..empty_manifest(id, LineageId::from_parts(1, [1; 10]))
    };
    commit::put_manifest(&writer, &manifest).await.unwrap();
}

async fn all_packs(repository: &Repository) -> Vec<PackId> {
    let prefix = repository.layout().prefix("packs");
    let listed = list_all(repository.store().as_ref(), &prefix).await.unwrap();
    let ids = listed
        .iter()
        .filter_map(|meta| match repository.layout().parse(meta.name.as_str()) {
            Some(Named::Pack(id)) => Some(id),
            _ => None,
        });
    ids.collect()
}

/// A restore relies on its packs from when it has read the manifest.
async fn restore(
    repository: Arc<Repository>,
    memory: MemoryStore,
    relied: Relied,
    random: Arc<SplitMix>,
    broken: Broken,
) {
    let ids = repository.backup_ids().await.unwrap();
    let Some(id) = ids.get(below(&random, ids.len() as u64) as usize) else {
        return;
    };
    // Given up since it was listed.
    let Ok(manifest) = repository.manifest(*id).await else {
        return;
    };
    let Ok(in_time) = repository.is_in_time(&manifest).await else {
        return;
    };
    if !in_time && broken != Broken::LateCounts {
        return;
    }
    let begun = repository
        .store()
        .head(&repository.layout().manifest(*id).unwrap())
        .await
        .unwrap();
    if begun.is_none() {
        return;
    }
    let names = manifest.packs.iter().map(|need| repository.layout().pack(need.id));
    let packs = names.collect::<Result<_, _>>().unwrap();
    relied
        .lock()
        .unwrap()
        .push((memory.now_unix_ms() + RESTORE_MAX_MS, packs));
}

async fn prune(writer: Arc<Writer>, random: Arc<SplitMix>) {
    let repository = Arc::clone(writer.repository());
    let policy = Policy {
        rules: Rules {
            keep_last: NonZeroU32::new(1 + below(&random, 2) as u32),
            ..Rules::default()
        },
        grace: GRACE,
        components: std::collections::BTreeMap::new(),
        is_copy: false,
    };
    // It slept so long that another run has cleared its mark away.
    let Ok((mark, now_ms)) = mark_time(&writer, "k", 0).await else {
        return;
    };
    let looked = Looked::look(&repository, now_ms, policy.times().grace_ms).await;
    let Ok(looked) = looked else { return };
    let Ok(plan) = plan(&looked, &policy, "k", 0) else {
        return;
    };
    carry_out(&writer, &looked, &plan, |_| ()).await.unwrap();
    repository.store().delete(&mark).await.unwrap();
}

fn play(origin: &Origin, seed: u64, broken: Broken) -> Result<u64, String> {
    let mut world = World::new(origin, seed, broken);
    world.play()?;
    world.tasks.clear();
    world.check_backups()?;
    Ok(world.deleted)
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let asked = std::env::var(variable).ok();
    asked.map_or(otherwise, |text| text.parse().unwrap())
}

/// Packs that were deleted in all of them, on one thread.
fn play_all(seeds: impl Iterator<Item = u64>) -> u64 {
    let origin = Origin::new();
    seeds
        .map(|seed| match play(&origin, seed, Broken::Nothing) {
            Ok(packs) => packs,
            Err(wrong) => panic!("history {seed}: {wrong}"),
        })
        .sum()
}

#[test]
fn nothing_that_counts_dangles_in_any_order_of_requests() {
    let first = number("SEAWALL_FIRST_SEED", 0);
    let histories = number("SEAWALL_PRUNE_INTERLEAVINGS", 1000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let deleted: u64 = std::thread::scope(|scope| {
        let play = |thread| move || play_all((first + thread..first + histories).step_by(threads as usize));
        let players: Vec<_> = (0..threads).map(|thread| scope.spawn(play(thread))).collect();
        players.into_iter().map(|player| player.join().unwrap()).sum()
    });
    println!("{histories} histories of {STEPS} steps from {first}, {deleted} packs deleted: nothing dangles");
    assert!(deleted > histories, "hardly anything was deleted: {deleted}");
}

#[test]
fn each_rule_of_the_real_code_is_needed() {
    let origin = Origin::new();
    for broken in [Broken::ListsIgnored, Broken::IntentLast, Broken::LateCounts] {
        let found = (0..3000).find(|seed| play(&origin, *seed, broken).is_err());
        assert!(found.is_some(), "{broken:?} was never found out");
        println!("{broken:?}: found out by history {}", found.unwrap_or_default());
    }
}
