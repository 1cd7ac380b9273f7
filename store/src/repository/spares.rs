//! Spares: what stands in for objects that are damaged (FORMAT 13).
//!
//! Nobody can change an object, and who repairs deletes nothing. So what makes up for a damaged object lies beside it, under
//! `spares/<name of the object>/<ULID>`, signed for the name of the object itself. Who can put objects can put spares, so a spare counts on
//! nobody's word: only where the object itself fails, and only when what is left of it, its signed head, says that the spare is the same.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::Repository;
use super::parts::OpenPack;
use crate::envelope::{Head, Header, Kind, OBJECT_BYTES_MIN};
use crate::error::StoreError;
use crate::inventory::Named;
use crate::layout::Layout;
use crate::object::{ErrorClass, ObjectMeta, ObjectName, ObjectStore, list_all};
use crate::verify::{self, is_wrong};

/// The spares that were there when they were last listed, by what they stand in for; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Spares(HashMap<ObjectName, Vec<ObjectName>>);

/// How far spares make up for a damaged object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeUp {
    /// There is none that counts.
    Nothing,
    /// So many chunks of a pack of so many can be read, from what is left of it or from spares.
    Chunks(u32, u32),
    /// Wholly.
    Wholly,
}

/// A spare that counts.
#[derive(Debug)]
pub(super) struct Counting {
    pub(super) at: ObjectName,
    /// It is the object, byte for byte; else a pack of the same chunks.
    is_copy: bool,
}

/// What is left of an object.
enum Left {
    /// Its head, which tells what it was.
    Head(Box<(Head, Header)>),
    /// Nothing is there.
    Nothing,
    /// Something that tells nothing.
    Ruins,
}

impl Left {
    /// Whether another object counts for this one, and then whether it is the same, byte for byte.
    fn is_made_up_by(&self, head: &Head, header: &Header) -> Option<bool> {
        let is_data = head.kind == Kind::DataPack;
        match self {
            Left::Head(left) if left.0.hash() == head.hash() => Some(true),
            Left::Head(left) => {
                (is_data && left.0.kind == Kind::DataPack && left.1.digest == header.digest).then_some(false)
            }
            // Who can put a spare could have put the pack itself, under its own name.
            Left::Nothing => is_data.then_some(false),
            Left::Ruins => None,
        }
    }
}

impl Spares {
    pub(super) async fn list(store: &dyn ObjectStore, layout: &Layout) -> Result<Self, StoreError> {
        let listed = list_all(store, &layout.prefix("spares")).await?;
        Ok(Self::of(layout, &listed))
    }

    fn of(layout: &Layout, listed: &[ObjectMeta]) -> Self {
        let mut spares: HashMap<ObjectName, Vec<ObjectName>> = HashMap::new();
        for meta in listed.iter().filter(|meta| meta.size >= OBJECT_BYTES_MIN) {
            if let Some(original) = layout.original_of(meta.name.as_str()) {
                spares.entry(original).or_default().push(meta.name.clone());
            }
        }
        Spares(spares)
    }
}

