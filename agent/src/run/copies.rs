//! Sees to it that the copies of the repository have what it has: at the start, whenever one has missed something, and from time to time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use store::StoreError;
use store::copy::{Copying, Depth, Filled};
use store::object::mirrored::{Confirm, Mirrored, Place, Standing};
use store::object::{ObjectName, list_all};
use store::repository::{Repository, describe};
use store::retry::RetryPolicy;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::copies::{CopySeen, write};
use crate::exit::{DAMAGED, Failure};
use crate::open::{Context, requests};
use crate::output;

/// Between two looks at whether somebody has to be filled.
const EVERY: Duration = Duration::from_secs(5);
/// Before a copy that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// A backup of another process is seen by two small listings this often.
const BACKUPS_EVERY: Duration = Duration::from_secs(120);
/// Everything is listed this often.
const ALL_EVERY: Duration = Duration::from_secs(3600);

/// Starts looking after the copies; nothing where there are none.
pub fn start(
    context: &Arc<Context>,
    repository: &Arc<Repository>,
    places: Option<&Arc<Mirrored>>,
    again: Option<Arc<Notify>>,
) -> Option<JoinHandle<()>> {
    let places = Arc::clone(places?);
    let (context, repository) = (Arc::clone(context), Arc::clone(repository));
    let mut away = Away::of(&context, &places);
    Some(tokio::spawn(async move {
        let mut copies: Vec<Looking> = places
            .places()
            .iter()
            .map(|place| Looking::new(Arc::clone(place)))
            .collect();
        loop {
            for copy in &mut copies {
                copy.look(&repository, &places).await;
            }
            let mut seen: Vec<CopySeen> = copies.iter().map(|copy| copy.seen.clone()).collect();
            seen.extend(away.seen());
            write(&context, &seen);
            if away.look(&context).await
                && let Some(again) = &again
            {
                tracing::info!(
                    "a copy of the repository is there now that was not at the start; beginning again with it"
                );
                again.notify_one();
            }
            tokio::time::sleep(EVERY).await;
        }
    }))
}

/// Copies that could not be opened at the start: they get nothing until they are.
struct Away {
    names: Vec<String>,
    tried: Instant,
}

impl Away {
    fn of(context: &Context, places: &Mirrored) -> Self {
        let is_open = |name: &String| places.places().iter().any(|place| place.name == *name);
        Away {
            names: context
                .config
                .copies
                .keys()
                .filter(|name| !is_open(name))
                .cloned()
                .collect(),
            tried: Instant::now(),
        }
    }

    fn seen(&self) -> impl Iterator<Item = CopySeen> {
        self.names.iter().map(|name| CopySeen {
            name: name.clone(),
            standing: "not there".to_owned(),
            error: Some(format!(
                "it could not be opened when the agent started, and gets nothing; a new one is made by `wal-agent copy {name}`"
            )),
            ..CopySeen::default()
        })
    }

    /// True once, when one of them can be opened.
    async fn look(&mut self, context: &Context) -> bool {
        if self.names.is_empty() || self.tried.elapsed() < RETRY {
            return false;
        }
        self.tried = Instant::now();
        for name in &self.names {
            let Some(place) = context.config.copies.get(name) else {
                continue;
            };
            let opened = config::open::object_store(place, requests(RetryPolicy::never()));
            if let Ok(store) = opened
                && describe(store.as_ref()).await.is_ok()
            {
                self.names.clear();
                return true;
            }
        }
        false
    }
}

/// Before anything is read. With `any` the repository itself may lack what was confirmed elsewhere: it is filled from all others first, and an
/// agent that cannot see one of them does not start.
pub async fn begin(repository: &Repository, places: &Mirrored, confirm: Confirm) -> anyhow::Result<()> {
    if confirm != Confirm::Any {
        return Ok(());
    }
    let Some((first, copies)) = places.places().split_first() else {
        return Ok(());
    };
    for copy in copies {
        let seen = async {
            describe(copy.store().as_ref()).await?;
            let from = repository.over(Arc::clone(copy.store()));
            let copying = Copying::begin(&from, first.store(), |_| ()).await?;
            copying.records_and_wal().await
        };
        let what = || {
            format!(
                "cannot see whether the copy \"{}\" has more than the repository; a new copy is made by `wal-agent copy {}`",
                copy.name, copy.name
            )
        };
        let filled = Box::pin(seen)
            .await
            .map_err(|error| anyhow::Error::from(error).context(what()))?;
        for (name, reason) in &filled.left_out {
            tracing::error!(from = %copy.name, object = %name, reason, "cannot be copied into the repository");
        }
        if let Some((name, reason)) = filled.conflicts.first() {
            return Err(Failure {
                code: DAMAGED,
                message: format!("the repository and the copy \"{}\" contradict each other at \"{name}\": {reason}", copy.name),
                hint: Some("`wal-agent verify`, with and without --copy, says which of them is damaged. Remove that object there.".into()),
            }
            .into());
        }
        if let Some((name, reason)) = filled.left_out.first().filter(|_| filled.lacks > 0) {
            return Err(Failure::refused(
                format!("the copy \"{}\" has \"{name}\" and others, which were confirmed there and cannot come into the repository: {reason}", copy.name),
                "What they hold can be restored with --copy. With confirm = \"first\" the agent starts without them: take a backup then.",
            )
            .into());
        }
        if filled.objects > 0 {
            tracing::warn!(from = %copy.name, objects = filled.objects, "the repository lacked what was confirmed in a copy; it was filled");
        }
    }
    Ok(())
}

