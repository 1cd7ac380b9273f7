//! One repository in several places: each object is put to all of them, after it was read, compressed and sealed once.
//!
//! The first place is the repository. The others are its copies, with the same id and the same keys. A place is *whole* while everything that
//! was ever confirmed is in it; one that has missed an object is *behind* until somebody has filled it ([`crate::copy`]) and says so
//! ([`Mirrored::found_whole`]). At any time one place at least is whole, and what is read comes from the first that is: so what was confirmed lies
//! in one single place, without a gap.
//!
//! Manifests are put to whole places only, after everything that was put there before (law 1). What must be unique, such as a lease, is decided by the
//! first whole place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::{
    ByteRange, Capabilities, ErrorClass, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation,
    Outcome, PutNew,
};
use crate::layout::directory_of;

/// When an object counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confirm {
    /// When it is in the first place.
    #[default]
    First,
    /// When it is in one that is whole.
    Any,
    /// When it is in all that are whole, or may be.
    All,
}

/// How a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has looked yet.
    Unknown,
    /// Something is missing.
    Behind,
    /// Nothing is missing.
    Whole,
}

/// How long a listing waits for what is on its way.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// Bytes on their way to one place for which nobody waits.
const ROOM_BYTES: usize = 64 << 20;
/// Unit of the room.
const ROOM_UNIT: usize = 4096;

/// A place, and how it is.
#[derive(Debug)]
pub struct Place {
    /// What the configuration calls it; for people.
    pub name: String,
    store: Arc<dyn ObjectStore>,
    standing: AtomicU8,
    /// What it misses is not confirmed: it never falls behind by that.
    is_needed: bool,
    /// How often something was missed.
    misses: AtomicU64,
    on_their_way: AtomicU64,
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
            standing: AtomicU8::new(Standing::Unknown as u8),
            is_needed: false,
            misses: AtomicU64::new(0),
            on_their_way: AtomicU64::new(0),
            arrived: Notify::new(),
            room: Arc::new(Semaphore::new(ROOM_BYTES / ROOM_UNIT)),
        }
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// How it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::SeqCst) {
            0 => Standing::Unknown,
            1 => Standing::Behind,
            _ => Standing::Whole,
        }
    }

    fn is_whole(&self) -> bool {
        self.standing() == Standing::Whole
    }

    fn set(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::SeqCst);
    }

    /// How often it has missed something. Ask before looking what is missing.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::SeqCst)
    }

    fn fall_behind(&self, name: &ObjectName, why: &str) {
        self.misses.fetch_add(1, Ordering::SeqCst);
        if self.is_needed {
            return;
        }
        if self.standing() != Standing::Behind {
            tracing::warn!(place = %self.name, object = %name, why, "a copy of the repository falls behind");
        }
        self.set(Standing::Behind);
    }

    /// Waits until nothing is on its way.
    async fn settled(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.on_their_way.load(Ordering::SeqCst) == 0 {
                return;
            }
            arrived.await;
        }
    }

    /// Puts an object; one that is there already must be the same.
    async fn put(&self, name: &ObjectName, body: &Bytes) -> Result<PutNew, ObjectError> {
        let put = self.store.put_new(name, body.clone()).await?;
        if put == PutNew::AlreadyExists && self.store.get(name, ByteRange::All).await? != *body {
            let detail = "another object of this name is there";
            return Err(ObjectError::new(
                Operation::PutNew,
                name,
                Outcome::DidNotHappen,
                ErrorClass::Permanent,
                detail,
            ));
        }
        Ok(put)
    }

    /// As [`Place::put`], counted.
    async fn put_counted(&self, name: &ObjectName, body: &Bytes) -> Result<PutNew, ObjectError> {
        if is_commit(name) {
            self.settled().await;
            if !self.is_whole() {
                let detail = "something that it may need is missing there";
                return Err(ObjectError::new(
                    Operation::PutNew,
                    name,
                    Outcome::DidNotHappen,
                    ErrorClass::Transient,
                    detail,
                ));
            }
            return self.put(name, body).await;
        }
        self.on_their_way.fetch_add(1, Ordering::SeqCst);
        let put = self.put(name, body).await;
        self.on_their_way.fetch_sub(1, Ordering::SeqCst);
        self.arrived.notify_waiters();
        put
    }
}

