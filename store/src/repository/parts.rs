//! Reading packs: whole, or head and footer first and then the parts that are needed.

use bytes::Bytes;

use super::{ReadObject, Repository};
use crate::envelope::{Head, Header, Kind};
use crate::error::StoreError;
use crate::id::{Digest, LineageId, PackId};
use crate::object::{ByteRange, ObjectName};
use crate::pack::{ChunkOpener, Footer, FooterEntry, check_id, footer_bytes};
use crate::verify::{Depth, is_wrong};

/// Ranges closer together than this are fetched in one GET.
const COALESCE_BYTES: u64 = 256 << 10;
/// How much of the end of a pack is fetched to find its footer.
const FOOTER_GUESS_BYTES: u64 = 64 << 10;

/// What head and footer say of a pack.
#[derive(Debug)]
pub(crate) struct PackFacts {
    pub(crate) name: ObjectName,
    /// Where it lies: under its name, or as a spare.
    at: ObjectName,
    pub(crate) head: Head,
    header: Header,
    pub(crate) footer: Footer,
}

impl PackFacts {
    /// True when the pack itself could not tell.
    pub(crate) fn is_spare(&self) -> bool {
        self.at != self.name
    }

    /// The lineage it was written in.
    pub(crate) fn lineage(&self) -> Option<LineageId> {
        self.header.lineage
    }
}

/// A pack whose chunks can be read, by ranges of its body.
#[derive(Debug)]
pub struct OpenPack {
    name: ObjectName,
    /// Where it lies: one object, or several where a damaged pack has spares.
    bodies: Vec<PackBodyAt>,
    /// For each chunk the body that holds it; empty: the first one holds all of them.
    held_by: Vec<Option<usize>>,
}

/// One object that holds chunks of a pack.
#[derive(Debug)]
struct PackBodyAt {
    at: ObjectName,
    opener: ChunkOpener,
    footer: Footer,
    start: u64,
}

/// A range of a pack's body, and the chunks that lie in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRange {
    /// Which of the objects that hold the pack.
    body: usize,
    /// First byte, from the start of the body.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Numbers of the chunks that were asked for, in the order in which they lie.
    pub numbers: Vec<u32>,
}

/// Bytes of a part of a pack.
#[derive(Clone, Debug)]
pub struct PackPart {
    body: usize,
    start: u64,
    bytes: Bytes,
}

/// A pack, or the parts of it that were asked for.
#[derive(Debug)]
pub struct FetchedPack {
    pack: OpenPack,
    /// Sorted by body, and where they begin.
    parts: Vec<PackPart>,
    fetched_bytes: u64,
}

