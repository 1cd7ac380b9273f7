//! The cluster, Redis and a directory, back at one point by one command: no row without what it speaks of, nothing that came after.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tests::case::case;
use tests::redis::{Redis, place_dump};
use tests::seawall::{json_array, json_str};
use tests::shop::{Orders, Shop, look};
use tests::{Cluster, Seawall};

const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 6;

#[test]
fn a_group_comes_back_to_one_point() {
    case("group", async |scratch| {
        let shop = Arc::new(Shop::open(&scratch).await?);
        let seawall = Seawall::configure(shop.config(&scratch)?)?;
        seawall.init().await?;
        let _agent = seawall.run().await?;
        seawall.backup().await?;

        // Orders come in all the time.
        let (is_open, newest) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicI64::new(0)));
        let writer = {
            let (shop, is_open, newest) = (Arc::clone(&shop), Arc::clone(&is_open), Arc::clone(&newest));
            tokio::spawn(async move {
                let (client, mut keys) = (shop.cluster.connect().await?, shop.redis.client()?);
                for number in 1.. {
                    if !is_open.load(Ordering::Relaxed) {
                        break;
                    }
                    shop.order(&client, &mut keys, number).await?;
                    newest.store(number, Ordering::SeqCst);
                }
                anyhow::Ok(())
            })
        };
        while newest.load(Ordering::SeqCst) < 50 {
            tokio::task::yield_now().await;
        }
        let before = newest.load(Ordering::SeqCst);
        let first = seawall
            .agent
            .run_ok(&["backup", "--group", "shop", "--json"])
            .await?
            .json()?;
        let after = newest.load(Ordering::SeqCst) + 1;
        let second = seawall.agent.run_ok(&["backup", "--group", "shop"]).await?;
        assert!(
            second.stdout.contains("skew") && second.stdout.contains("cache"),
            "{}",
            second.stdout
        );
        is_open.store(false, Ordering::Relaxed);
        writer.await??;
        for backup in json_array(&first, "backups")? {
            let skew = backup["skew_s"].as_f64().unwrap();
            // Redis says whole seconds.
            assert!((-1.0..60.0).contains(&skew), "{backup}");
        }

        // Nobody has WAL, keys and files that fit together by hand.
        shop.cluster.exec("drop table orders").await?;
        shop.redis.client()?.ask("FLUSHALL")?;
        for receipt in fs::read_dir(&shop.receipts)? {
            fs::remove_file(receipt?.path())?;
        }
        let listed = seawall
            .restore
            .run_ok(&["group", "shop", "--list", "--json"])
            .await?
            .json()?;
        assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
        let point = json_str(&first["point"], "id")?;
        assert_eq!(listed[0]["point"], point);

        // First it says what it would do, and touches nothing.
        let to = scratch.dir("back")?.join("here");
        let to_text = to.display().to_string();
        let arguments = ["group", "shop", "--to", &to_text, "--point", point];
        let dry = seawall
            .restore
            .run_ok(&[&arguments[..], &["--dry-run"]].concat())
            .await?;
        assert!(dry.stdout.contains("skew") && !to.exists(), "{}", dry.stdout);

        let place = Cluster::place(&scratch, "restored")?;
        let (port, sockets) = (place.port.to_string(), place.sockets.display().to_string());
        let start = [
            "--start",
            "--prove",
            "--port",
            &port,
            "--socket-dir",
            &sockets,
            "--json",
        ];
        let report = seawall
            .restore
            .run_ok(&[&arguments[..], &start].concat())
            .await?
            .json()?;
        // So that it ends with the test.
        let _restored = Cluster::adopt(&scratch, "restored", &to.join("main"))?;
        for component in json_array(&report, "components")? {
            assert_eq!(component["differs"], serde_json::json!([]), "{component}");
        }
        for member in json_array(&report, "reached")? {
            assert!((-60.0..60.0).contains(&member["skew_s"].as_f64().unwrap()), "{member}");
        }
        place_dump(&scratch, "redis-back", &to.join("cache/dump.rdb"))?;
        let redis = Redis::start(&scratch, "redis-back", "").await?;
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&place.sockets)
            .port(place.port)
            .user("postgres")
            .dbname("postgres");
        let client = tests::cluster::connect(&config).await?;
        let receipts = to.join("receipts").join(shop.receipts.strip_prefix("/").unwrap());
        let orders = look(&client, &mut redis.client()?, &receipts).await?;
        let Orders {
            rows,
            without_receipt,
            without_key,
        } = &orders;
        assert!(without_receipt.is_empty() && without_key.is_empty(), "{orders:?}");
        assert!((1..=before).all(|number| rows.contains(&number)), "{before} {rows:?}");
        assert!(rows.iter().all(|number| *number <= after), "{after} {rows:?}");

        // Again: what is there is not written over.
        let again = seawall.restore.run(&arguments).await?;
        again.assert_refused(REFUSED, &["is running in"])?;
        fs::create_dir(to.join("mine"))?;
        let beside = seawall.restore.run(&arguments).await?;
        beside.assert_refused(REFUSED, &["\"mine\", which is none of ours"])?;
        Ok(())
    });
}