/// All places of a repository, as one store.
#[derive(Debug)]
pub struct Mirrored {
    places: Vec<Arc<Place>>,
    confirm: Confirm,
}

impl Mirrored {
    /// The first place is the repository, and whole by definition.
    #[must_use]
    pub fn new(first: Place, copies: Vec<Place>, confirm: Confirm) -> Self {
        first.set(Standing::Whole);
        let places = std::iter::once(first).chain(copies).enumerate().map(|(at, place)| {
            let is_needed = confirm == Confirm::All || confirm == Confirm::First && at == 0;
            Arc::new(Place { is_needed, ..place })
        });
        Mirrored {
            places: places.collect(),
            confirm,
        }
    }

    /// All places, the first one first.
    #[must_use]
    pub fn places(&self) -> &[Arc<Place>] {
        &self.places
    }

    /// Nothing was missing in a place, when it had missed so many objects as are given; false if it has missed one since.
    pub fn found_whole(&self, place: &Place, misses: u64) -> bool {
        place.set(Standing::Whole);
        // Whoever misses one meanwhile has counted it before he marks the place.
        let is_whole = place.misses() == misses;
        if !is_whole {
            place.set(Standing::Behind);
        }
        is_whole
    }

    /// Waits until nothing is on its way anywhere.
    pub async fn settled(&self) {
        for place in &self.places {
            place.settled().await;
        }
    }

    /// Something was found missing.
    pub fn found_behind(&self, place: &Place) {
        place.set(Standing::Behind);
    }

    /// The first whole place; at least one is.
    #[must_use]
    pub fn source(&self) -> &Arc<Place> {
        self.places
            .iter()
            .find(|place| place.is_whole())
            .unwrap_or_else(|| self.first())
    }

    fn first(&self) -> &Arc<Place> {
        #[allow(clippy::indexing_slicing)] // made with a first one
        &self.places[0]
    }

    /// Is it enough that these have it? A manifest goes to no place that lacks something.
    fn is_confirmed(&self, name: &ObjectName, has: &[bool]) -> bool {
        let mut places = self.places.iter().zip(has);
        match self.confirm {
            Confirm::First => has.first() == Some(&true),
            Confirm::Any => places.any(|(place, has)| *has && place.is_whole()),
            Confirm::All => places.all(|(place, has)| match place.standing() {
                Standing::Whole => *has,
                Standing::Unknown => *has || is_commit(name),
                Standing::Behind => true,
            }),
        }
    }

    /// Begins to put an object to one place; whatever becomes of it is told.
    fn begin(
        &self,
        at: usize,
        name: &ObjectName,
        body: &Bytes,
        told: &mpsc::UnboundedSender<(usize, Result<PutNew, ObjectError>)>,
    ) {
        let Some(place) = self.places.get(at).map(Arc::clone) else {
            return;
        };
        let (name, body, told) = (name.clone(), body.clone(), told.clone());
        // Nobody waits for who may miss it: then there must be room.
        let units = u32::try_from(body.len().div_ceil(ROOM_UNIT).clamp(1, ROOM_BYTES / ROOM_UNIT)).unwrap_or(u32::MAX);
        let room = Arc::clone(&place.room).try_acquire_many_owned(units);
        if room.is_err() && self.may_be_left(at) {
            place.fall_behind(&name, "too much is on its way there");
            return;
        }
        tokio::spawn(async move {
            let put = place.put_counted(&name, &body).await;
            drop(room);
            if let Err(mpsc::error::SendError((_, Err(error)))) = told.send((at, put)) {
                // Nobody waits any more: it was confirmed without this place.
                place.fall_behind(&name, error.detail());
            }
        });
    }

    fn may_be_left(&self, at: usize) -> bool {
        match self.confirm {
            Confirm::First => at != 0,
            Confirm::Any => self
                .places
                .iter()
                .enumerate()
                .any(|(other, place)| other != at && place.is_whole()),
            Confirm::All => false,
        }
    }

