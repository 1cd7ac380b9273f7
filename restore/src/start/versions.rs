//! Has the restored server the libraries that the backed-up one had? Another version of the C library or of ICU may sort text in
//! another way than the indexes were built in (PostgreSQL docs, 24.2.2.3, "Collation Versions"; REINDEX in 25.2).

use std::collections::BTreeMap;

use pg::collations::VERSIONS;
use tokio_postgres::Client;

use super::client::{self, said};
use crate::report::Started;

/// Indexes whose order depends on a library, by its letter in `pg_collation.collprovider`. The default collation (OID 100) is the
/// database's; `datlocprovider` came with PostgreSQL 15.
const INDEXES: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), p.provider::pg_catalog.text \
     FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     CROSS JOIN LATERAL (SELECT DISTINCT CASE l.oid WHEN 100 THEN \
     (SELECT CASE WHEN d.datcollate IN ('C', 'POSIX') AND coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' \
     THEN '-' ELSE coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') END \
     FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()) \
     ELSE CASE WHEN l.collname IN ('C', 'POSIX') THEN '-' ELSE l.collprovider::pg_catalog.text END END AS provider \
     FROM pg_catalog.unnest(i.indcollation) AS k (oid) JOIN pg_catalog.pg_collation AS l ON l.oid = k.oid) AS p \
     WHERE p.provider IN ('c', 'i') ORDER BY 1";
/// Extensions that a database has and this host has not, or not in that version.
const EXTENSIONS: &str = "SELECT e.extname::pg_catalog.text, e.extversion FROM pg_catalog.pg_extension AS e WHERE NOT EXISTS \
     (SELECT 1 FROM pg_catalog.pg_available_extension_versions AS v WHERE v.name = e.extname AND v.version = e.extversion)";
/// Tables that recovery has locked (PostgreSQL docs, 27.4.2: access exclusive locks of the primary are held while replay is paused).
const LOCKED: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), ''::pg_catalog.text FROM pg_catalog.pg_locks AS l \
     JOIN pg_catalog.pg_database AS d ON d.oid = l.database AND d.datname = pg_catalog.current_database() \
     JOIN pg_catalog.pg_class AS c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'm') \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname <> 'pg_toast' \
     WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.virtualtransaction IS NOT NULL AND l.pid = \
     (SELECT a.pid FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_type = 'startup') ORDER BY 1";
/// Indexes that are named for one database.
const NAMED: usize = 50;

/// What the operator should know, in words. Never fails: a server that does not tell is reported as that.
pub(super) async fn compare(
    started: &Started,
    databases: &[String],
    recorded: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut out = Vec::new();
    for database in databases {
        match in_database(started, database, recorded).await {
            Ok(found) => out.extend(found),
            Err(error) => out.push(format!(
                "libraries and extensions of database \"{database}\" were not compared: {}",
                said(&error)
            )),
        }
    }
    out
}

async fn in_database(
    started: &Started,
    database: &str,
    recorded: &BTreeMap<String, String>,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let client = client::connect(started, database, client::CAREFUL).await?;
    let mut out: Vec<String> = locked(&client, database).await?.into_iter().collect();
    let indexes: Vec<(String, String)> = pairs(&client, INDEXES).await?;
    for (name, here) in pairs(&client, VERSIONS).await? {
        let Some(change) = changed(&name, &here, recorded) else {
            continue;
        };
        let letter = if name.ends_with("icu") { "i" } else { "c" };
        let affected = indexes.iter().filter(|(_, provider)| provider == letter);
        let names: Vec<&str> = affected.map(|(index, _)| index.as_str()).collect();
        out.extend(rebuild(database, &change, &names));
    }
    for (extension, version) in pairs(&client, EXTENSIONS).await? {
        out.push(format!(
            "extension {extension} {version} of database \"{database}\" is not installed on this host: what uses it fails"
        ));
    }
    Ok(out)
}

/// A stop point between a transaction's locks and its end: the server that waits there holds them.
async fn locked(client: &Client, database: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let found = pairs(client, LOCKED).await?;
    let names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    Ok((!names.is_empty()).then(|| {
        format!(
            "as long as the server waits here, reading {} of database \"{database}\" waits too: a transaction that had not ended at the stop \
             point has locked them. After promotion they can be read, and so they can at a stop point before that transaction began",
            names.join(", ")
        )
    }))
}

async fn pairs(client: &Client, query: &str) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let rows = client.query(query, &[]).await?;
    let text = |row: &tokio_postgres::Row, at| row.try_get::<_, Option<String>>(at).map(Option::unwrap_or_default);
    rows.iter().map(|row| Ok((text(row, 0)?, text(row, 1)?))).collect()
}

/// In words, when a library is another than it was.
fn changed(name: &str, here: &str, recorded: &BTreeMap<String, String>) -> Option<String> {
    let then = recorded.get(name).filter(|then| *then != here)?;
    let library = match name {
        "collation.icu" => "ICU's collations have",
        _ => "the C library has",
    };
    Some(format!(
        "{library} version {here} here and had {then} when the backup was taken"
    ))
}

fn rebuild(database: &str, change: &str, indexes: &[&str]) -> Option<String> {
    if indexes.is_empty() {
        return None;
    }
    let named: Vec<String> = indexes
        .iter()
        .take(NAMED)
        .map(|index| format!("REINDEX INDEX {index};"))
        .collect();
    let rest = match indexes.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{change}: text may sort in another order than {} indexes of database \"{database}\" were built in; rebuild them: {}{rest}",
        indexes.len(),
        named.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told_with_the_indexes_to_rebuild() {
        let recorded = BTreeMap::from([("collation.libc".to_owned(), "2.31".to_owned())]);
        assert_eq!(changed("collation.libc", "2.31", &recorded), None);
        assert_eq!(changed("collation.icu", "153.120", &recorded), None);
        let change = changed("collation.libc", "2.36", &recorded).unwrap();
        let text = rebuild("shop", &change, &["public.a", "public.\"B c\""]).unwrap();
        assert!(text.contains("version 2.36 here and had 2.31"), "{text}");
        assert!(
            text.ends_with("rebuild them: REINDEX INDEX public.a; REINDEX INDEX public.\"B c\";"),
            "{text}"
        );
        assert_eq!(rebuild("shop", &change, &[]), None);
        let many: Vec<String> = (0..60).map(|number| format!("public.i{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(rebuild("shop", &change, &many).unwrap().ends_with("and 10 more"));
    }
}