impl OpenPack {
    /// What the footer says about a chunk.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn entry(&self, number: u32) -> Result<&FooterEntry, StoreError> {
        Ok(self.held(number)?.1)
    }

    /// How many chunks it has.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        let entries = self.bodies.first().map_or(0, |body| body.footer.entries.len());
        u32::try_from(entries).unwrap_or(u32::MAX)
    }

    fn body_of(&self, number: u32) -> usize {
        self.held_by.get(number as usize).copied().flatten().unwrap_or(0)
    }

    /// The body that holds a chunk, and what its footer says about it.
    fn held(&self, number: u32) -> Result<(&PackBodyAt, &FooterEntry), StoreError> {
        let body = self.bodies.get(self.body_of(number));
        let entry = body.and_then(|body| Some((body, body.footer.entries.get(number as usize)?)));
        let entry = entry.filter(|(_, entry)| entry.is_held());
        entry.ok_or_else(|| StoreError::damaged(&self.name, format!("no chunk {number}")))
    }

    /// The ranges to read for some chunks: those that lie close together in one, but none longer than `bytes_max` unless a chunk is.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn ranges(&self, numbers: &[u32], bytes_max: u64) -> Result<Vec<PartRange>, StoreError> {
        let mut wanted = Vec::with_capacity(numbers.len());
        for number in numbers {
            let entry = self.entry(*number)?;
            let at = u64::from(entry.at);
            wanted.push((self.body_of(*number), at, at + u64::from(entry.stored_bytes), *number));
        }
        Ok(coalesce(wanted, bytes_max))
    }

    /// Plaintext of a chunk that lies in a part, checked against its id.
    ///
    /// # Errors
    /// Damaged, or not in the part.
    pub fn chunk(&self, number: u32, part: &PackPart, repository: &Repository) -> Result<Vec<u8>, StoreError> {
        let (body, entry) = self.held(number)?;
        let sealed = part.slice(entry).filter(|_| part.body == self.body_of(number));
        let sealed =
            sealed.ok_or_else(|| StoreError::damaged(&self.name, format!("chunk {number} was not fetched")))?;
        let plain = body.opener.open(number, entry, sealed)?;
        check_id(self.name.as_str(), entry, &plain, repository.keys())?;
        Ok(plain)
    }

    /// How many chunks are known to be whole, of one that was [examined](Self::examined).
    pub(super) fn held_chunks(&self) -> u32 {
        let held = self.held_by.iter().filter(|held| held.is_some()).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    /// Reads all of it, and knows then which chunks can be opened.
    pub(super) async fn examined(mut self, repository: &Repository) -> Result<Self, StoreError> {
        let (chunks, everything) = (self.chunks(), self.everything());
        let part = repository.fetch_part(&self, &everything).await?;
        let is_whole = |number: u32| self.chunk(number, &part, repository).is_ok();
        self.held_by = (0..chunks).map(|number| is_whole(number).then_some(0)).collect();
        Ok(self)
    }

    fn everything(&self) -> PartRange {
        let entries = self.bodies.iter().flat_map(|body| &body.footer.entries);
        let end = entries.map(|entry| u64::from(entry.at) + u64::from(entry.stored_bytes));
        PartRange {
            body: 0,
            start: 0,
            len: end.max().unwrap_or(0),
            numbers: (0..self.chunks()).collect(),
        }
    }

    /// Takes from another object with the same chunks those that are missing here. Of two spares of a missing pack that do not agree about its
    /// chunks that is left which holds more. Both were examined.
    pub(super) fn add(&mut self, other: OpenPack) {
        let ids = |pack: &OpenPack| -> Vec<Digest> {
            let entries = pack.bodies.iter().take(1).flat_map(|body| &body.footer.entries);
            entries.map(|entry| entry.id).collect()
        };
        if ids(self) != ids(&other) {
            // What is left of the pack itself was checked to have the chunks of its signed header, and so has each spare that counts then.
            if other.held_chunks() > self.held_chunks() {
                *self = other;
            }
            return;
        }
        let body = self.bodies.len();
        self.bodies.extend(other.bodies);
        for (held, others) in self.held_by.iter_mut().zip(other.held_by) {
            *held = held.or(others.map(|_| body));
        }
    }
}

impl PackPart {
    fn slice(&self, entry: &FooterEntry) -> Option<&[u8]> {
        let from = usize::try_from(u64::from(entry.at).checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(entry.stored_bytes as usize)?)
    }
}

impl FetchedPack {
    /// What the footer says about a chunk.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn entry(&self, number: u32) -> Result<&FooterEntry, StoreError> {
        self.pack.entry(number)
    }

    /// Bytes that were read from the store.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Plaintext of a chunk, checked against its id.
    ///
    /// # Errors
    /// Damaged, or not among the parts that were fetched.
    pub fn chunk(&self, number: u32, repository: &Repository) -> Result<Vec<u8>, StoreError> {
        let at = (self.pack.body_of(number), u64::from(self.entry(number)?.at));
        let before = self
            .parts
            .partition_point(|part| (part.body, part.start) <= at)
            .checked_sub(1);
        let part = before.and_then(|index| self.parts.get(index));
        let missing = || StoreError::damaged(&self.pack.name, format!("chunk {number} was not fetched"));
        self.pack.chunk(number, part.ok_or_else(missing)?, repository)
    }
}

impl Repository {
    /// Reads a whole pack with one GET; a damaged one is put together from what is left of it and its spares.
    ///
    /// # Errors
    /// The store failed, or the pack is damaged.
    pub async fn fetch_pack(&self, id: PackId) -> Result<FetchedPack, StoreError> {
        let name = self.layout.pack(id)?;
        let read = match self.read(&name).await {
            Ok(read) => read,
            Err(error) if is_wrong(&error) => {
                let spares = self.counting_spares(&name).await?;
                if spares.is_empty() {
                    return Err(error);
                }
                let pack = self.patched(&name, &spares).await?;
                let held = |number: &u32| pack.held(*number).is_ok();
                let numbers: Vec<u32> = (0..pack.chunks()).filter(held).collect();
                return self.fetch_numbers(pack, &numbers).await;
            }
            Err(error) => return Err(error),
        };
        let (footer, fetched_bytes) = (self.footer_of(&read)?, read.head.object_bytes());
        let ReadObject { head, header, body } = read;
        let facts = PackFacts {
            at: name.clone(),
            name,
            head,
            header,
            footer,
        };
        Ok(FetchedPack {
            pack: self.opened(facts)?,
            fetched_bytes,
            parts: vec![PackPart {
                body: 0,
                start: 0,
                bytes: body,
            }],
        })
    }

