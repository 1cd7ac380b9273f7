//! Reading packs: whole, or head and footer first and then the parts that are needed.

use bytes::Bytes;

use super::{ReadObject, Repository};
use crate::envelope::{Head, Header, Kind};
use crate::error::StoreError;
use crate::id::PackId;
use crate::object::{ByteRange, ObjectName};
use crate::pack::{ChunkOpener, Footer, FooterEntry, check_id, footer_bytes};
use crate::verify::Depth;

/// Ranges closer together than this are fetched in one GET.
const COALESCE_BYTES: u64 = 256 << 10;
/// How much of the end of a pack is fetched to find its footer.
const FOOTER_GUESS_BYTES: u64 = 64 << 10;

/// What head and footer say of a pack.
#[derive(Debug)]
pub(crate) struct PackFacts {
    pub(crate) name: ObjectName,
    pub(crate) head: Head,
    header: Header,
    pub(crate) footer: Footer,
}

/// A pack whose chunks can be read, by ranges of its body.
#[derive(Debug)]
pub struct OpenPack {
    name: ObjectName,
    opener: ChunkOpener,
    footer: Footer,
    body_start: u64,
}

/// A range of a pack's body, and the chunks that lie in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRange {
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
    start: u64,
    bytes: Bytes,
}

/// A pack, or the parts of it that were asked for.
#[derive(Debug)]
pub struct FetchedPack {
    pack: OpenPack,
    /// Sorted by where they begin.
    parts: Vec<PackPart>,
    fetched_bytes: u64,
}

impl OpenPack {
    /// What the footer says about a chunk.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn entry(&self, number: u32) -> Result<&FooterEntry, StoreError> {
        self.footer
            .entries
            .get(number as usize)
            .ok_or_else(|| StoreError::damaged(&self.name, format!("no chunk {number}")))
    }

    /// How many chunks it has.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.footer.entries.len()).unwrap_or(u32::MAX)
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
            wanted.push((at, at + u64::from(entry.stored_bytes), *number));
        }
        Ok(coalesce(wanted, bytes_max))
    }

    /// Plaintext of a chunk that lies in a part, checked against its id.
    ///
    /// # Errors
    /// Damaged, or not in the part.
    pub fn chunk(&self, number: u32, part: &PackPart, repository: &Repository) -> Result<Vec<u8>, StoreError> {
        let entry = self.entry(number)?;
        let sealed = part
            .slice(entry)
            .ok_or_else(|| StoreError::damaged(&self.name, format!("chunk {number} was not fetched")))?;
        let plain = self.opener.open(number, entry, sealed)?;
        check_id(self.name.as_str(), entry, &plain, repository.keys())?;
        Ok(plain)
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
        let at = u64::from(self.entry(number)?.at);
        let before = self.parts.partition_point(|part| part.start <= at).checked_sub(1);
        let part = before.and_then(|index| self.parts.get(index));
        let missing = || StoreError::damaged(&self.pack.name, format!("chunk {number} was not fetched"));
        self.pack.chunk(number, part.ok_or_else(missing)?, repository)
    }
}

impl Repository {
    /// Reads a whole pack with one GET.
    ///
    /// # Errors
    /// The store failed, or the pack is damaged.
    pub async fn fetch_pack(&self, id: PackId) -> Result<FetchedPack, StoreError> {
        let name = self.layout.pack(id)?;
        let ReadObject { head, header, body } = self.read(&name).await?;
        if !matches!(head.kind, Kind::DataPack | Kind::MetadataPack) {
            return Err(StoreError::damaged(&name, "not a pack"));
        }
        let footer = Footer::of_body(&head, &body, &self.keys)?;
        let fetched_bytes = head.object_bytes();
        let facts = PackFacts {
            name,
            head,
            header,
            footer,
        };
        Ok(FetchedPack {
            pack: self.opened(facts)?,
            fetched_bytes,
            parts: vec![PackPart { start: 0, bytes: body }],
        })
    }

