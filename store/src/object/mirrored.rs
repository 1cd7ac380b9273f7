//! One repository in several places: each object is put to all of them, after it was read, compressed and sealed once.
//!
//! One place *leads*: what it has is stored, and what is read comes from it, so what was ever confirmed lies in one single place, without a gap. The others are
//! copies with the same id and keys. A copy that missed something is *behind* until somebody has filled it ([`crate::copy`]) and says so
//! ([`Mirrored::found_whole`]).
//!
//! - [`Confirm::First`]: the repository leads.
//! - [`Confirm::All`]: the repository leads, and gets WAL and packs last: what it has, every copy has.
//! - [`Confirm::Any`]: when the one that leads fails, a copy that is whole takes its place, once everything that was on its way there has arrived.
//!
//! With what makes a backup (its intent, its index, its manifest) copies are filled, and never by a put: only so do they come after everything that the backup needs *there*,
//! and after that place's own lists of what is to be deleted (law 1, decision 0022).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio::task::JoinHandle;

use super::{
    ByteRange, Capabilities, ErrorClass, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation,
    Outcome, PutNew,
};
use crate::layout::directory_of;

/// When an object counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confirm {
    /// When the repository has it.
    #[default]
    First,
    /// When one place has it that has everything else.
    Any,
    /// When all places have it.
    All,
}

/// How a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// Something is missing.
    Behind,
    /// Nothing is missing, but for backups that are being filled in.
    Whole,
}

/// Bytes on their way to one copy for which nobody waits.
const ROOM_BYTES: usize = 64 << 20;
/// Unit of the room.
const ROOM_UNIT: usize = 4096;
/// How long a copy that is to lead is waited for.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// Are these two the same object, put twice? Only who has the keys can tell: it was sealed twice.
pub type Judge = Box<dyn Fn(&ObjectName, &Bytes, &Bytes) -> bool + Send + Sync>;

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    /// How often something was missed.
    misses: u64,
    on_their_way: u64,
}

/// A place, and how it is.
#[derive(Debug)]
pub struct Place {
    /// What the configuration calls it; for people.
    pub name: String,
    store: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    arrived: Notify,
    room: Arc<Semaphore>,
}

impl Place {
    /// A place that nobody has looked at.
    #[must_use]
    pub fn new(name: &str, store: Arc<dyn ObjectStore>) -> Self {
        Place {
            name: name.to_owned(),
            store,
            state: Mutex::default(),
            arrived: Notify::new(),
            room: Arc::new(Semaphore::new(ROOM_BYTES / ROOM_UNIT)),
        }
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.state().standing
    }

    /// How often it has missed something. Ask before looking what is missing.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.state().misses
    }

    fn fall_behind(&self, why: &dyn std::fmt::Display) {
        let mut state = self.state();
        state.misses += 1;
        if state.standing == Standing::Whole {
            tracing::warn!(place = %self.name, %why, "a copy of the repository falls behind");
        }
        state.standing = Standing::Behind;
    }

    /// Waits until nothing is on its way.
    async fn settled(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.state().on_their_way == 0 {
                return;
            }
            arrived.await;
        }
    }

    fn leaves(&self) {
        self.state().on_their_way += 1;
    }

    fn has_arrived(&self) {
        self.state().on_their_way -= 1;
        self.arrived.notify_waiters();
    }
}

/// All places of a repository, as one store.
pub struct Mirrored {
    places: Vec<Arc<Place>>,
    confirm: Confirm,
    /// Which of them leads.
    leader: AtomicUsize,
    /// Held by puts while they are under way: who leads changes between puts.
    between: RwLock<()>,
    judge: Arc<OnceLock<Judge>>,
}

impl std::fmt::Debug for Mirrored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirrored")
            .field("places", &self.places)
            .field("confirm", &self.confirm)
            .finish_non_exhaustive()
    }
}

impl Mirrored {
    /// The first place is the repository, and leads.
    #[must_use]
    pub fn new(first: Place, copies: Vec<Place>, confirm: Confirm) -> Self {
        first.state().standing = Standing::Whole;
        let places = std::iter::once(first).chain(copies).map(Arc::new);
        Mirrored {
            places: places.collect(),
            confirm,
            leader: AtomicUsize::new(0),
            between: RwLock::new(()),
            judge: Arc::default(),
        }
    }

    /// Says who can tell whether two objects are the same. Until then they are the same when their bytes are.
    pub fn judge_by(&self, judge: Judge) {
        let _ = self.judge.set(judge);
    }

    /// All places, the repository first.
    #[must_use]
    pub fn places(&self) -> &[Arc<Place>] {
        &self.places
    }