    /// The footer of a pack that was read whole.
    pub(super) fn footer_of(&self, read: &ReadObject) -> Result<Footer, StoreError> {
        if !matches!(read.head.kind, Kind::DataPack | Kind::MetadataPack) {
            return Err(StoreError::damaged(read.head.name(), "not a pack"));
        }
        Footer::of_body(&read.head, &read.body, &self.keys)
    }

    /// The same, compared with the header.
    pub(super) fn checked_footer_of(&self, read: &ReadObject) -> Result<Footer, StoreError> {
        let footer = self.footer_of(read)?;
        footer.check_digest(&read.head, &read.header, &self.keys)?;
        Ok(footer)
    }

    /// Checks a pack that was read whole: footer, digest, and with the restore key every chunk.
    pub(crate) fn check_pack(&self, name: &ObjectName, read: ReadObject) -> Result<Depth, StoreError> {
        let footer = self.checked_footer_of(&read)?;
        let is_spare = self.layout.original_of(name.as_str()).is_some();
        if !is_spare && !footer.entries.iter().all(FooterEntry::is_held) {
            return Err(StoreError::damaged(name, "some of its chunks have no bytes"));
        }
        let ReadObject { head, header, body } = read;
        let held: Vec<u32> = (0..)
            .zip(&footer.entries)
            .filter(|(_, entry)| entry.is_held())
            .map(|(n, _)| n)
            .collect();
        let facts = PackFacts {
            at: name.clone(),
            name: name.clone(),
            head,
            header,
            footer,
        };
        let pack = match self.opened(facts) {
            Ok(pack) => pack,
            Err(StoreError::KeyMissing { .. }) => return Ok(Depth::Stored),
            Err(error) => return Err(error),
        };
        let part = PackPart {
            body: 0,
            start: 0,
            bytes: body,
        };
        for number in held {
            pack.chunk(number, &part, self)?;
        }
        Ok(Depth::Content)
    }

    /// Reads some chunks of a pack: head, footer, then the ranges that hold them.
    ///
    /// # Errors
    /// As [`Repository::fetch_pack`].
    pub async fn fetch_chunks(&self, id: PackId, numbers: &[u32]) -> Result<FetchedPack, StoreError> {
        self.fetch_numbers(self.open_pack(id).await?, numbers).await
    }

    async fn fetch_numbers(&self, pack: OpenPack, numbers: &[u32]) -> Result<FetchedPack, StoreError> {
        let (mut parts, mut fetched_bytes) = (Vec::with_capacity(1), 0);
        for range in pack.ranges(numbers, u64::MAX)? {
            fetched_bytes += range.len;
            parts.push(self.fetch_part(&pack, &range).await?);
        }
        Ok(FetchedPack {
            pack,
            parts,
            fetched_bytes,
        })
    }

    /// Reads head and footer of a pack; all of it when there are spares of it, to know what is needed of them.
    ///
    /// # Errors
    /// As [`Repository::fetch_pack`].
    pub async fn open_pack(&self, id: PackId) -> Result<OpenPack, StoreError> {
        let name = self.layout.pack(id)?;
        let spares = self.counting_spares(&name).await?;
        if !spares.is_empty() {
            return self.patched(&name, &spares).await;
        }
        let facts = self.pack_facts(id).await?;
        self.opened(facts)
    }

    /// Reads a part of a pack's body.
    ///
    /// # Errors
    /// The store failed, or the pack is shorter than its footer says.
    pub async fn fetch_part(&self, pack: &OpenPack, range: &PartRange) -> Result<PackPart, StoreError> {
        let body = pack.bodies.get(range.body);
        let body = body.ok_or_else(|| StoreError::damaged(&pack.name, "a part of another pack"))?;
        let slice = ByteRange::Slice {
            start: body.start + range.start,
            len: range.len,
        };
        Ok(PackPart {
            body: range.body,
            start: range.start,
            bytes: self.store.get(&body.at, slice).await?,
        })
    }

