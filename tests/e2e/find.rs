//! What happened to a table is found in archived WAL, with the transaction that the server knows it by, and the restore that is named
//! leads to just before it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::{parse_lsn, query_one};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, case};
use tokio_postgres::Client;

const REFUSED: i32 = 3;
const USAGE: i32 = 2;

const TABLES: &str = r#"
    create table orders (id int primary key, v text);
    insert into orders select i, repeat('x', 50) from generate_series(1, 1000) i;
    create table log (t text);
    insert into log select 'line ' || i from generate_series(1, 300) i;
    create schema sales;
    create table sales.items (id int);
    insert into sales.items select generate_series(1, 70);
    create table prepared (id int);
    insert into prepared select generate_series(1, 7);
    create table "Kept Back" (id int);
    insert into "Kept Back" select generate_series(1, 20);
    create table bare (id int);
    insert into bare select generate_series(1, 9);
"#;

/// What the server said about a transaction: its id, and where WAL was before and behind its commit.
struct Told {
    xid: String,
    before: u64,
    behind: u64,
}

/// What must be found.
struct Expected {
    event: &'static str,
    table: &'static str,
    rows: Option<u64>,
    told: Told,
    /// What a restore to just before it must answer.
    look: (&'static str, &'static str),
}

async fn insert_lsn(client: &Client) -> Result<u64> {
    parse_lsn(&query_one(client, "select pg_current_wal_insert_lsn()").await?)
}

async fn transaction(client: &Client, sql: &str) -> Result<Told> {
    client
        .batch_execute(&format!("begin; {sql}"))
        .await
        .with_context(|| sql.to_owned())?;
    let xid = query_one(client, "select pg_current_xact_id()::text").await?;
    let before = insert_lsn(client).await?;
    client.batch_execute("commit").await?;
    let behind = insert_lsn(client).await?;
    Ok(Told { xid, before, behind })
}

/// Statements that cannot be in a transaction; the server does not tell its id.
async fn alone(client: &Client, sql: &str) -> Result<Told> {
    let before = insert_lsn(client).await?;
    client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
    let behind = insert_lsn(client).await?;
    Ok(Told {
        xid: String::new(),
        before,
        behind,
    })
}

async fn accidents(cluster: &Cluster) -> Result<Vec<Expected>> {
    let client = cluster.connect_to("shop").await?;
    let mut expected = Vec::new();
    let mut expect = |event, table, rows, told, look| {
        expected.push(Expected {
            event,
            table,
            rows,
            told,
            look,
        });
    };
    let orders = "select count(*) from orders";
    let told = transaction(&client, "delete from orders where id <= 100").await?;
    expect("delete", "public.orders", Some(100), told, (orders, "1000"));
    let some = "savepoint a; delete from orders where id <= 110; rollback to a; \
                savepoint b; delete from orders where id between 200 and 204; release b";
    let told = transaction(&client, some).await?;
    expect("delete", "public.orders", Some(5), told, (orders, "900"));
    client.batch_execute("begin; drop table orders; rollback").await?;
    client
        .batch_execute("begin; truncate orders; delete from log; rollback")
        .await?;
    let told = transaction(&client, "truncate log; insert into log values ('new')").await?;
    expect(
        "truncate",
        "public.log",
        None,
        told,
        ("select count(*) from log", "300"),
    );
    client
        .batch_execute("create table later (id int); insert into later values (1), (2)")
        .await?;
    let told = alone(&client, "vacuum full orders").await?;
    expect("rewrite", "public.orders", None, told, (orders, "895"));
    let told = transaction(&client, "alter table bare alter id type bigint").await?;
    expect("rewrite", "public.bare", None, told, ("select count(*) from bare", "9"));

    client.batch_execute("checkpoint").await?;
    let told = transaction(&client, "savepoint s; drop table orders; release s").await?;
    expect("drop", "public.orders", None, told, (orders, "895"));
    client
        .batch_execute("create table orders (id int); insert into orders values (1), (2), (3)")
        .await?;
    let told = transaction(&client, "drop table later").await?;
    expect("drop", "public.later", None, told, ("select count(*) from later", "2"));
    let told = transaction(&client, "alter table sales.items rename to things").await?;
    expect(
        "rename",
        "sales.items",
        None,
        told,
        ("select count(*) from sales.items", "70"),
    );
    client.batch_execute("checkpoint").await?;
    let told = transaction(&client, "drop schema sales cascade").await?;
    expect(
        "drop",
        "sales.things",
        None,
        told,
        ("select count(*) from sales.things", "70"),
    );

    let mut prepared = transaction(&client, "select 1").await?;
    client.batch_execute("begin; drop table prepared").await?;
    prepared.xid = query_one(&client, "select pg_current_xact_id()::text").await?;
    client.batch_execute("prepare transaction 'p'").await?;
    client.batch_execute("delete from orders where id = 1").await?;
    prepared.before = insert_lsn(&client).await?;
    client.batch_execute("commit prepared 'p'").await?;
    prepared.behind = insert_lsn(&client).await?;
    expect(
        "drop",
        "public.prepared",
        None,
        prepared,
        ("select count(*) from pg_prepared_xacts", "1"),
    );

    // The catalogs themselves get new files.
    client.batch_execute("vacuum full pg_class").await?;
    client.batch_execute("vacuum full pg_namespace").await?;
    let told = transaction(&client, "create schema more; alter table orders set schema more").await?;
    expect("rename", "public.orders", None, told, (orders, "2"));
    let told = transaction(&client, "drop table more.orders").await?;
    expect(
        "drop",
        "more.orders",
        None,
        told,
        ("select count(*) from more.orders", "2"),
    );
    drop(client);
    let client = cluster.connect().await?;
    let told = alone(&client, "drop database shop").await?;
    expect(
        "drop",
        "public.\"Kept Back\"",
        None,
        told,
        ("select count(*) from \"Kept Back\"", "20"),
    );
    Ok(expected)
}

