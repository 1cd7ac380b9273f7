//! A backup after few changes stores few bytes, and is still a full one to restore.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use serde_json::Value;
use tests::seawall::{json_str, json_u64};
use tests::{Cluster, Seawall, case, pgbench};

const ROWS: u32 = 500_000;
const KINDS: [&str; 3] = ["packs", "index", "backups"];

/// One row on every fiftieth page, in place: the table has room on its pages, and no index has the
/// column. So a changed row is a changed page, and not three.
const CHANGE: &str = "
    update mix set amount = amount + 1 where ctid = any (array(
      select format('(%s,%s)', page, 1)::tid
      from generate_series(7, pg_relation_size('mix') / 8192 - 1, 50) page))";

#[test]
fn a_second_backup_after_one_percent_of_the_pages_stores_under_five_percent() {
    case("increment", async |scratch| {
        let cluster = Cluster::builder(15)
            .setting("autovacuum", "off")
            .setting("max_wal_size", "2GB")
            .setting("maintenance_work_mem", "256MB")
            .create(&scratch, "main")
            .await?;
        pgbench::create_mix_table(&cluster, ROWS).await?;
        let prepare = [
            "alter table mix set (fillfactor = 85)",
            "vacuum full mix",
            "vacuum (freeze)",
            "checkpoint",
        ];
        for statement in prepare {
            cluster.exec(statement).await?;
        }
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;

        let before = seawall.stored_bytes(&KINDS)?;
        let first = seawall.backup().await?;
        let between = seawall.stored_bytes(&KINDS)?;
        cluster.exec(CHANGE).await?;
        cluster.exec("checkpoint").await?;
        let digest = pgbench::mix_digest(&cluster).await?;
        let second = seawall.backup().await?;
        let after = seawall.stored_bytes(&KINDS)?;

        let share = changed_share(&second)?;
        let (full, increment) = (between - before, after - between);
        let stored = increment as f64 / full as f64;
        println!(
            "logical {} MB; first backup stored {full} bytes; {:.2} % of the pages changed; \
             second stored {increment} bytes: {:.2} % of the first",
            json_u64(&first, "logical_bytes")? / 1_000_000,
            share * 100.0,
            stored * 100.0
        );
        assert!(json_u64(&first, "logical_bytes")? > 280_000_000, "{first}");
        assert!((0.008..0.02).contains(&share), "{second}");
        assert!(stored < 0.05, "{first}\n{second}");
        assert_eq!(json_str(&second, "parent")?, json_str(&first, "backup")?);
        // What they say of themselves is what is on the disk.
        let said = json_u64(&second, "new_stored_bytes")?;
        assert!(said.abs_diff(increment) < 64 * 1024 + increment / 10, "{said}");

        // The table is as the second backup saw it, not as the first did.
        cluster.exec("drop table mix").await?;
        agent.kill9()?;
        cluster.kill9()?;
        let target = ["--target-lsn", json_str(&second, "end_lsn")?];
        let restored = seawall.restore_to("second", &target).await?;
        assert_eq!(pgbench::mix_digest(&restored).await?, digest);
        restored.amcheck().await
    });
}

fn changed_share(backup: &Value) -> Result<f64> {
    Ok(json_u64(backup, "new_pages")? as f64 / json_u64(backup, "pages")? as f64)
}
