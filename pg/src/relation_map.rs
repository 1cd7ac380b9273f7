//! `pg_filenode.map`: which files the catalogs have that cannot say it themselves.
//!
//! Layout: src/backend/utils/cache/relmapper.c (`RelMapFile`). The number of entries that fit differs between versions, and so does
//! the place of the checksum; neither is relied on.

use crate::bytes_at::{i32_at, u32_at};

/// `RELMAPPER_FILEMAGIC`.
const MAGIC: i32 = 0x59_2717;
/// More than any version has room for (`MAX_MAPPINGS`: 62, later 64).
const ENTRIES_MAX: usize = 64;

/// The bytes are no map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relation map makes no sense: {0}")]
pub struct RelationMapError(&'static str);

/// Oids of catalogs and the numbers of their files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelationMap(Vec<(u32, u32)>);

impl RelationMap {
    /// Reads the file, or what a WAL record says the file is now.
    pub fn parse(bytes: &[u8]) -> Result<RelationMap, RelationMapError> {
        const SHORT: RelationMapError = RelationMapError("it is too short");
        if i32_at(bytes, 0) != Some(MAGIC) {
            return Err(RelationMapError("it has another magic number"));
        }
        let count = i32_at(bytes, 4)
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| *count <= ENTRIES_MAX)
            .ok_or(RelationMapError("it has too many entries"))?;
        let entry = |number: usize| {
            let at = 8 + 8 * number;
            Some((u32_at(bytes, at)?, u32_at(bytes, at + 4)?))
        };
        let entries: Option<Vec<_>> = (0..count).map(entry).collect();
        entries.map(RelationMap).ok_or(SHORT)
    }

    /// The number of a catalog's files.
    pub fn relfilenode(&self, oid: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|(mapped, _)| *mapped == oid)
            .map(|(_, number)| *number)
    }

    /// All numbers.
    pub fn relfilenodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(count: i32, entries: &[u32]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        bytes
    }

    #[test]
    fn catalogs_have_their_numbers() {
        let bytes = [map(2, &[1259, 16390, 1247, 1247]), vec![0; 480]].concat();
        let map = RelationMap::parse(&bytes).unwrap();
        assert_eq!(map.relfilenode(1259), Some(16390));
        assert_eq!(map.relfilenode(2615), None);
        assert_eq!(map.relfilenodes().collect::<Vec<_>>(), [16390, 1247]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = map(1, &[1259, 1259]);
        for len in 0..good.len() {
            assert!(RelationMap::parse(&good[..len]).is_err(), "{len}");
        }
        for count in [2, 65, -1, i32::MAX] {
            assert!(RelationMap::parse(&map(count, &[1259, 1259])).is_err(), "{count}");
        }
        let mut bad = good;
        bad[0] ^= 1;
        assert!(RelationMap::parse(&bad).is_err());
    }
}
