//! The tables of a dump, and how many rows each has: counted in the snapshot that the dump is of, and compared after a restore.
//!
//! They lie in the backup beside the dump, as JSON. Of each table the objects that go with it (indexes, constraints, defaults, sequences) are
//! named by catalog and OID, as the table of contents of the dump names them: so one table comes back with all that is its own.

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::ComponentError;

/// Tables that are asked for in one question.
const TOGETHER_MAX: usize = 500;

/// A dumped table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its OID where it was dumped.
    pub oid: u32,
    /// Its own rows; none where they were not counted.
    pub rows: Option<u64>,
    /// It comes with an extension, which may fill it differently elsewhere: its rows are not counted.
    pub is_of_extension: bool,
    /// What goes with it: OID of the catalog, OID of the object.
    pub parts: Vec<(u32, u32)>,
    /// Names of the sequences that it owns; they are in its schema.
    pub sequences: Vec<String>,
}

impl Table {
    /// As it is asked for: `SCHEMA.TABLE`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// What is known of the dump of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Its name.
    pub database: String,
    /// Its tables with rows in the dump, by their OIDs.
    pub tables: Vec<Table>,
}

impl Counts {
    /// All rows; none where they were not counted.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let counted: Vec<u64> = self.tables.iter().filter_map(|table| table.rows).collect();
        let is_counted = !counted.is_empty() || self.tables.iter().all(|table| table.is_of_extension);
        is_counted.then(|| counted.iter().sum())
    }
}

/// Looks tables up by their OIDs, and counts their rows where that is wanted. In the transaction of the session.
///
/// # Errors
/// The server failed, or said no.
pub(super) async fn take(session: &mut Session, oids: &[u32], counts_rows: bool) -> Result<Vec<Table>, ComponentError> {
    let mut tables: Vec<Table> = Vec::with_capacity(oids.len());
    for oids in oids.chunks(TOGETHER_MAX) {
        tables.extend(session.ask::<Vec<Table>>(&lookup(oids)).await?);
    }
    if tables.len() != oids.len() {
        let detail = format!(
            "the dump has rows of {} tables, the database knows {} of them",
            oids.len(),
            tables.len()
        );
        return Err(super::refusal::failed("counting rows", &detail));
    }
    if counts_rows {
        for table in tables.iter_mut().filter(|table| !table.is_of_extension) {
            table.rows = Some(count(session, table).await?);
        }
    }
    Ok(tables)
}

/// The rows of one table, without those of tables that inherit from it: these are dumped by themselves.
///
/// # Errors
/// It is not there, or must not be read.
pub(super) async fn count(session: &mut Session, table: &Table) -> Result<u64, ComponentError> {
    let name = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    session
        .ask(&format!("SELECT to_jsonb(count(*)) FROM ONLY {name}"))
        .await
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn lookup(oids: &[u32]) -> String {
    let list: Vec<String> = oids.iter().map(u32::to_string).collect();
    format!(
        "SELECT coalesce(jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname, 'oid', c.oid::bigint, 'rows', null, \
         'is_of_extension', EXISTS (SELECT FROM pg_depend d \
           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'), \
         'parts', coalesce((SELECT jsonb_agg(DISTINCT jsonb_build_array(d.classid::bigint, d.objid::bigint)) FROM pg_depend d \
           WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype IN ('a', 'i', 'P', 'S')), '[]'), \
         'sequences', coalesce((SELECT jsonb_agg(DISTINCT s.relname) FROM pg_depend d JOIN pg_class s ON s.oid = d.objid \
           WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
           AND d.deptype IN ('a', 'i') AND s.relkind = 'S'), '[]')) ORDER BY c.oid), '[]') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({})",
        list.join(", ")
    )
}

/// What a database has other than was captured.
///
/// # Errors
/// It cannot be asked. A table that is not there is a difference.
pub(super) async fn differences(session: &mut Session, tables: &[&Table]) -> Result<Vec<String>, ComponentError> {
    let mut differs = Vec::new();
    for table in tables {
        let Some(then) = table.rows else { continue };
        let name = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
        let literal = name.replace('\'', "''");
        let is_there: bool = session
            .ask(&format!(
                "SELECT to_jsonb(to_regclass(E'{}') IS NOT NULL)",
                literal.replace('\\', "\\\\")
            ))
            .await?;
        let now = match is_there {
            true => Some(count(session, table).await?),
            false => None,
        };
        match now {
            Some(now) if now == then => {}
            Some(now) => differs.push(format!("{}: {then} rows were captured, {now} are there", table.title())),
            None => differs.push(format!(
                "{}: {then} rows were captured, the table is not there",
                table.title()
            )),
        }
    }
    Ok(differs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_counted_is_no_zero() {
        let table = |rows, is_of_extension| Table {
            rows,
            is_of_extension,
            ..Table::default()
        };
        let of = |tables: Vec<Table>| {
            Counts {
                database: "app".into(),
                tables,
            }
            .rows()
        };
        assert_eq!(
            of(vec![table(Some(3), false), table(Some(4), false), table(None, true)]),
            Some(7)
        );
        assert_eq!(of(vec![]), Some(0));
        assert_eq!(of(vec![table(None, false)]), None);
    }
}
