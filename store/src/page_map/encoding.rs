//! Page maps to bytes and back (FORMAT 8.1, 8.2).

use super::{Digests, Extent, Extents, Source};
use crate::chunk::ChunkReference;
use crate::envelope::Fields;
use crate::error::StoreError;
use crate::id::{PackId, PageDigest};
use crate::limits::{PACK_CHUNKS_MAX, PAGE_MAP_DEPTH_MAX, RELATION_CHUNK_PAGES_MAX};

const ZERO_PACK: u16 = u16::MAX;
const DIGEST_BYTES: usize = 16;

/// Whole, or a delta upon a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Complete in itself.
    Whole,
    /// Replaces parts of the parent's map.
    Delta {
        /// The parent's chunk.
        parent: ChunkReference,
        /// Deltas from here down to a whole one.
        depth: u16,
    },
}

/// A parsed map that may still need its parent.
#[derive(Clone, Debug)]
pub struct Parsed<T> {
    /// Whole or delta.
    pub form: Form,
    /// The map, or what replaces the parent's.
    pub content: T,
}

impl Form {
    fn write(self, out: &mut Vec<u8>, pages: u32) {
        let (form, depth, parent) = match self {
            Form::Whole => (0, 0u16, None),
            Form::Delta { parent, depth } => (1, depth, Some(parent)),
        };
        out.extend_from_slice(&[1, form]);
        out.extend_from_slice(&depth.to_le_bytes());
        out.extend_from_slice(&pages.to_le_bytes());
        out.extend_from_slice(&parent.map_or([0; 16], |parent| parent.pack.0));
        out.extend_from_slice(&parent.map_or(0, |parent| parent.number).to_le_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<(Form, u32)> {
        let (version, form) = (fields.u8()?, fields.u8()?);
        let depth = fields.u16()?;
        let pages = fields.u32()?;
        let parent = ChunkReference {
            pack: PackId(fields.array()?),
            number: fields.u32()?,
        };
        match (version, form) {
            (1, 0) => Some((Form::Whole, pages)),
            (1, 1) if (1..=PAGE_MAP_DEPTH_MAX).contains(&depth) => Some((Form::Delta { parent, depth }, pages)),
            _ => None,
        }
    }
}

/// Encodes extents: the whole map, or for a delta only the runs that replace the parent's (`pages` is the file's length).
///
/// # Errors
/// More than 65,534 packs in one file's map.
pub fn encode_extents(form: Form, pages: u32, runs: &[Extent]) -> Result<Vec<u8>, StoreError> {
    let mut packs: Vec<PackId> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for run in runs {
        if let Source::Pack { pack, .. } = run.source {
            index.entry(pack).or_insert_with(|| {
                packs.push(pack);
                packs.len() - 1
            });
        }
    }
    if packs.len() >= usize::from(ZERO_PACK) {
        return Err(StoreError::Limit {
            what: "a page map",
            detail: format!("{} packs", packs.len()),
        });
    }
    let mut out = Vec::with_capacity(36 + packs.len() * 16 + runs.len() * 16);
    form.write(&mut out, pages);
    out.extend_from_slice(&u32::try_from(packs.len()).unwrap_or(u32::MAX).to_le_bytes());
    for pack in &packs {
        out.extend_from_slice(&pack.0);
    }
    out.extend_from_slice(&u32::try_from(runs.len()).unwrap_or(u32::MAX).to_le_bytes());
    for run in runs {
        let (pack, chunk, page) = match run.source {
            Source::Zero => (ZERO_PACK, 0, 0),
            Source::Pack { pack, chunk, page } => (
                index
                    .get(&pack)
                    .and_then(|at| u16::try_from(*at).ok())
                    .unwrap_or(ZERO_PACK),
                chunk,
                page,
            ),
        };
        out.extend_from_slice(&run.first.to_le_bytes());
        out.extend_from_slice(&run.count.to_le_bytes());
        out.extend_from_slice(&chunk.to_le_bytes());
        out.extend_from_slice(&pack.to_le_bytes());
        out.extend_from_slice(&page.to_le_bytes());
    }
    Ok(out)
}

/// Decodes extents; `None` when they make no sense.
#[must_use]
pub fn decode_extents(bytes: &[u8]) -> Option<Parsed<Extents>> {
    let mut fields = Fields { bytes, at: 0 };
    let (form, pages) = Form::read(&mut fields)?;
    let pack_count = fields.u32()? as usize;
    if pack_count > bytes.len() / 16 {
        return None;
    }
    let packs = (0..pack_count)
        .map(|_| fields.array().map(PackId))
        .collect::<Option<Vec<_>>>()?;
    let run_count = fields.u32()? as usize;
    if run_count > bytes.len() / 16 {
        return None;
    }
    let mut runs = Vec::with_capacity(run_count);
    let mut next = 0u32;
    for _ in 0..run_count {
        let (first, count, chunk, pack, page) = (
            fields.u32()?,
            fields.u32()?,
            fields.u32()?,
            fields.u16()?,
            fields.u16()?,
        );
        let end = first.checked_add(count)?;
        let out_of_order = first < next || count == 0 || end > pages;
        if out_of_order || usize::from(page) >= RELATION_CHUNK_PAGES_MAX {
            return None;
        }
        // A run that ends behind any pack's last chunk makes no sense, and would overflow whoever counts on.
        let last_chunk = u64::from(chunk) + (u64::from(page) + u64::from(count)) / RELATION_CHUNK_PAGES_MAX as u64;
        if last_chunk > PACK_CHUNKS_MAX as u64 {
            return None;
        }
        next = end;
        let source = if pack == ZERO_PACK {
            Source::Zero
        } else {
            Source::Pack {
                pack: *packs.get(usize::from(pack))?,
                chunk,
                page,
            }
        };
        runs.push(Extent { first, count, source });
    }
    let content = Extents { pages, runs };
    let consistent = fields.is_at_end() && (form != Form::Whole || content.is_whole());
    consistent.then_some(Parsed { form, content })
}

/// Encodes whole digests.
#[must_use]
pub fn encode_digests_whole(digests: &[PageDigest]) -> Vec<u8> {
    let mut out = Vec::with_capacity(28 + digests.len() * DIGEST_BYTES);
    Form::Whole.write(&mut out, u32::try_from(digests.len()).unwrap_or(u32::MAX));
    for digest in digests {
        out.extend_from_slice(&digest.0);
    }
    out
}

/// Encodes digests as runs that replace the parent's.
#[must_use]
pub fn encode_digests_delta(
    parent: ChunkReference,
    depth: u16,
    digests: &[PageDigest],
    runs: &[(u32, u32)],
) -> Vec<u8> {
    let mut out = Vec::new();
    Form::Delta { parent, depth }.write(&mut out, u32::try_from(digests.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&u32::try_from(runs.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (first, count) in runs {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for digest in digests.iter().skip(*first as usize).take(*count as usize) {
            out.extend_from_slice(&digest.0);
        }
    }
    out
}

/// Decodes digests; `parent` gives the parent's whole digests for a delta. `None` when they make no sense.
///
/// # Errors
/// What `parent` returns.
pub fn decode_digests<E>(
    bytes: &[u8],
    parent: impl FnOnce(ChunkReference) -> Result<Digests, E>,
) -> Result<Option<Parsed<Digests>>, E> {
    let mut fields = Fields { bytes, at: 0 };
    let Some((form, pages)) = Form::read(&mut fields) else {
        return Ok(None);
    };
    let pages = pages as usize;
    let content = match form {
        Form::Whole => {
            let rest = bytes.get(fields.at..).unwrap_or_default();
            let (all, left) = rest.as_chunks::<DIGEST_BYTES>();
            if !left.is_empty() || all.len() != pages {
                return Ok(None);
            }
            Digests {
                pages: all.iter().map(|digest| PageDigest(*digest)).collect(),
            }
        }
        Form::Delta { parent: at, .. } => {
            let base = parent(at)?;
            match apply_runs(&mut fields, base, pages) {
                Some(digests) => digests,
                None => return Ok(None),
            }
        }
    };
    Ok(Some(Parsed { form, content }))
}

fn apply_runs(fields: &mut Fields<'_>, mut base: Digests, pages: usize) -> Option<Digests> {
    let grown_from = base.pages.len();
    if pages > grown_from + fields.bytes.len() / DIGEST_BYTES {
        return None;
    }
    base.pages.resize(pages, PageDigest::default());
    let mut covered = grown_from.min(pages);
    for _ in 0..fields.u32()? {
        let (first, count) = (fields.u32()? as usize, fields.u32()? as usize);
        if first > covered {
            return None;
        }
        for at in first..first.checked_add(count)? {
            *base.pages.get_mut(at)? = PageDigest(fields.array()?);
        }
        covered = covered.max(first + count);
    }
    (fields.is_at_end() && covered == pages).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(byte: u8) -> PackId {
        PackId([byte; 16])
    }

    #[test]
    fn extents_survive_the_round_trip_and_damage_is_noticed() {
        let mut map = Extents::default();
        map.push(Extent {
            first: 0,
            count: 40,
            source: Source::Pack {
                pack: pack(1),
                chunk: 7,
                page: 0,
            },
        });
        map.push(Extent {
            first: 40,
            count: 2,
            source: Source::Zero,
        });
        map.push(Extent {
            first: 42,
            count: 1,
            source: Source::Pack {
                pack: pack(2),
                chunk: 0,
                page: 15,
            },
        });
        let bytes = encode_extents(Form::Whole, map.pages, &map.runs).unwrap();
        assert_eq!(decode_extents(&bytes).unwrap().content, map);
        for at in 0..bytes.len() {
            assert!(decode_extents(&bytes[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn digests_delta_applies_to_its_parent_only_where_it_says() {
        let old = Digests {
            pages: vec![PageDigest([1; 16]); 10],
        };
        let mut new = old.pages.clone();
        new[3] = PageDigest([2; 16]);
        new.push(PageDigest([3; 16]));
        let at = ChunkReference {
            pack: pack(9),
            number: 4,
        };
        let bytes = encode_digests_delta(at, 1, &new, &[(3, 1), (10, 1)]);
        let parsed = decode_digests::<()>(&bytes, |asked| {
            assert_eq!(asked, at);
            Ok(old.clone())
        });
        assert_eq!(parsed.unwrap().unwrap().content.pages, new);
        let missing = encode_digests_delta(at, 1, &new, &[(3, 1)]);
        assert!(
            decode_digests::<()>(&missing, |_| Ok(old.clone())).unwrap().is_none(),
            "the new page has no digest"
        );
    }

    #[test]
    fn runs_of_full_chunks_join_and_short_chunks_do_not() {
        let mut map = Extents::default();
        map.push(Extent {
            first: 0,
            count: 16,
            source: Source::Pack {
                pack: pack(1),
                chunk: 0,
                page: 0,
            },
        });
        map.push(Extent {
            first: 16,
            count: 5,
            source: Source::Pack {
                pack: pack(1),
                chunk: 1,
                page: 0,
            },
        });
        map.push(Extent {
            first: 21,
            count: 16,
            source: Source::Pack {
                pack: pack(1),
                chunk: 2,
                page: 0,
            },
        });
        assert_eq!(map.runs.len(), 2);
        let clipped = map.slice(18, 22);
        assert_eq!(clipped.len(), 2);
        assert_eq!(
            clipped[0].source,
            Source::Pack {
                pack: pack(1),
                chunk: 1,
                page: 2
            }
        );
    }
}
