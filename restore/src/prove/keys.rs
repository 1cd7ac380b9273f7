//! Proofs by queries: rows whose foreign key leads nowhere, and indexes.

use tokio_postgres::Client;

use crate::start::client::said;

/// `None` where there is nothing to prove; otherwise what was found, or what is wrong.
type Found = Result<Option<String>, String>;

/// A query for each foreign key that counts the rows without the row that they name. Columns that are null name none (MATCH SIMPLE);
/// of partitions the key of the whole table counts.
const KEYS: &str = "SELECT c.conrelid::pg_catalog.regclass::text || ', ' || c.conname, pg_catalog.format( \
        'SELECT pg_catalog.count(*) FROM %s c WHERE %s AND NOT EXISTS (SELECT FROM %s p WHERE %s)', \
        c.conrelid::pg_catalog.regclass, \
        pg_catalog.string_agg(pg_catalog.format('c.%I IS NOT NULL', child.attname), ' AND '), \
        c.confrelid::pg_catalog.regclass, \
        pg_catalog.string_agg(pg_catalog.format('p.%I OPERATOR(%I.%s) c.%I', parent.attname, s.nspname, o.oprname, child.attname), ' AND ')) \
    FROM pg_catalog.pg_constraint c \
    CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey), pg_catalog.unnest(c.conpfeqop)) \
        AS pair (child, parent, operator) \
    JOIN pg_catalog.pg_operator o ON o.oid = pair.operator \
    JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace \
    JOIN pg_catalog.pg_attribute child ON child.attrelid = c.conrelid AND child.attnum = pair.child \
    JOIN pg_catalog.pg_attribute parent ON parent.attrelid = c.confrelid AND parent.attnum = pair.parent \
    WHERE c.contype = 'f' AND c.conparentid = 0 AND c.convalidated \
    GROUP BY c.oid, c.conrelid, c.confrelid, c.conname ORDER BY 1";

/// B-trees that `bt_index_check` takes, when the extension is there: with the schema that it is in.
const TREES: &str = "SELECT i.indexrelid::pg_catalog.regclass::text, pg_catalog.format( \
        'SELECT %I.bt_index_check(%L::pg_catalog.regclass, true)', n.nspname, i.indexrelid::pg_catalog.regclass) \
    FROM pg_catalog.pg_extension e \
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
    CROSS JOIN pg_catalog.pg_index i \
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
    JOIN pg_catalog.pg_am a ON a.oid = c.relam \
    WHERE e.extname = 'amcheck' AND a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' \
      AND i.indisready AND i.indisvalid \
    ORDER BY 1";

/// Foreign keys.
pub(super) async fn orphans(client: &Client) -> Found {
    // So that names have their schemas, and nobody's operators come in between.
    let nowhere = client.batch_execute("SET search_path = ''").await;
    nowhere.map_err(|error| said(&error))?;
    let keys = client.query(KEYS, &[]).await.map_err(|error| said(&error))?;
    let mut bad = Vec::new();
    for key in &keys {
        let (name, query): (String, String) = (key.get(0), key.get(1));
        let row = client.query_one(query.as_str(), &[]).await;
        let count: i64 = row.map_err(|error| format!("{name}: {}", said(&error)))?.get(0);
        if count > 0 {
            bad.push(format!("{name}: {count} rows lead nowhere"));
        }
    }
    match (keys.len(), bad.as_slice()) {
        (0, _) => Ok(None),
        (all, []) => Ok(Some(format!("{all} keys, no orphans"))),
        _ => Err(bad.join("; ")),
    }
}

/// B-trees, each against its table.
pub(super) async fn trees(client: &Client) -> Found {
    let trees = client.query(TREES, &[]).await.map_err(|error| said(&error))?;
    for tree in &trees {
        let (name, query): (String, String) = (tree.get(0), tree.get(1));
        let checked = client.query(query.as_str(), &[]).await;
        checked.map_err(|error| format!("{name}: {}", said(&error)))?;
    }
    Ok(match trees.len() {
        0 => None,
        all => Some(format!("{all} checked")),
    })
}
