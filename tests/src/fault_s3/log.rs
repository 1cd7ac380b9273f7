//! Every request that came in: when, what, how it was answered, and when its object became durable. Readable at any time.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::fault::{Fault, Method};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet, or never.
    Open,
    /// With this status.
    Status(u16),
    /// With a broken connection instead of an answer.
    Dropped,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Entry {
    pub method: Method,
    /// The key in its bucket; of a listing, the prefix.
    pub key: String,
    pub begun: Instant,
    pub ended: Option<Instant>,
    pub end: End,
    pub fault: Option<Fault>,
    /// When the object that a PUT brought became durable; `None` if it did not.
    pub durable: Option<Instant>,
    /// A PUT that replaced an object.
    pub overwrote: bool,
}

/// The log of one server.
#[derive(Debug, Default)]
pub struct RequestLog {
    entries: Mutex<Vec<Entry>>,
}

impl RequestLog {
    /// All requests so far, in the order in which they came.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// How many requests have come.
    pub fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many requests were of this kind.
    pub fn count(&self, method: Method, key_part: &str) -> usize {
        let is_meant = |entry: &&Entry| entry.method == method && entry.key.contains(key_part);
        self.entries.lock().unwrap().iter().filter(is_meant).count()
    }

    /// Keys and instants of what has become durable, in that order of time: the log of completed PUTs.
    pub fn completed_puts(&self) -> Vec<(Instant, String)> {
        let completed = |entry: Entry| Some((entry.durable?, entry.key));
        let mut puts: Vec<_> = self.entries().into_iter().filter_map(completed).collect();
        puts.sort();
        puts
    }

    /// The faults that struck requests which were under way at `instant`.
    pub fn faults_at(&self, instant: Instant) -> Vec<String> {
        let under_way = |entry: &&Entry| entry.begun <= instant && entry.ended.is_none_or(|ended| ended >= instant);
        let named = |entry: &Entry| Some(format!("{} on {:?} {}", entry.fault?.name(), entry.method, entry.key));
        let entries = self.entries.lock().unwrap();
        entries.iter().filter(under_way).filter_map(named).collect()
    }

    pub(super) fn begin(self: &Arc<Self>, method: Method, key: &str, fault: Option<Fault>) -> Record {
        let mut entries = self.entries.lock().unwrap();
        entries.push(Entry {
            method,
            key: key.to_owned(),
            begun: Instant::now(),
            ended: None,
            end: End::Open,
            fault,
            durable: None,
            overwrote: false,
        });
        Record {
            log: Arc::clone(self),
            at: entries.len() - 1,
        }
    }
}

/// The entry of a request that is being served.
#[derive(Debug)]
pub(super) struct Record {
    log: Arc<RequestLog>,
    at: usize,
}

impl Record {
    fn amend(&self, change: impl FnOnce(&mut Entry)) {
        change(&mut self.log.entries.lock().unwrap()[self.at]);
    }

    pub(super) fn durable(&self, at: Instant, overwrote: bool) {
        self.amend(|entry| (entry.durable, entry.overwrote) = (Some(at), overwrote));
    }

    pub(super) fn end(&self, end: End) {
        self.amend(|entry| (entry.ended, entry.end) = (Some(Instant::now()), end));
    }
}
