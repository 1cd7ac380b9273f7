//! Whether a map is stored whole or as a delta, and what the delta holds.

use super::encoding::{Form, encode_digests_delta, encode_digests_whole, encode_extents};
use super::{Extent, Extents, ParentMap};
use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::id::PageDigest;
use crate::limits::PAGE_MAP_DEPTH_MAX;

/// What to store for a file's extents: `None` when the parent's chunk says the same, else bytes and the depth of the chain.
///
/// # Errors
/// A limit of the format.
pub fn plan_extents(new: &Extents, parent: &ParentMap) -> Result<Option<(Vec<u8>, u16)>, StoreError> {
    let whole = || Ok(Some((encode_extents(Form::Whole, new.pages, &new.runs)?, 0)));
    let Some((at, depth)) = parent.extents_at else {
        return whole();
    };
    if *new == parent.extents {
        return Ok(None);
    }
    let replaced = replaced_runs(new, &parent.extents);
    if depth >= PAGE_MAP_DEPTH_MAX || replaced.len() * 2 > new.runs.len() {
        return whole();
    }
    let depth = depth + 1;
    let form = Form::Delta { parent: at, depth };
    Ok(Some((encode_extents(form, new.pages, &replaced)?, depth)))
}

/// What to store for a file's digests, as [`plan_extents`].
#[must_use]
pub fn plan_digests(new: &[PageDigest], parent: &ParentMap) -> Option<(Vec<u8>, u16)> {
    let Some((at, depth)) = parent.digests_at else {
        return Some((encode_digests_whole(new), 0));
    };
    if *new == *parent.digests {
        return None;
    }
    let runs = changed_runs(new, &parent.digests);
    let changed: usize = runs.iter().map(|(_, count)| *count as usize).sum();
    if depth >= PAGE_MAP_DEPTH_MAX || changed * 2 > new.len() {
        return Some((encode_digests_whole(new), 0));
    }
    Some((delta(at, depth + 1, new, &runs), depth + 1))
}

fn delta(at: ChunkReference, depth: u16, new: &[PageDigest], runs: &[(u32, u32)]) -> Vec<u8> {
    encode_digests_delta(at, depth, new, runs)
}

/// Runs of `new` that differ from what `old` says about the same pages.
fn replaced_runs(new: &Extents, old: &Extents) -> Vec<Extent> {
    let mut out = Vec::new();
    for run in &new.runs {
        let before = old.slice(run.first, run.end());
        let same = before.first().is_some_and(|first| first.first == run.first)
            && before.last().is_some_and(|last| last.end() == run.end())
            && before
                .iter()
                .all(|part| run.clip(part.first, part.end()).as_ref() == Some(part));
        if !same {
            out.push(*run);
        }
    }
    out
}

fn changed_runs(new: &[PageDigest], old: &[PageDigest]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for (at, digest) in new.iter().enumerate() {
        if old.get(at) == Some(digest) {
            continue;
        }
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        match runs.last_mut() {
            Some((first, count)) if *first + *count == at => *count += 1,
            _ => runs.push((at, 1)),
        }
    }
    runs
}

impl Extents {
    /// This map with a delta applied.
    #[must_use]
    pub fn with_delta(&self, delta: &Extents) -> Extents {
        let mut out = Extents::default();
        let mut next = 0;
        for run in &delta.runs {
            for kept in self.slice(next, run.first) {
                out.push(kept);
            }
            out.push(*run);
            next = run.end();
        }
        for kept in self.slice(next, delta.pages) {
            out.push(kept);
        }
        out.pages = delta.pages;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Source, decode_extents};
    use super::*;
    use crate::id::PackId;

    fn run(first: u32, count: u32, pack: u8, chunk: u32) -> Extent {
        Extent {
            first,
            count,
            source: Source::Pack {
                pack: PackId([pack; 16]),
                chunk,
                page: 0,
            },
        }
    }

    #[test]
    fn a_delta_applied_to_its_parent_gives_the_new_map() {
        let mut old = Extents::default();
        for at in 0..64 {
            old.push(run(at * 16, 16, 1, at * 2));
        }
        let parent = ParentMap {
            extents: old.clone(),
            extents_at: Some((
                ChunkReference {
                    pack: PackId([7; 16]),
                    number: 0,
                },
                0,
            )),
            ..ParentMap::default()
        };
        let mut new = Extents::default();
        for part in old.slice(0, 100) {
            new.push(part);
        }
        new.push(run(100, 3, 2, 0));
        for part in old.slice(103, 1000) {
            new.push(part);
        }
        let (bytes, depth) = plan_extents(&new, &parent).unwrap().unwrap();
        assert_eq!(depth, 1);
        let parsed = decode_extents(&bytes).unwrap();
        assert!(parsed.content.runs.len() < 5, "{:?}", parsed.content.runs);
        let applied = old.with_delta(&parsed.content);
        assert!(applied.is_whole());
        for page in 0..1000 {
            assert_eq!(applied.slice(page, page + 1), new.slice(page, page + 1), "page {page}");
        }
        assert!(
            plan_extents(&old, &parent).unwrap().is_none(),
            "nothing changed, nothing stored"
        );
    }
}
