//! The rules in force, what they have done so far, and the requests that are held.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::watch;

use super::fault::{Fault, Method, Rule};
use crate::seed::Rng;

/// Set while the server runs; a new rule counts from the next request on.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<State>,
    /// Counts releases; whoever is held waits for the next one.
    released: watch::Sender<u64>,
    held: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    keys_max: Option<usize>,
    injected: BTreeMap<&'static str, u64>,
    rng: Rng,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                rules: Vec::new(),
                keys_max: None,
                injected: BTreeMap::new(),
                rng: Rng::named("fault_s3"),
            }),
            released: watch::Sender::new(0),
            held: watch::Sender::new(0),
        }
    }

    /// Adds a rule. The first one that strikes a request decides.
    pub fn add(&self, rule: Rule) {
        self.state.lock().unwrap().rules.push(rule);
    }

    /// Pages of a listing have at most so many keys, whatever was asked for.
    pub fn limit_pages(&self, keys: Option<usize>) {
        self.state.lock().unwrap().keys_max = keys;
    }

    /// The store is well again: no rules, and what is held goes on. What it swallowed stays unanswered.
    pub fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
        self.release();
    }

    /// What is held now goes on.
    pub fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// How many requests are held now.
    pub fn held(&self) -> usize {
        *self.held.borrow()
    }

    /// How many faults of each kind have struck.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().unwrap().injected.clone()
    }

    /// Of all kinds together.
    pub fn total(&self) -> u64 {
        self.state.lock().unwrap().injected.values().sum()
    }

    /// Of one kind.
    pub fn count(&self, fault: Fault) -> u64 {
        self.injected().get(fault.name()).copied().unwrap_or(0)
    }

    pub(super) fn choose(&self, method: Method, key: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let State { rules, rng, .. } = &mut *state;
        let fault = rules
            .iter_mut()
            .find_map(|rule| rule.strike(method, key, |limit| rng.below(limit)))?;
        *state.injected.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    pub(super) fn keys_max(&self) -> Option<usize> {
        self.state.lock().unwrap().keys_max
    }

    /// A place for damage in `len` bytes.
    pub(super) fn place(&self, len: usize) -> usize {
        self.state.lock().unwrap().rng.below(len as u64) as usize
    }

    pub(super) async fn hold(&self) {
        let mut released = self.released.subscribe();
        self.held.send_modify(|held| *held += 1);
        // The sender lives as long as this value.
        let _ = released.changed().await;
        self.held.send_modify(|held| *held -= 1);
    }
}
