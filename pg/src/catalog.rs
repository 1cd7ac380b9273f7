//! Rows of the catalogs that name databases, schemas and tables, out of their bytes.
//!
//! Only leading columns are read: they are fixed in width and never null. Where they are is the same in every
//! supported major version: src/include/catalog/{pg_database,pg_namespace,pg_class}.h. Names are bytes in the database's encoding.

use crate::bytes_at::{array_at, i32_at, u32_at};

/// Oid of `pg_database`, which is shared by all databases.
pub const PG_DATABASE: u32 = 1262;
/// Oid of `pg_namespace`.
pub const PG_NAMESPACE: u32 = 2615;
/// Oid of `pg_class`.
pub const PG_CLASS: u32 = 1259;
/// Oids of the tablespaces `pg_default` and `pg_global` (src/include/catalog/pg_tablespace.dat).
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// See [`DEFAULT_TABLESPACE`].
pub const GLOBAL_TABLESPACE: u32 = 1664;
/// `NAMEDATALEN`.
pub const NAME_BYTES: usize = 64;

/// A row is shorter than its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row of {0} is too short")]
pub struct ShortRow(&'static str);

/// A `name`: up to the first zero.
fn name_at(row: &[u8], at: usize) -> Option<Vec<u8>> {
    let name: [u8; NAME_BYTES] = array_at(row, at)?;
    name.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

/// A row of `pg_database`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRow {
    /// `oid`
    pub oid: u32,
    /// `datname`
    pub name: Vec<u8>,
    /// `datconnlimit` is `DATCONNLIMIT_INVALID_DB`: a `DROP DATABASE` has begun and cannot be taken back.
    pub is_invalid: bool,
}

impl DatabaseRow {
    /// Reads a row of a server of this major version.
    pub fn parse(row: &[u8], major: u32) -> Result<DatabaseRow, ShortRow> {
        // Two more names before it, up to 14; a boolean more, in what was padding, from 17 on.
        let limit_at = if major < 15 { 208 } else { 80 };
        let read = || {
            Some(DatabaseRow {
                oid: u32_at(row, 0)?,
                name: name_at(row, 4)?,
                is_invalid: i32_at(row, limit_at)? == -2,
            })
        };
        read().ok_or(ShortRow("pg_database"))
    }
}

/// A row of `pg_namespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRow {
    /// `oid`
    pub oid: u32,
    /// `nspname`
    pub name: Vec<u8>,
}

impl NamespaceRow {
    /// Reads a row.
    pub fn parse(row: &[u8]) -> Result<NamespaceRow, ShortRow> {
        let read = || {
            Some(NamespaceRow {
                oid: u32_at(row, 0)?,
                name: name_at(row, 4)?,
            })
        };
        read().ok_or(ShortRow("pg_namespace"))
    }
}

/// A row of `pg_class`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassRow {
    /// `oid`
    pub oid: u32,
    /// `relname`
    pub name: Vec<u8>,
    /// `relnamespace`
    pub namespace: u32,
    /// `relfilenode`; 0 where it has no files, or [`crate::relation_map`] knows them.
    pub relfilenode: u32,
    /// `reltablespace`; 0 is that of the database.
    pub tablespace: u32,
    /// `relpages`
    pub pages: i32,
    /// `reltuples`
    pub tuples: f32,
    /// `relpersistence`: `p`, `u` or `t`.
    pub persistence: u8,
    /// `relkind`
    pub kind: u8,
}

impl ClassRow {
    /// Reads a row of a server of this major version.
    pub fn parse(row: &[u8], major: u32) -> Result<ClassRow, ShortRow> {
        // relallfrozen is new in 18, before reltoastrelid.
        let persistence_at = if major < 18 { 114 } else { 118 };
        let read = || {
            Some(ClassRow {
                oid: u32_at(row, 0)?,
                name: name_at(row, 4)?,
                namespace: u32_at(row, 68)?,
                relfilenode: u32_at(row, 88)?,
                tablespace: u32_at(row, 92)?,
                pages: i32_at(row, 96)?,
                tuples: f32::from_bits(u32_at(row, 100)?),
                persistence: *row.get(persistence_at)?,
                kind: *row.get(persistence_at + 1)?,
            })
        };
        read().ok_or(ShortRow("pg_class"))
    }

    /// Whether it is a relation that people name: no index, no TOAST table, no type, nothing of one session only.
    pub fn is_named(&self) -> bool {
        self.persistence != b't' && b"rpmvfS".contains(&self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(row: &mut [u8], at: usize, bytes: &[u8]) {
        row[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn rows_of_either_layout_are_read() {
        for (major, persistence_at) in [(13, 114), (17, 114), (18, 118)] {
            let mut row = vec![0; 120];
            put(&mut row, 0, &16_384u32.to_le_bytes());
            put(&mut row, 4, b"orders");
            put(&mut row, 68, &2200u32.to_le_bytes());
            put(&mut row, 88, &16_390u32.to_le_bytes());
            put(&mut row, 100, &(-1f32).to_le_bytes());
            put(&mut row, persistence_at, b"pr");
            let class = ClassRow::parse(&row, major).unwrap();
            assert_eq!((class.oid, class.name.as_slice()), (16_384, &b"orders"[..]));
            assert_eq!((class.namespace, class.relfilenode, class.tuples), (2200, 16_390, -1.0));
            assert!(class.is_named(), "{major}");
            assert!(ClassRow::parse(&row[..persistence_at], major).is_err());
        }
        for (major, limit_at) in [(14, 208), (15, 80)] {
            let mut row = vec![0; limit_at + 4];
            put(&mut row, 4, b"shop");
            assert!(!DatabaseRow::parse(&row, major).unwrap().is_invalid);
            put(&mut row, limit_at, &(-2i32).to_le_bytes());
            let database = DatabaseRow::parse(&row, major).unwrap();
            assert!(database.is_invalid && database.name == b"shop");
        }
        assert_eq!(NamespaceRow::parse(&[1; 68]).unwrap().name, [1; 64]);
        assert!(NamespaceRow::parse(&[1; 67]).is_err());
    }
}