    /// When something counts as stored.
    #[must_use]
    pub fn confirm(&self) -> Confirm {
        self.confirm
    }

    /// The place that leads.
    #[must_use]
    pub fn source(&self) -> &Arc<Place> {
        self.place(self.leader.load(Ordering::SeqCst))
    }

    fn place(&self, at: usize) -> &Arc<Place> {
        #[allow(clippy::indexing_slicing)] // made with a first one, and led by one that is there
        self.places.get(at).unwrap_or(&self.places[0])
    }

    fn copies(&self, leader: usize) -> impl Iterator<Item = &Arc<Place>> {
        let places = self.places.iter().enumerate();
        places.filter(move |(at, _)| *at != leader).map(|(_, place)| place)
    }

    /// Nothing was missing in a copy, when it had missed so many objects as are given; false if it has missed one since.
    pub fn found_whole(&self, place: &Place, misses: u64) -> bool {
        let mut state = place.state();
        let is_whole = state.misses == misses;
        if is_whole {
            state.standing = Standing::Whole;
        }
        is_whole
    }

    /// Something is missing in a copy, and could not be filled in.
    pub fn found_behind(&self, place: &Place) {
        place.state().standing = Standing::Behind;
    }

    /// Waits until nothing is on its way to any copy.
    pub async fn settled(&self) {
        for place in &self.places {
            place.settled().await;
        }
    }

    /// Begins to put an object to a copy for which nobody waits; true in the end if it was missed.
    fn begin(&self, place: &Arc<Place>, name: &ObjectName, body: &Bytes) -> Option<JoinHandle<bool>> {
        let most = ROOM_BYTES / ROOM_UNIT;
        let units = u32::try_from(body.len().div_ceil(ROOM_UNIT).clamp(1, most)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&place.room).try_acquire_many_owned(units) else {
            place.fall_behind(&"too much is on its way there");
            return None;
        };
        place.leaves();
        let (place, name, body, judge) = (Arc::clone(place), name.clone(), body.clone(), Arc::clone(&self.judge));
        Some(tokio::spawn(async move {
            let put = put_same(&place, &name, &body, judge.get()).await;
            if let Err(error) = &put {
                place.fall_behind(error);
            }
            drop(room);
            place.has_arrived();
            put.is_err()
        }))
    }

    /// WAL and packs: to all copies, and to the one that leads.
    async fn put_bulk(&self, leader: usize, name: &ObjectName, body: &Bytes) -> Result<PutNew, ObjectError> {
        if self.confirm == Confirm::All {
            let judge = self.judge.get();
            try_join_all(self.copies(leader).map(|copy| put_same(copy, name, body, judge))).await?;
            return self.place(leader).store.put_new(name, body.clone()).await;
        }
        // Whoever goes away in between does not know what became of it.
        let mut unknown = Unknown(self.copies(leader).cloned().collect());
        let begun: Vec<_> = self
            .copies(leader)
            .map(|copy| (copy, self.begin(copy, name, body)))
            .collect();
        let put = self.place(leader).store.put_new(name, body.clone()).await;
        if put.is_ok() {
            // It may have been looked for in a copy before it was here to be missed.
            for (copy, task) in begun {
                let is_missed = match task {
                    None => true,
                    Some(task) if task.is_finished() => task.await.unwrap_or(true),
                    Some(_) => false,
                };
                if is_missed {
                    copy.fall_behind(&"it has missed what is stored by now");
                }
            }
        }
        unknown.0.clear();
        put
    }

    /// What must be unique is decided by the one that leads; the copies get what it has.
    async fn put_unique(&self, leader: usize, name: &ObjectName, body: &Bytes) -> Result<PutNew, ObjectError> {
        let mut unknown = Unknown(self.copies(leader).cloned().collect());
        let lead = &self.place(leader).store;
        let put = async {
            Ok(match lead.put_new(name, body.clone()).await? {
                PutNew::Created => (PutNew::Created, body.clone()),
                PutNew::AlreadyExists => (PutNew::AlreadyExists, lead.get(name, ByteRange::All).await?),
            })
        };
        let (put, stored) = match put.await {
            Ok(put) => put,
            Err(error) => {
                // A copy that may lead now lacks nothing by that: whoever leads gets it next.
                if self.confirm == Confirm::Any {
                    unknown.0.clear();
                }
                return Err(error);
            }
        };
        if self.confirm == Confirm::All {
            let judge = self.judge.get();
            try_join_all(self.copies(leader).map(|copy| put_same(copy, name, &stored, judge))).await?;
        } else {
            for copy in self.copies(leader) {
                self.begin(copy, name, &stored);
            }
        }
        unknown.0.clear();
        Ok(put)
    }