/// One place, and what was seen of it.
struct Looking {
    place: Arc<Place>,
    seen: CopySeen,
    tried: Option<Instant>,
    filled: Option<Instant>,
    compared: Instant,
    /// It has all that can ever come there, when it had missed so many objects; what it lacks a revoked key has signed.
    has_all_that_can_come: Option<u64>,
    /// What was said to be impossible to copy, once each.
    told: BTreeSet<ObjectName>,
}

impl Looking {
    fn new(place: Arc<Place>) -> Self {
        Looking {
            seen: CopySeen {
                name: place.name.clone(),
                ..CopySeen::default()
            },
            place,
            tried: None,
            filled: None,
            compared: Instant::now(),
            has_all_that_can_come: None,
            told: BTreeSet::new(),
        }
    }

    async fn look(&mut self, repository: &Repository, places: &Mirrored) {
        let source = Arc::clone(places.source());
        if !Arc::ptr_eq(&source, &self.place) && self.is_due(repository, &source).await {
            self.fill(repository, places, &source).await;
        }
        self.seen.standing = match self.place.standing() {
            Standing::Whole => "whole",
            Standing::Behind => "behind",
            Standing::Unknown => "not seen yet",
        }
        .to_owned();
    }

    async fn is_due(&mut self, repository: &Repository, source: &Place) -> bool {
        if self.place.standing() != Standing::Whole && self.has_all_that_can_come != Some(self.place.misses()) {
            return self.tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        }
        if self.filled.is_none_or(|filled| filled.elapsed() >= ALL_EVERY) {
            return true;
        }
        if self.compared.elapsed() < BACKUPS_EVERY {
            return false;
        }
        self.compared = Instant::now();
        let prefix = repository.layout().prefix("backups");
        let (here, there) = futures::join!(
            list_all(source.store().as_ref(), &prefix),
            list_all(self.place.store().as_ref(), &prefix)
        );
        match (here, there) {
            (Ok(here), Ok(there)) => here
                .iter()
                .any(|meta| !there.iter().any(|known| known.name == meta.name)),
            _ => false,
        }
    }

    /// WAL first: with that the copy is whole, and may lead. Backups may take hours.
    async fn fill_from(&self, from: &Repository, places: &Mirrored) -> Result<Filled, StoreError> {
        let misses = self.place.misses();
        let copying = Copying::begin(from, self.place.store(), |_| ()).await?;
        let mut filled = copying.records_and_wal().await?;
        // Who may confirm alone must have everything. To the other policies it is old WAL that a copy lacks for ever, and no reason to hold new back.
        let may_lead = filled.lacks == 0 || places.confirm() != Confirm::Any;
        match filled.conflicts.is_empty() && may_lead {
            true => drop(places.found_whole(&self.place, misses)),
            false => places.found_behind(&self.place),
        }
        filled.add(copying.backups(Depth::Missing).await?);
        Ok(filled)
    }

    async fn fill(&mut self, repository: &Repository, places: &Mirrored, source: &Place) {
        self.tried = Some(Instant::now());
        let from = repository.over(Arc::clone(source.store()));
        let misses = self.place.misses();
        match Box::pin(self.fill_from(&from, places)).await {
            Ok(filled) => {
                if filled.objects > 0 {
                    tracing::info!(place = %self.place.name, objects = filled.objects, bytes = filled.bytes, backups = filled.backups, "a copy of the repository was filled");
                }
                for (name, reason) in filled.left_out.iter().chain(&filled.conflicts) {
                    if self.told.insert(name.clone()) {
                        tracing::error!(place = %self.place.name, object = %name, reason, "cannot be copied");
                    }
                }
                let is_all = filled.lacks > 0 && filled.conflicts.is_empty();
                self.has_all_that_can_come = is_all.then_some(misses);
                self.filled = Some(Instant::now());
                self.seen.objects += filled.objects;
                self.seen.bytes += filled.bytes;
                self.seen.looked_us = Some(output::now_us());
                let waits = filled.waiting.first();
                let waits = waits.map(|(backup, why)| format!("backup {backup}: {why}"));
                self.seen.error = waits.or_else(|| lacks(&filled));
            }
            Err(error) => {
                let text = crate::exit::describe(&error.into());
                tracing::warn!(place = %self.place.name, error = %text, "a copy of the repository could not be filled; trying again");
                self.seen.error = Some(text);
            }
        }
    }
}

/// What a copy cannot get, for `status`.
fn lacks(filled: &Filled) -> Option<String> {
    if let Some((name, why)) = filled.conflicts.first() {
        return Some(format!("{name} cannot be copied: {why}"));
    }
    let (name, why) = filled.left_out.first().filter(|_| filled.lacks > 0)?;
    let others = filled.left_out.len() - 1;
    Some(format!(
        "{name} and {others} others cannot come there: {why}; nothing needs them any more once `wal-agent prune` has given them up"
    ))
}
