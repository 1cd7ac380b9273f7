//! Foreign keys of other tables that led to the ones that are brought back. They went with them, and `pg_dump` of a table does not have
//! them: they are made again where the other table is there and has none of that name.

use std::io::Write as _;
use std::path::Path;

use crate::cli::TableArgs;
use crate::error::{RestoreError, Result};
use crate::report::Started;
use crate::start::client;

/// One foreign key of another table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// The table, quoted and with its schema.
    table: String,
    /// The constraint's name, as it is.
    name: String,
    /// Its definition.
    definition: String,
}

/// Finds them in the recovered database; none where all of it is dumped.
pub(super) async fn of_others(started: &Started, args: &TableArgs) -> Result<Vec<Reference>> {
    if args.table.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: tokio_postgres::Error| RestoreError::Server {
        message: format!(
            "cannot look into database \"{}\" of the recovered server: {}",
            args.database,
            client::said(&error)
        ),
        hint: "Name the database as it was called at that time.".into(),
    };
    let client = client::connect(started, &args.database, "").await.map_err(failed)?;
    let query = "WITH found AS (SELECT oid::pg_catalog.oid FROM pg_catalog.unnest($1::text[]) AS oid) \
                 SELECT pg_catalog.format('%I.%I', n.nspname, t.relname), c.conname::text, \
                        pg_catalog.pg_get_constraintdef(c.oid) \
                 FROM pg_catalog.pg_constraint c \
                 JOIN pg_catalog.pg_class t ON t.oid = c.conrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
                 WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confrelid IN (SELECT oid FROM found) \
                   AND c.conrelid NOT IN (SELECT oid FROM found) \
                 ORDER BY 1, 2";
    // Names as they were given, with the usual search path (patterns of pg_dump match no name here); then without any path, so that
    // definitions have schemas.
    let tables = client
        .query_one(
            "SELECT pg_catalog.array_agg(pg_catalog.to_regclass(name)::oid::text) FROM pg_catalog.unnest($1::text[]) AS name",
            &[&args.table],
        )
        .await
        .map_err(failed)?;
    let oids: Option<Vec<Option<String>>> = tables.get(0);
    let oids: Vec<String> = oids.into_iter().flatten().flatten().collect();
    client.batch_execute("SET search_path = ''").await.map_err(failed)?;
    let rows = client.query(query, &[&oids]).await.map_err(failed)?;
    Ok(rows
        .iter()
        .map(|row| Reference {
            table: row.get(0),
            name: row.get(1),
            definition: row.get(2),
        })
        .collect())
}

/// Adds them to a dump.
pub(super) fn append(dump: &Path, references: &[Reference]) -> Result<()> {
    if references.is_empty() {
        return Ok(());
    }
    let text: String = references.iter().map(statement).collect();
    let io = |error| RestoreError::io("write", dump)(error);
    let mut file = std::fs::OpenOptions::new().append(true).open(dump).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)
}

fn statement(reference: &Reference) -> String {
    let Reference {
        table,
        name,
        definition,
    } = reference;
    let (quoted_name, literal) = (quote_identifier(name), quote_literal(name));
    let table_literal = quote_literal(table);
    // Rows that came since may lead nowhere: they must not keep the table away.
    let unchecked = if definition.ends_with(" NOT VALID") {
        ""
    } else {
        " NOT VALID"
    };
    let add = format!("ALTER TABLE {table} ADD CONSTRAINT {quoted_name} {definition}{unchecked};");
    let warning =
        quote_literal(&format!("rows of {table} lead nowhere: constraint {name} stays NOT VALID").replace('%', "%%"));
    let validate = match unchecked {
        "" => String::new(),
        _ => format!(
            "\n    BEGIN\n      ALTER TABLE {table} VALIDATE CONSTRAINT {quoted_name};\n    \
             EXCEPTION WHEN foreign_key_violation THEN RAISE WARNING {warning};\n    END;"
        ),
    };
    let body = format!(
        "BEGIN\n  IF pg_catalog.to_regclass({table_literal}) IS NOT NULL AND NOT EXISTS (\n    \
         SELECT FROM pg_catalog.pg_constraint WHERE conrelid = pg_catalog.to_regclass({table_literal}) AND conname = {literal}\n  \
         ) THEN\n    {add}{validate}\n  END IF;\nEND"
    );
    format!("\n-- A foreign key that led here.\nDO {};\n", quote_literal(&body))
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// With `E''`, so that `standard_conforming_strings` does not matter.
fn quote_literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_statement() {
        let text = statement(&Reference {
            table: "public.\"o'r\"".into(),
            name: "a\"b'c\\".into(),
            definition: "FOREIGN KEY (i) REFERENCES public.t(i)".into(),
        });
        assert!(text.contains(r#"ADD CONSTRAINT "a""b''c\\" FOREIGN KEY (i)"#), "{text}");
        assert!(text.contains(r#"E''a"b''''c\\\\''"#), "{text}");
        assert_eq!(text.matches("DO E'").count(), 1);
        assert!(text.trim_end().ends_with("END';"));
    }
}