#[test]
fn a_point_is_whole_or_no_point() {
    case("group_in_part", async |scratch| {
        let shop = Shop::open(&scratch).await?;
        let seawall = Seawall::configure(shop.config(&scratch)?)?;
        seawall.init().await?;
        let _agent = seawall.run().await?;
        seawall.backup().await?;
        let (client, mut keys) = (shop.cluster.connect().await?, shop.redis.client()?);
        shop.order(&client, &mut keys, 1).await?;
        seawall.agent.run_ok(&["backup", "--group", "shop"]).await?;
        let Shop {
            redis,
            cluster: _cluster,
            ..
        } = shop;
        drop(redis);
        let failed = seawall.agent.run(&["backup", "--group", "shop"]).await?;
        failed.assert_refused(UNREACHABLE, &["component \"cache\" was not captured", "not whole"])?;

        let listed = seawall
            .restore
            .run_ok(&["group", "shop", "--list", "--json"])
            .await?
            .json()?;
        assert_eq!(listed[0]["missing"], serde_json::json!([]));
        assert_eq!(listed[1]["missing"], serde_json::json!(["cache"]));
        let to = scratch.join("back").display().to_string();
        let half = json_str(&listed[1], "point")?;
        let refused = seawall
            .restore
            .run(&["group", "shop", "--to", &to, "--point", half])
            .await?;
        refused.assert_refused(REFUSED, &["no backup of cache"])?;
        // Without a choice it is the newest that is whole.
        let planned = seawall
            .restore
            .run_ok(&["group", "shop", "--to", &to, "--dry-run"])
            .await?;
        assert!(
            planned.stdout.contains(json_str(&listed[0], "point")?),
            "{}",
            planned.stdout
        );

        let none = seawall.agent.run(&["backup", "--group", "other"]).await?;
        none.assert_refused(USAGE, &["group \"other\" is not in the configuration", "shop"])?;
        let none = seawall.restore.run(&["group", "other", "--to", &to]).await?;
        none.assert_refused(REFUSED, &["no point of group \"other\"", "shop"])?;
        Ok(())
    });
}

#[test]
fn a_restore_that_was_cut_short_is_gone_on_with() {
    case("group_cut_short", async |scratch| {
        let shop = Shop::open(&scratch).await?;
        let seawall = Seawall::configure(shop.config(&scratch)?)?;
        seawall.init().await?;
        let _agent = seawall.run().await?;
        seawall.backup().await?;
        let (client, mut keys) = (shop.cluster.connect().await?, shop.redis.client()?);
        shop.order(&client, &mut keys, 1).await?;
        seawall.agent.run_ok(&["backup", "--group", "shop"]).await?;
        shop.order(&client, &mut keys, 2).await?;
        seawall.agent.run_ok(&["backup", "--group", "shop"]).await?;
        let listed = seawall.restore.run_ok(&["group", "shop", "--list", "--json"]).await?;
        let points = listed.json()?;
        let (first, second) = (json_str(&points[0], "point")?, json_str(&points[1], "point")?);

        // One member is whole, and something is in the way of the next.
        let to = scratch.dir("back")?.join("here");
        fs::create_dir_all(to.join("receipts/mine"))?;
        tests::user::give(&to)?;
        tests::user::give(&to.join("receipts"))?;
        let to_text = to.display().to_string();
        let restore = ["group", "shop", "--to", &to_text, "--json", "--point", second];
        let cut = seawall.restore.run(&restore).await?;
        cut.assert_refused(REFUSED, &["not empty"])?;
        assert!(to.join("cache/dump.rdb").exists() && !to.join("main/global/pg_control").exists());
        fs::remove_dir_all(to.join("receipts"))?;
        let other = ["group", "shop", "--to", &to_text, "--point", first];
        let other = seawall.restore.run(&other).await?;
        other.assert_refused(REFUSED, &["was not finished", second])?;

        let report = seawall.restore.run_ok(&restore).await?.json()?;
        let components = json_array(&report, "components")?;
        assert_eq!(
            (
                &components[0]["component"],
                &components[0]["was_whole"],
                &components[1]["was_whole"]
            ),
            (&"cache".into(), &true.into(), &false.into()),
            "{report}"
        );
        for component in components {
            assert_eq!(component["differs"], serde_json::json!([]), "{component}");
        }
        assert!(to.join("main/global/pg_control").exists() && !to.join(".seawall-group").exists());
        let receipts = to.join("receipts").join(shop.receipts.strip_prefix("/")?);
        assert_eq!(fs::read_dir(receipts)?.count(), 2);
        Ok(())
    });
}