    async fn put_to(
        &self,
        places: impl Iterator<Item = usize>,
        name: &ObjectName,
        body: &Bytes,
        mut has: Vec<bool>,
    ) -> Result<Option<PutNew>, ObjectError> {
        let (told, mut hears) = mpsc::unbounded_channel();
        for at in places {
            self.begin(at, name, body, &told);
        }
        drop(told);
        let mut answer = None;
        let mut failed: Vec<(usize, ObjectError)> = Vec::new();
        while !self.is_confirmed(name, &has) {
            let Some((at, put)) = hears.recv().await else { break };
            match put {
                Ok(put) => {
                    if let Some(has) = has.get_mut(at) {
                        *has = true;
                    }
                    answer = answer.or(Some(put));
                }
                Err(error) => failed.push((at, error)),
            }
        }
        let is_confirmed = self.is_confirmed(name, &has);
        // From here on nobody waits: what fails later marks its place itself.
        hears.close();
        while let Ok((at, put)) = hears.try_recv() {
            if let Err(error) = put {
                failed.push((at, error));
            }
        }
        for (at, error) in failed.iter().filter(|_| is_confirmed) {
            if let Some(place) = self.places.get(*at) {
                place.fall_behind(name, error.detail());
            }
        }
        match failed.into_iter().next() {
            Some((_, error)) if !is_confirmed => Err(error),
            _ => Ok(answer),
        }
    }
}

/// A manifest: with it a backup exists.
fn is_commit(name: &ObjectName) -> bool {
    directory_of(name) == Some("backups")
}

/// Names that several writers may want at once: one place decides.
fn is_unique(name: &ObjectName) -> bool {
    !matches!(directory_of(name), Some("wal" | "tail" | "packs" | "index" | "intents"))
}

#[async_trait]
impl ObjectStore for Mirrored {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        let mut has = vec![false; self.places.len()];
        if !is_unique(name) {
            let all = 0..self.places.len();
            let answer = self.put_to(all, name, &body, has).await?;
            return Ok(answer.unwrap_or(PutNew::Created));
        }
        let deciding = self.source();
        if is_commit(name) {
            deciding.settled().await;
        }
        let answer = deciding.store.put_new(name, body.clone()).await?;
        let is_deciding = |at: &usize| self.places.get(*at).is_some_and(|place| Arc::ptr_eq(place, deciding));
        let decided = (0..self.places.len()).find(is_deciding);
        if let Some(has) = decided.and_then(|at| has.get_mut(at)) {
            *has = true;
        }
        let others = (0..self.places.len()).filter(|at| !is_deciding(at));
        if answer == PutNew::Created {
            self.put_to(others, name, &body, has).await?;
        }
        Ok(answer)
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.source().store.get(name, range).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.source().store.head(name).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        let source = self.source();
        // What was confirmed by another place may still be on its way here.
        if self.confirm == Confirm::Any && tokio::time::timeout(ARRIVAL_MAX, source.settled()).await.is_err() {
            let detail = "what is on its way there does not arrive";
            return Err(ObjectError::new(
                Operation::List,
                prefix,
                Outcome::DidNotHappen,
                ErrorClass::Transient,
                detail,
            ));
        }
        // A page goes on in the place where the one before came from.
        let after = match after.and_then(|after| after.split_once(PLACE_END)) {
            Some((name, after)) if name == source.name => Some(after),
            Some(_) => {
                let detail = "the listing began in another place, which has fallen behind since";
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
        for place in self.places.iter().filter(|place| place.is_whole()) {
            place.store.keep_locked(name).await?;
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let all = || self.places.iter().map(|place| place.store.capabilities());
        Capabilities {
            create_only: all().all(|capabilities| capabilities.create_only),
            locks: all().any(|capabilities| capabilities.locks),
        }
    }
}

/// Ends the name of a place in the mark of a page; in no name of a place.
const PLACE_END: char = '\n';

#[cfg(test)]
mod tests;
