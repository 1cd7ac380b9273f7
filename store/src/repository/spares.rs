//! Spares: what stands in for objects that are damaged (FORMAT 13).
//!
//! Nobody can change an object, and who repairs deletes nothing. So what makes up for a damaged object lies beside it, under
//! `spares/<name of the object>/<ULID>`, signed for the name of the object itself. The object is asked first and always: a spare counts
//! only where the object does not, so who plants one changes nothing that is whole.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::Repository;
use super::parts::OpenPack;
use crate::error::StoreError;
use crate::id::PackId;
use crate::inventory::Named;
use crate::layout::Layout;
use crate::object::{ObjectName, ObjectStore, list_all};
use crate::verify::is_wrong;

/// The spares that were there when they were last listed, by what they stand in for; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Spares {
    known: HashMap<ObjectName, Vec<ObjectName>>,
    bytes: u64,
}

/// How far spares make up for a damaged object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeUp {
    /// There is none that counts.
    Nothing,
    /// For so many chunks of a pack of so many; what is left of the pack itself counts as well, where it can be opened.
    Chunks(u32, u32),
    /// Wholly.
    Wholly,
}

/// Where to read an object from, when what was read before was damaged.
pub(super) struct Places<'a> {
    repository: &'a Repository,
    name: &'a ObjectName,
    /// Those that were not tried yet; none: not even the object itself was.
    spares: Option<std::vec::IntoIter<ObjectName>>,
    error: Option<StoreError>,
}

impl Places<'_> {
    /// The next place to try.
    pub(super) fn next(&mut self) -> Option<ObjectName> {
        let Some(spares) = &mut self.spares else {
            self.spares = Some(Vec::new().into_iter());
            return Some(self.name.clone());
        };
        let spare = spares.next()?;
        if let Some(error) = &self.error {
            tracing::warn!(name = %self.name, %spare, %error, "an object is damaged; a spare of it is tried");
        }
        Some(spare)
    }

    /// What was read there is damaged; anything else that failed ends the attempts.
    pub(super) fn failed(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !is_wrong(&error) {
            return Err(error);
        }
        if self.error.is_none() {
            self.spares = Some(self.repository.spares_of(self.name).into_iter());
            self.error = Some(error);
        }
        Ok(())
    }

    /// What is wrong with the object itself.
    pub(super) fn nowhere(self) -> StoreError {
        let missing = || StoreError::damaged(self.name, "the object is missing");
        self.error.unwrap_or_else(missing)
    }
}

impl Spares {
    pub(super) async fn list(store: &dyn ObjectStore, layout: &Layout) -> Result<Self, StoreError> {
        let mut spares = Spares::default();
        for meta in list_all(store, &layout.prefix("spares")).await? {
            if let Some(original) = layout.original_of(meta.name.as_str()) {
                spares.bytes += meta.size;
                spares.known.entry(original).or_default().push(meta.name);
            }
        }
        Ok(spares)
    }
}

impl Repository {
    /// Looks anew which spares there are; gives their bytes.
    ///
    /// # Errors
    /// The store failed.
    pub async fn refresh_spares(&self) -> Result<u64, StoreError> {
        let spares = Spares::list(self.store.as_ref(), &self.layout).await?;
        let bytes = spares.bytes;
        *self.spares.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(spares);
        Ok(bytes)
    }

    /// The spares of an object that are known, the oldest first.
    #[must_use]
    pub fn spares_of(&self, name: &ObjectName) -> Vec<ObjectName> {
        let spares = Arc::clone(&self.spares.read().unwrap_or_else(PoisonError::into_inner));
        spares.known.get(name).cloned().unwrap_or_default()
    }

    /// The places from which an object can be read, one after the other: its own, then its spares.
    pub(super) fn places_of<'a>(&'a self, name: &'a ObjectName) -> Places<'a> {
        Places {
            repository: self,
            name,
            spares: None,
            error: None,
        }
    }

    /// How far spares make up for an object that is damaged, as far as the keys at hand can tell.
    ///
    /// # Errors
    /// The store failed.
    pub async fn made_up(&self, name: &ObjectName) -> Result<MadeUp, StoreError> {
        let spares = self.spares_of(name);
        if let Some(Named::Pack(id)) = self.layout.parse(name.as_str()) {
            return match spares.is_empty() {
                true => Ok(MadeUp::Nothing),
                false => self.made_up_pack(id, name, &spares).await,
            };
        }
        for spare in spares {
            match self.read_at(name, &spare).await {
                Ok(_) => return Ok(MadeUp::Wholly),
                Err(error) if is_wrong(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(MadeUp::Nothing)
    }

    async fn made_up_pack(&self, id: PackId, name: &ObjectName, spares: &[ObjectName]) -> Result<MadeUp, StoreError> {
        let (chunks, held) = match self.patched(id).await {
            Ok(pack) => (pack.chunks(), pack.held_chunks()),
            Err(StoreError::KeyMissing { .. }) => self.held_by_spares(name, spares).await?,
            Err(error) if is_wrong(&error) => return Ok(MadeUp::Nothing),
            Err(error) => return Err(error),
        };
        Ok(match held {
            0 => MadeUp::Nothing,
            held if held == chunks => MadeUp::Wholly,
            held => MadeUp::Chunks(held, chunks),
        })
    }

    /// Without the key that opens the chunks: how many there are, and how many are in spares whose stored bytes are what their writers signed.
    async fn held_by_spares(&self, name: &ObjectName, spares: &[ObjectName]) -> Result<(u32, u32), StoreError> {
        let mut held: Vec<bool> = Vec::new();
        for spare in spares {
            let footer = match self.read_at(name, spare).await {
                Ok((_, read)) => self.footer_of(&read),
                Err(error) => Err(error),
            };
            match footer {
                Ok(footer) => {
                    held.resize(held.len().max(footer.entries.len()), false);
                    for (held, entry) in held.iter_mut().zip(&footer.entries) {
                        *held |= entry.is_held();
                    }
                }
                Err(error) if is_wrong(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let count = |chunks: usize| u32::try_from(chunks).unwrap_or(u32::MAX);
        Ok((count(held.len()), count(held.iter().filter(|held| **held).count())))
    }

    /// A pack that is damaged, put together: each chunk from the first place where it can be opened, the pack itself or a spare of it.
    pub(super) async fn patched(&self, id: PackId) -> Result<OpenPack, StoreError> {
        let name = self.layout.pack(id)?;
        let mut places = vec![name.clone()];
        places.extend(self.spares_of(&name));
        let (mut patched, mut first_error): (Option<OpenPack>, Option<StoreError>) = (None, None);
        for place in places {
            let opened = match self.pack_facts_at(&name, &place).await {
                Ok(facts) => self.opened(facts),
                Err(error) => Err(error),
            };
            let examined = match opened {
                Ok(pack) => pack.examined(self).await,
                Err(error) => Err(error),
            };
            match examined {
                Ok(pack) => match &mut patched {
                    Some(patched) => patched.add(pack),
                    None => patched = Some(pack),
                },
                Err(error) if is_wrong(&error) => drop(first_error.get_or_insert(error)),
                Err(error) => return Err(error),
            }
            if patched
                .as_ref()
                .is_some_and(|patched| patched.held_chunks() == patched.chunks())
            {
                break;
            }
        }
        match (patched, first_error) {
            (Some(patched), _) => Ok(patched),
            (None, Some(error)) => Err(error),
            (None, None) => Err(StoreError::damaged(&name, "the pack is missing")),
        }
    }
}