    pub(super) fn opened(&self, facts: PackFacts) -> Result<OpenPack, StoreError> {
        let PackFacts {
            name,
            at,
            head,
            header,
            footer,
        } = facts;
        let session = self.session_secret(&head, &header)?;
        let body = PackBodyAt {
            opener: ChunkOpener::new(&head, header.lineage, session.as_ref(), &self.keys)?,
            start: head.body_start(),
            at,
            footer,
        };
        Ok(OpenPack {
            name,
            bodies: vec![body],
            held_by: Vec::new(),
        })
    }

    /// Head, header and footer of a pack, or of a spare where they are damaged.
    pub(crate) async fn pack_facts(&self, id: PackId) -> Result<PackFacts, StoreError> {
        let name = self.layout.pack(id)?;
        let error = match self.pack_facts_at(&name, &name).await {
            Err(error) if is_wrong(&error) => error,
            facts => return facts,
        };
        for spare in self.counting_spares(&name).await? {
            match self.pack_facts_at(&name, &spare.at).await {
                Err(error) if is_wrong(&error) => {}
                facts => return facts,
            }
        }
        Err(error)
    }

    pub(super) async fn pack_facts_at(&self, name: &ObjectName, at: &ObjectName) -> Result<PackFacts, StoreError> {
        let Some((head, header)) = self.read_header_at(name, at).await? else {
            return Err(StoreError::damaged(name, "the pack is missing"));
        };
        let end_of_body = |len: u64| ByteRange::Slice {
            start: head.body_start() + head.body_bytes - len,
            len,
        };
        let guess = FOOTER_GUESS_BYTES.min(head.body_bytes);
        let mut end = self.store.get(at, end_of_body(guess)).await?;
        let trailer = end.get(end.len().saturating_sub(8)..).unwrap_or_default();
        let sealed_bytes = footer_bytes(name.as_str(), trailer)? as u64;
        if sealed_bytes + 8 > head.body_bytes {
            return Err(StoreError::damaged(name, "the footer claims more than the body"));
        }
        if sealed_bytes + 8 > guess {
            end = self.store.get(at, end_of_body(sealed_bytes + 8)).await?;
        }
        let until = end.len().saturating_sub(8);
        let from = until.saturating_sub(usize::try_from(sealed_bytes).unwrap_or(usize::MAX));
        let footer = Footer::open(&head, end.get(from..until).unwrap_or_default(), &self.keys)?;
        footer.check_digest(&head, &header, &self.keys)?;
        Ok(PackFacts {
            name: name.clone(),
            at: at.clone(),
            head,
            header,
            footer,
        })
    }
}

/// Joins what lies close together in one body: which one, where it begins, where it ends, and the chunk.
fn coalesce(mut wanted: Vec<(usize, u64, u64, u32)>, bytes_max: u64) -> Vec<PartRange> {
    wanted.sort_unstable();
    let mut ranges: Vec<PartRange> = Vec::new();
    for (body, start, end, number) in wanted {
        match ranges.last_mut() {
            Some(last)
                if last.body == body
                    && start <= last.start + last.len + COALESCE_BYTES
                    && end - last.start <= bytes_max =>
            {
                last.len = last.len.max(end - last.start);
                last.numbers.push(number);
            }
            _ => ranges.push(PartRange {
                body,
                start,
                len: end - start,
                numbers: vec![number],
            }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_what_lies_close_together_up_to_a_bound() {
        let far = 10 * COALESCE_BYTES;
        let wanted = vec![
            (0, 100, 200, 1),
            (0, 0, 100, 0),
            (0, 300, 400, 3),
            (0, far, far + 50, 9),
        ];
        let show = |ranges: Vec<PartRange>| -> Vec<(u64, u64, Vec<u32>)> {
            ranges
                .into_iter()
                .map(|range| (range.start, range.len, range.numbers))
                .collect()
        };
        assert_eq!(
            show(coalesce(wanted.clone(), u64::MAX)),
            [(0, 400, vec![0, 1, 3]), (far, 50, vec![9])]
        );
        assert_eq!(
            show(coalesce(wanted, 200)),
            [(0, 200, vec![0, 1]), (300, 100, vec![3]), (far, 50, vec![9])]
        );
        let apart = vec![(0, 0, 100, 0), (1, 100, 200, 1)];
        assert_eq!(
            show(coalesce(apart, u64::MAX)),
            [(0, 100, vec![0]), (100, 100, vec![1])]
        );
    }
}