impl Repository {
    /// Looks anew which spares there are; gives all that lies there.
    ///
    /// # Errors
    /// The store failed.
    pub async fn refresh_spares(&self) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = list_all(self.store.as_ref(), &self.layout.prefix("spares")).await?;
        let spares = Spares::of(&self.layout, &listed);
        *self.spares.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(spares);
        Ok(listed)
    }

    /// The spares of an object that are known, the oldest first, whether they count or not.
    #[must_use]
    pub fn spares_of(&self, name: &ObjectName) -> Vec<ObjectName> {
        let spares = Arc::clone(&self.spares.read().unwrap_or_else(PoisonError::into_inner));
        spares.0.get(name).cloned().unwrap_or_default()
    }

    async fn left_of(&self, name: &ObjectName) -> Result<Left, StoreError> {
        match self.head_at(name, name).await {
            Ok(Some((head, header, _))) => Ok(Left::Head(Box::new((head, header)))),
            Ok(None) => Ok(Left::Nothing),
            Err(error) if is_wrong(&error) => Ok(Left::Ruins),
            Err(error) => Err(error),
        }
    }

    /// What the head of a damaged object says, where it can be opened.
    pub(crate) async fn head_left_of(&self, name: &ObjectName) -> Result<Option<(Head, Header)>, StoreError> {
        match self.left_of(name).await? {
            Left::Head(left) => Ok(Some(*left)),
            Left::Nothing | Left::Ruins => Ok(None),
        }
    }

    /// The spares that count for an object that cannot be read. Only heads are looked at.
    pub(super) async fn counting_spares(&self, name: &ObjectName) -> Result<Vec<Counting>, StoreError> {
        let spares = self.spares_of(name);
        if spares.is_empty() {
            return Ok(Vec::new());
        }
        let left = self.left_of(name).await?;
        let mut counting = Vec::new();
        for at in spares {
            let (head, header) = match self.read_header_at(name, &at).await {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(error) if is_wrong(&error) => continue,
                // Who plants one that may not be read must not stop others from reading the object itself.
                Err(StoreError::Object(error)) if error.class() != ErrorClass::Transient => {
                    tracing::warn!(%name, spare = %at, %error, "a spare cannot be read; it is passed over");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(is_copy) = left.is_made_up_by(&head, &header) {
                counting.push(Counting { at, is_copy });
            }
        }
        Ok(counting)
    }

    /// Where the same object lies, byte for byte: where to read it when it cannot be read under its own name.
    pub(super) async fn copies_of(&self, name: &ObjectName) -> Result<Vec<ObjectName>, StoreError> {
        let counting = self.counting_spares(name).await?;
        Ok(counting
            .into_iter()
            .filter(|spare| spare.is_copy)
            .map(|spare| spare.at)
            .collect())
    }

    /// True when an object does not read as it should.
    async fn is_damaged(&self, name: &ObjectName) -> Result<bool, StoreError> {
        match self.read_at(name, name).await {
            Ok(_) => Ok(false),
            Err(error) if is_wrong(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// True when these bytes would count as a spare.
    ///
    /// # Errors
    /// The store failed, or they are no such object.
    pub async fn would_count(&self, name: &ObjectName, bytes: &Bytes) -> Result<bool, StoreError> {
        let (head, header) = self.head_of(name, bytes)?;
        Ok(self.left_of(name).await?.is_made_up_by(&head, &header).is_some())
    }

    /// True when a spare counts for what it stands in for.
    pub(crate) async fn counts(&self, name: &ObjectName, spare: &ObjectName) -> Result<bool, StoreError> {
        let Some((head, header)) = self.read_header_at(name, spare).await? else {
            return Ok(false);
        };
        Ok(self.left_of(name).await?.is_made_up_by(&head, &header).is_some())
    }

    /// True when a pack does not read as it should, and spares that count do not make up for all of it.
    pub(crate) async fn is_lost_in_part(&self, name: &ObjectName) -> Result<bool, StoreError> {
        if self.counting_spares(name).await?.is_empty() {
            return Ok(false);
        }
        Ok(self.is_damaged(name).await? && self.made_up(name).await? != MadeUp::Wholly)
    }

    /// How far spares make up for an object that is damaged or missing, as far as the keys at hand can tell.
    ///
    /// # Errors
    /// The store failed.
    pub async fn made_up(&self, name: &ObjectName) -> Result<MadeUp, StoreError> {
        let counting = self.counting_spares(name).await?;
        for spare in counting.iter().filter(|spare| spare.is_copy) {
            // What is wrong with the content of an object is wrong with that of its copy.
            if let Some(meta) = self.store.head(&spare.at).await?
                && !verify::is_damaged(self, Named::Spare, &meta).await?
            {
                return Ok(MadeUp::Wholly);
            }
        }
        let is_pack = matches!(self.layout.parse(name.as_str()), Some(Named::Pack(_)));
        if !is_pack || counting.is_empty() {
            return Ok(MadeUp::Nothing);
        }
        let (chunks, held) = match self.can_decrypt() {
            true => match self.patched(name, &counting).await {
                Ok(pack) => (pack.chunks(), pack.held_chunks()),
                Err(error) if is_wrong(&error) => return Ok(MadeUp::Nothing),
                Err(error) => return Err(error),
            },
            false => self.held_by_spares(name, &counting).await?,
        };
        // Of a pack of which nothing is left nobody knows all that it had; and that bytes are those that were signed says nothing of what they hold.
        let is_known = self.can_decrypt() && self.head_left_of(name).await?.is_some();
        Ok(match held {
            0 => MadeUp::Nothing,
            held if held == chunks && is_known => MadeUp::Wholly,
            held => MadeUp::Chunks(held, chunks),
        })
    }

    /// Without the key that opens the chunks: how many there are, and how many are in spares whose stored bytes are what their writers signed.
    async fn held_by_spares(&self, name: &ObjectName, spares: &[Counting]) -> Result<(u32, u32), StoreError> {
        let mut held: Vec<bool> = Vec::new();
        for spare in spares {
            let footer = match self.read_at(name, &spare.at).await {
                Ok((_, read)) => self.checked_footer_of(&read),
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
    pub(super) async fn patched(&self, name: &ObjectName, spares: &[Counting]) -> Result<OpenPack, StoreError> {
        let places = std::iter::once(name).chain(spares.iter().map(|spare| &spare.at));
        let (mut patched, mut first_error): (Option<OpenPack>, Option<StoreError>) = (None, None);
        for place in places {
            let opened = match self.pack_facts_at(name, place).await {
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
                Err(error) if is_wrong(&error) || place != name => drop(first_error.get_or_insert(error)),
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
            (Some(patched), Some(error)) => {
                tracing::warn!(%name, %error, "a pack is damaged; what spares of it have is read from there");
                Ok(patched)
            }
            (Some(patched), None) => Ok(patched),
            (None, Some(error)) => Err(error),
            (None, None) => Err(StoreError::damaged(name, "the pack is missing")),
        }
    }
}
