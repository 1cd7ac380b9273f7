//! A dropped table comes back into the running database, as it was a moment before, with everything that belongs to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use anyhow::{Result, ensure};
use tests::cluster::lsn_text;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, case};

const REFUSED: i32 = 3;
const USAGE: i32 = 2;

const TABLES: &str = r#"
    create schema shop;
    create table shop.customers (id int primary key, name text not null);
    create table shop."Orders" (
        id serial primary key,
        customer int not null references shop.customers,
        amount numeric check (amount > 0),
        placed timestamptz default now()
    );
    create index orders_by_time on shop."Orders" (placed desc);
    create table items (id int primary key, "order" int constraint "of an order" references shop."Orders");
    insert into shop.customers select i, 'customer ' || i from generate_series(1, 50) i;
    insert into shop."Orders" (customer, amount) select 1 + i % 50, i from generate_series(1, 1000) i;
    insert into items select i, i from generate_series(1, 500) i;
"#;

/// Everything of the table that can be looked at from outside.
const LOOK: &str = r#"
    select md5(string_agg(o::text, ',' order by id)) from shop."Orders" o
    union all select string_agg(indexdef, ';' order by indexdef) from pg_indexes where tablename = 'Orders'
    union all select string_agg(conrelid::regclass::text || conname || pg_get_constraintdef(oid), ';' order by conname, conrelid)
        from pg_constraint where confrelid = 'shop."Orders"'::regclass or conrelid = 'shop."Orders"'::regclass
"#;

/// WAL is up to so many values ahead of a sequence (`SEQ_LOG_VALS`, commands/sequence.c): a recovered one never gives a value twice.
const SEQUENCE_AHEAD: u64 = 32;

async fn last_id(cluster: &Cluster) -> Result<u64> {
    let text = cluster
        .query_one("select last_value::text from shop.\"Orders_id_seq\"")
        .await?;
    Ok(text.parse()?)
}

async fn look(cluster: &Cluster) -> Result<String> {
    cluster
        .query_one(&format!("select string_agg(t::text, '|') from ({LOOK}) t"))
        .await
}

async fn dropped_table(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .tablespace("fast")
        .create(scratch, "main")
        .await?;
    cluster.exec(TABLES).await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    cluster
        .exec("insert into shop.\"Orders\" (customer, amount) select 7, i from generate_series(1, 300) i")
        .await?;
    let (before, id) = (look(&cluster).await?, last_id(&cluster).await?);
    let lsn = lsn_text(cluster.current_lsn().await?);
    cluster.exec("drop table shop.\"Orders\" cascade").await?;
    cluster.exec("insert into shop.customers values (51, 'later')").await?;
    seawall.wait_archived(&cluster).await?;

    let place = scratch.join("t").display().to_string();
    let into = format!(
        "host={} port={} user=postgres dbname=postgres",
        cluster.socket_dir().display(),
        cluster.port()
    );
    let table = "shop.\"Orders\"";
    let mut args = vec![
        "table",
        "--target-lsn",
        &lsn,
        "--table",
        table,
        "--database",
        "postgres",
    ];
    args.extend(["--scratch", &place, "--into", &into]);
    seawall.restore.run_ok(&args).await?;
    assert_eq!(look(&cluster).await?, before);
    ensure!((id..=id + SEQUENCE_AHEAD).contains(&last_id(&cluster).await?));
    assert_eq!(
        cluster.query_one("select count(*) from shop.customers").await?,
        "51",
        "nothing else went back"
    );
    ensure!(!scratch.join("t").exists(), "the scratch directory is left");

    // It is there by now: all or nothing.
    let again = seawall.restore.run(&args).await?;
    again.assert_refused(again.code(), &["already exists", "rename"])?;
    ensure!(again.code() != 0);
    assert_eq!(look(&cluster).await?, before);
    ensure!(!scratch.join("t").exists(), "the scratch directory is left");

    // Rows that came since and lead nowhere do not keep the table away.
    cluster
        .exec("drop table shop.\"Orders\" cascade; insert into items values (7777, 7777)")
        .await?;
    let output = seawall.restore.run_ok(&args).await?;
    ensure!(output.stdout.contains("stays NOT VALID"), "{}", output.stdout);
    let valid = "select convalidated::text from pg_constraint where conname = 'of an order'";
    assert_eq!(cluster.query_one(valid).await?, "false");

    // The whole database, as a script.
    let script = scratch.dir("out")?.join("all.sql");
    tests::user::give(script.parent().unwrap())?;
    let file = script.display().to_string();
    let whole = [
        "table",
        "--target-lsn",
        &lsn,
        "--database",
        "postgres",
        "--scratch",
        &place,
        "--to-sql",
        &file,
    ];
    seawall.restore.run_ok(&whole).await?;
    let text = fs::read_to_string(&script)?;
    ensure!(text.contains("CREATE TABLE shop.customers") && text.contains("of an order"));
    ensure!(!text.contains("later"));
    let output = seawall.restore.run(&whole).await?;
    output.assert_refused(REFUSED, &["exists"])?;

    let nothing = scratch.join("out/nothing.sql").display().to_string();
    let missing = [
        "table",
        "--target-lsn",
        &lsn,
        "--table",
        "shop.nothing",
        "--database",
        "postgres",
    ];
    let missing = [&missing[..], &["--scratch", &place, "--to-sql", &nothing]].concat();
    let output = seawall.restore.run(&missing).await?;
    ensure!(
        output.code() != 0 && output.stderr.contains("no matching tables"),
        "{}",
        output.stderr
    );
    let secret = [
        "table",
        "--target-lsn",
        &lsn,
        "--database",
        "postgres",
        "--scratch",
        &place,
    ];
    let secret = [&secret[..], &["--into", "postgresql://u:secret@localhost/d"]].concat();
    let output = seawall.restore.run(&secret).await?;
    output.assert_refused(USAGE, &["PGPASSWORD"])?;
    ensure!(!output.stderr.contains("u:secret"), "{}", output.stderr);
    ensure!(!scratch.join("t").exists(), "the scratch directory is left");
    agent.stop(DEADLINE).await
}

#[test]
fn postgres_15_gets_a_dropped_table_back_with_keys_and_indexes() {
    case("table_restore_15", async |scratch| dropped_table(&scratch, 15).await);
}

#[test]
fn postgres_18_gets_a_dropped_table_back_with_keys_and_indexes() {
    case("table_restore_18", async |scratch| dropped_table(&scratch, 18).await);
}
