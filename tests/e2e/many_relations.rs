//! A backup takes no more memory for many files than for few. `SEAWALL_RELATIONS` is their number; `make relations` makes 300,000.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::case::case_for;
use tests::seawall::json_u64;
use tests::wait::{DEADLINE, wait_for};
use tests::{Cluster, Seawall};

/// Time for making them and for two backups.
const LIMIT: Duration = Duration::from_secs(3000);
/// What a backup may take at any size, with the limits as they are by default.
const MEMORY_MAX_KIB: u64 = 128 << 10;
/// A table with a key and a column that may be long: table, index, and both again for the long values.
const FILES_OF_A_TABLE: u32 = 4;

fn relations() -> u32 {
    let set = std::env::var("SEAWALL_RELATIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(4000)
}

/// Takes a backup; gives what it printed and the most memory that it had.
async fn measured(seawall: &Seawall) -> Result<(Value, u64)> {
    let mut backup = seawall.agent.start(&["backup", "--json"])?;
    let mut most = 0;
    let code = wait_for("the backup", LIMIT, async || {
        // The peak never sinks, so the last look before the end is it.
        most = backup.peak_memory_kib().unwrap_or(most);
        backup.ended()
    })
    .await?;
    let log = backup.log();
    assert!(code.success(), "{code}: {log}");
    let printed = serde_json::Deserializer::from_str(&log).into_iter().next();
    Ok((printed.context("no report")??, most))
}

#[test]
fn memory_does_not_grow_with_the_number_of_relations() {
    case_for("many_relations", LIMIT, async |scratch| {
        let cluster = Cluster::builder(15)
            .setting("autovacuum", "off")
            .setting("max_locks_per_transaction", "2000")
            .setting("max_wal_size", "4GB")
            .create(&scratch, "main")
            .await?;
        let tables = relations() / FILES_OF_A_TABLE;
        for first in (0..tables).step_by(500) {
            let last = (first + 500).min(tables) - 1;
            let sql = format!(
                "do $$ begin for i in {first}..{last} loop \
                 execute format('create table r%s (i int primary key, t text)', i); end loop; end $$"
            );
            cluster.exec(&sql).await?;
        }
        cluster.exec("checkpoint").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let (full, of_full) = measured(&seawall).await?;
        cluster.exec("insert into r0 values (1, 'x')").await?;
        let (increment, of_increment) = measured(&seawall).await?;
        println!(
            "{} files: {} MiB for a full backup in {} ms, {} MiB for an increment in {} ms",
            json_u64(&full, "files")?,
            of_full >> 10,
            json_u64(&full, "elapsed_ms")?,
            of_increment >> 10,
            json_u64(&increment, "elapsed_ms")?
        );
        assert!(
            json_u64(&full, "files")? > u64::from(tables * FILES_OF_A_TABLE),
            "{full}"
        );
        assert!(json_u64(&increment, "new_pages")? < 1000, "{increment}");
        assert!(of_full > 0 && of_full <= MEMORY_MAX_KIB, "{of_full} KiB");
        assert!(of_increment > 0 && of_increment <= MEMORY_MAX_KIB, "{of_increment} KiB");
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await
    });
}