async fn find(seawall: &Seawall, args: &[&str]) -> Result<Value> {
    let args = [&["find", "--json", "--database", "shop"], args].concat();
    let found = seawall.restore.run_ok(&args).await?.json()?;
    let warnings = found["warnings"].as_array().map(Vec::len);
    ensure!(warnings == Some(0), "{found}");
    Ok(found)
}

/// A number here, text there.
fn is_xid(found: &Value, told: &str) -> bool {
    found.as_u64().map(|xid| xid.to_string()).as_deref() == Some(told)
}

fn is_it(event: &Value, expected: &Expected) -> Result<bool> {
    let lsn = parse_lsn(event["commit_lsn"].as_str().unwrap_or_default())?;
    let told = &expected.told;
    Ok(event["event"] == expected.event
        && event["table"] == expected.table
        && event["rows"].as_u64() == expected.rows
        && (told.xid.is_empty() || is_xid(&event["xid"], &told.xid))
        && (told.before..told.behind).contains(&lsn))
}

/// Every expected event is there, in order, and no other; `restores` says which of them are tried.
async fn compare(seawall: &Seawall, expected: &[Expected], restores: bool) -> Result<()> {
    let all = ["drop", "truncate", "rewrite", "rename", "delete"].map(|event| ["--event", event]);
    let names = [
        "orders",
        "log",
        "later",
        "sales.items",
        "prepared",
        "\"Kept Back\"",
        "bare",
    ];
    let mut left: Vec<&Expected> = expected.iter().collect();
    for name in names {
        let args = [&["--table", name][..], &all.concat()].concat();
        let found = find(seawall, &args).await?;
        for event in found["events"].as_array().unwrap() {
            // What was deleted from the new table "orders" before it was dropped; what went with the database beside the one table.
            let is_beside = event["note"] == "with its database" && !name.starts_with('"');
            if event["rows"] == 1 || is_beside {
                continue;
            }
            let mut matching = Vec::new();
            for (at, one) in left.iter().enumerate() {
                if is_it(event, one)? {
                    matching.push(at);
                }
            }
            let at = matching
                .first()
                .with_context(|| format!("not expected: {event} in {found}"))?;
            let one = left.remove(*at);
            let restore = event["restore"]
                .as_array()
                .with_context(|| format!("no way back: {event}"))?;
            let options: Vec<&str> = restore.iter().filter_map(Value::as_str).collect();
            ensure!(options[0] == "--target-lsn" && options[2] == "--exclusive", "{event}");
            if restores {
                try_restore(seawall, &options, one)
                    .await
                    .with_context(|| event.to_string())?;
            }
        }
    }
    let left: Vec<String> = left.iter().map(|one| format!("{} {}", one.event, one.table)).collect();
    ensure!(left.is_empty(), "not found: {left:?}");
    Ok(())
}

async fn try_restore(seawall: &Seawall, options: &[&str], expected: &Expected) -> Result<()> {
    let restored = seawall.restore_to("back", options).await?;
    let client = restored.connect_to("shop").await?;
    let (sql, answer) = expected.look;
    let found = query_one(&client, sql).await?;
    ensure!(found == answer, "{sql}: {found} instead of {answer}");
    drop(client);
    restored.kill9()?;
    restored.destroy_data_directory()
}