    /// Puts under the place that leads now.
    async fn put_led(&self, name: &ObjectName, body: &Bytes) -> (usize, Result<PutNew, ObjectError>) {
        let _under_way = self.between.read().await;
        let leader = self.leader.load(Ordering::SeqCst);
        let put = match kind_of(name) {
            PutKind::Bulk => self.put_bulk(leader, name, body).await,
            PutKind::Unique => self.put_unique(leader, name, body).await,
            PutKind::Filled => self.place(leader).store.put_new(name, body.clone()).await,
        };
        (leader, put)
    }

    /// Another one leads from now on, if there is one that may; false if not.
    async fn fail_over(&self, failed: usize, why: &ObjectError) -> bool {
        // No put is under way while this is held: what was confirmed has at least left for every copy.
        let _between = self.between.write().await;
        if self.leader.load(Ordering::SeqCst) != failed {
            return true;
        }
        for (at, place) in self.places.iter().enumerate().filter(|(at, _)| *at != failed) {
            let has_arrived = tokio::time::timeout(ARRIVAL_MAX, place.settled()).await.is_ok();
            if has_arrived && place.standing() == Standing::Whole {
                tracing::error!(failed = %self.place(failed).name, leads = %place.name, error = %why, "another place leads");
                self.place(failed).fall_behind(why);
                self.leader.store(at, Ordering::SeqCst);
                return true;
            }
        }
        false
    }
}

/// Copies of which nobody knows whether they have it, should this be dropped.
struct Unknown(Vec<Arc<Place>>);

impl Drop for Unknown {
    fn drop(&mut self) {
        for place in &self.0 {
            place.fall_behind(&"a put was given up");
        }
    }
}

/// Puts an object to a copy; one that is there already must be the same.
async fn put_same(place: &Place, name: &ObjectName, body: &Bytes, judge: Option<&Judge>) -> Result<(), ObjectError> {
    if place.store.put_new(name, body.clone()).await? == PutNew::Created {
        return Ok(());
    }
    let there = place.store.get(name, ByteRange::All).await?;
    if there == *body || judge.is_some_and(|is_same| is_same(name, body, &there)) {
        return Ok(());
    }
    let detail = "another object of this name is there";
    Err(ObjectError::new(
        Operation::PutNew,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Permanent,
        detail,
    ))
}

/// How an object comes to the copies.
enum PutKind {
    /// By each put.
    Bulk,
    /// By each put, once the one that leads has decided.
    Unique,
    /// When they are filled.
    Filled,
}

fn kind_of(name: &ObjectName) -> PutKind {
    match directory_of(name) {
        Some("wal" | "tail" | "packs") => PutKind::Bulk,
        Some("intents" | "index" | "backups" | "condemned" | "pins" | "probes") => PutKind::Filled,
        _ => PutKind::Unique,
    }
}

#[async_trait]
impl ObjectStore for Mirrored {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        loop {
            let (leader, put) = self.put_led(name, &body).await;
            match put {
                Err(error) if self.confirm == Confirm::Any && !self.fail_over(leader, &error).await => {
                    return Err(error);
                }
                Err(_) if self.confirm == Confirm::Any => {}
                put => return put,
            }
        }
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.source().store.get(name, range).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.source().store.head(name).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        let source = self.source();
        // A page goes on in the place where the one before came from.
        let after = match after.and_then(|after| after.split_once(PLACE_END)) {
            Some((name, after)) if name == source.name => Some(after),
            Some(_) => {
                let detail = "the listing began in another place, which does not lead any more";
                return Err(ObjectError::new(
                    Operation::List,
                    prefix,
                    Outcome::DidNotHappen,
                    ErrorClass::Transient,
                    detail,
                ));
            }
            None => after,
        };
        let mut page = source.store.list_page(prefix, after, max).await?;
        page.next = page.next.map(|next| format!("{}{PLACE_END}{next}", source.name));
        Ok(page)
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        for place in &self.places {
            place.store.delete(name).await?;
        }
        Ok(())
    }

    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.source().store.keep_locked(name).await
    }

    async fn expiry_rules(&self) -> Result<Option<Vec<String>>, ObjectError> {
        self.source().store.expiry_rules().await
    }

    fn capabilities(&self) -> Capabilities {
        self.source().store.capabilities()
    }
}

/// Ends the name of a place in the mark of a page; in no name of a place.
const PLACE_END: char = '\n';

#[cfg(test)]
mod tests;