    /// Checks a pack that was read whole: footer, digest, and with the restore key every chunk.
    pub(crate) fn check_pack(&self, name: &ObjectName, read: ReadObject) -> Result<Depth, StoreError> {
        let ReadObject { head, header, body } = read;
        let footer = Footer::of_body(&head, &body, &self.keys)?;
        let ids: Vec<u8> = footer.entries.iter().flat_map(|entry| entry.id.0).collect();
        if self.keys.digest(head.kind as u8, &ids) != header.digest {
            return Err(StoreError::damaged(
                name,
                "its footer names other chunks than its header",
            ));
        }
        let facts = PackFacts {
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
        let part = PackPart { start: 0, bytes: body };
        for number in 0..pack.chunks() {
            pack.chunk(number, &part, self)?;
        }
        Ok(Depth::Content)
    }

    /// Reads some chunks of a pack: head, footer, then the ranges that hold them.
    ///
    /// # Errors
    /// As [`Repository::fetch_pack`].
    pub async fn fetch_chunks(&self, id: PackId, numbers: &[u32]) -> Result<FetchedPack, StoreError> {
        let pack = self.open_pack(id).await?;
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

    /// Reads head and footer of a pack.
    ///
    /// # Errors
    /// As [`Repository::fetch_pack`].
    pub async fn open_pack(&self, id: PackId) -> Result<OpenPack, StoreError> {
        let facts = self.pack_facts(id).await?;
        self.opened(facts)
    }

    /// Reads a part of a pack's body.
    ///
    /// # Errors
    /// The store failed, or the pack is shorter than its footer says.
    pub async fn fetch_part(&self, pack: &OpenPack, range: &PartRange) -> Result<PackPart, StoreError> {
        let slice = ByteRange::Slice {
            start: pack.body_start + range.start,
            len: range.len,
        };
        Ok(PackPart {
            start: range.start,
            bytes: self.store.get(&pack.name, slice).await?,
        })
    }

    fn opened(&self, facts: PackFacts) -> Result<OpenPack, StoreError> {
        let PackFacts {
            name,
            head,
            header,
            footer,
        } = facts;
        let session = self.session_secret(&head, &header)?;
        Ok(OpenPack {
            opener: ChunkOpener::new(&head, header.lineage, session.as_ref(), &self.keys)?,
            body_start: head.body_start(),
            name,
            footer,
        })
    }

    /// Head, header and footer of a pack.
    pub(crate) async fn pack_facts(&self, id: PackId) -> Result<PackFacts, StoreError> {
        let name = self.layout.pack(id)?;
        let Some((head, header)) = self.read_header(&name).await? else {
            return Err(StoreError::damaged(&name, "the pack is missing"));
        };
        let end_of_body = |len: u64| ByteRange::Slice {
            start: head.body_start() + head.body_bytes - len,
            len,
        };
        let guess = FOOTER_GUESS_BYTES.min(head.body_bytes);
        let mut end = self.store.get(&name, end_of_body(guess)).await?;
        let trailer = end.get(end.len().saturating_sub(8)..).unwrap_or_default();
        let sealed_bytes = footer_bytes(name.as_str(), trailer)? as u64;
        if sealed_bytes + 8 > head.body_bytes {
            return Err(StoreError::damaged(&name, "the footer claims more than the body"));
        }
        if sealed_bytes + 8 > guess {
            end = self.store.get(&name, end_of_body(sealed_bytes + 8)).await?;
        }
        let until = end.len().saturating_sub(8);
        let from = until.saturating_sub(usize::try_from(sealed_bytes).unwrap_or(usize::MAX));
        let footer = Footer::open(&head, end.get(from..until).unwrap_or_default(), &self.keys)?;
        Ok(PackFacts {
            name,
            head,
            header,
            footer,
        })
    }
}

/// Joins what lies close together: where it begins, where it ends, and the chunk.
fn coalesce(mut wanted: Vec<(u64, u64, u32)>, bytes_max: u64) -> Vec<PartRange> {
    wanted.sort_unstable();
    let mut ranges: Vec<PartRange> = Vec::new();
    for (start, end, number) in wanted {
        match ranges.last_mut() {
            Some(last) if start <= last.start + last.len + COALESCE_BYTES && end - last.start <= bytes_max => {
                last.len = last.len.max(end - last.start);
                last.numbers.push(number);
            }
            _ => ranges.push(PartRange {
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
        let wanted = vec![(100, 200, 1), (0, 100, 0), (300, 400, 3), (far, far + 50, 9)];
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
    }
}