async fn what_happened(scratch: &Scratch, major: u32, compression: &str, restores: bool) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("wal_compression", compression)
        .setting("max_prepared_transactions", "5")
        .setting("autovacuum", "off")
        .create(scratch, "main")
        .await?;
    cluster.exec("create database shop").await?;
    cluster.connect_to("shop").await?.batch_execute(TABLES).await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    let expected = accidents(&cluster).await?;
    cluster.exec("create table last as select 1 as i").await?;
    seawall.wait_archived(&cluster).await?;
    compare(&seawall, &expected, restores).await?;

    // Without a table: all drops that are anybody's business, or all commits.
    let found = find(&seawall, &[]).await?;
    let dropped: Vec<&str> = found["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["table"].as_str())
        .collect();
    let tables = [
        "public.orders",
        "public.later",
        "sales.things",
        "public.prepared",
        "more.orders",
    ];
    assert_eq!(dropped, tables);
    let commits = find(&seawall, &["--event", "commit"]).await?;
    let commits = commits["events"].as_array().unwrap();
    for told in expected.iter().map(|one| &one.told).filter(|told| !told.xid.is_empty()) {
        let of = commits
            .iter()
            .filter(|commit| is_xid(&commit["xid"], &told.xid))
            .count();
        assert_eq!(of, 1, "transaction {}", told.xid);
    }
    refusals(&seawall).await?;
    agent.stop(DEADLINE).await
}

async fn refusals(seawall: &Seawall) -> Result<()> {
    for (args, code, words) in [
        (
            &["--table", "public.order"][..],
            REFUSED,
            &["public.order", "Similar names: public.orders"][..],
        ),
        (
            &["--table", "log", "--event", "delete"],
            REFUSED,
            &["no delete of log was found between", "--from"],
        ),
        (
            &["--table", "log", "--to", "2001-01-01 00:00:00Z"],
            REFUSED,
            &["was found between"],
        ),
        (&["--event", "delete"], USAGE, &["--table"]),
        (&["--from", "2026-01-01 00:00:00"], USAGE, &["--from", "offset"]),
        (&["--table", "a.b.c"], USAGE, &["a.b.c"]),
    ] {
        let output = seawall
            .restore
            .run(&[&["find", "--database", "shop"], args].concat())
            .await?;
        output.assert_refused(code, words)?;
    }
    let output = seawall
        .restore
        .run(&["find", "--database", "shpo", "--table", "orders"])
        .await?;
    output.assert_refused(REFUSED, &["shpo", "Known databases: postgres, shop"])
}

macro_rules! on_each {
    ($($name:ident $major:literal $compression:literal $restores:literal)*) => {$(
        #[test]
        fn $name() {
            case(stringify!($name), async |scratch| {
                Box::pin(what_happened(&scratch, $major, $compression, $restores)).await
            });
        }
    )*};
}

on_each! {
    postgres_13_tells_what_happened_in_compressed_wal 13 "on" true
    postgres_14_tells_what_happened 14 "off" false
    postgres_15_tells_what_happened 15 "off" true
    postgres_15_tells_what_happened_in_lz4 15 "lz4" false
    postgres_16_tells_what_happened 16 "off" false
    postgres_17_tells_what_happened_in_pglz 17 "pglz" false
    postgres_18_tells_what_happened_in_zstd 18 "zstd" true
}

/// A database in a tablespace, and then in another; tables that change while a backup is taken; two backups to begin with.
async fn moving(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .tablespace("fast")
        .tablespace("slow")
        .create(scratch, "main")
        .await?;
    cluster.exec("create database shop tablespace fast").await?;
    cluster.connect_to("shop").await?.batch_execute(TABLES).await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    let client = cluster.connect_to("shop").await?;
    let deleted = transaction(&client, "delete from log").await?;
    drop(client);
    cluster.exec("alter database shop set tablespace slow").await?;
    let client = cluster.connect_to("shop").await?;
    let again = transaction(&client, "insert into log values (1); delete from log").await?;
    let (backup, during) = tokio::join!(seawall.backup(), transaction(&client, "drop table log"));
    backup?;
    let gone = during?;
    let now = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'";
    let time = query_one(&client, now).await?;
    let late = transaction(&client, "drop table orders").await?;
    seawall.wait_archived(&cluster).await?;
    let found = find(&seawall, &["--table", "public.log"]).await?;
    let events = found["events"].as_array().unwrap();
    let xids: Vec<String> = events.iter().map(|event| event["xid"].to_string()).collect();
    assert_eq!(xids, [deleted.xid, again.xid, gone.xid], "{found}");
    // From the second backup on.
    let found = find(&seawall, &["--table", "orders", "--from", &time]).await?;
    let events = found["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{found}");
    assert_eq!(events[0]["xid"].to_string(), late.xid);
    let searched = found["searched"].as_array().unwrap();
    assert_eq!(searched.len(), 1);
    let list = seawall.list().await?;
    ensure!(
        list.to_string().contains(searched[0]["backup"].as_str().unwrap()),
        "{list}"
    );
    let text = seawall
        .restore
        .run_ok(&["find", "--database", "shop", "--table", "orders"])
        .await?;
    ensure!(
        text.stdout.contains("--exclusive") && text.stdout.contains("searched"),
        "{}",
        text.stdout
    );
    agent.stop(DEADLINE).await
}

#[test]
fn postgres_15_tells_it_of_a_database_that_moves_and_from_either_backup() {
    case("find_moving_15", async |scratch| Box::pin(moving(&scratch, 15)).await);
}
