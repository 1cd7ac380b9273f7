//! Object lock on a server that keeps it: what a backup needs cannot be deleted by anybody, also what it shares with older ones; `prune` leaves
//! it alone and says so; a bucket without it is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::Client;
use tests::case::case;
use tests::s3_client::client;
use tests::seawall::{json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, ConfigFile, Scratch, Seawall, Weed};

const DAY: Duration = Duration::from_secs(86_400);
const LOCKED: &str = "locked-bucket";
/// Exit code: the store cannot be used as it is.
const UNREACHABLE: i32 = 6;

async fn stage(scratch: &Scratch, server: &Weed) -> Result<(Cluster, ConfigFile)> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    cluster.exec("create table t (i bigint, filler text)").await?;
    let config = Seawall::s3_config(scratch, &cluster, server)
        .await?
        .set("cluster.main.retention.keep_last", 1)?
        .set("repository.s3.object_lock", "compliance")?
        .set("repository.s3.lock_for", "1d")?;
    Ok((cluster, config))
}

async fn more(cluster: &Cluster, seawall: &Seawall) -> Result<String> {
    let agent = seawall.run().await?;
    cluster
        .exec("insert into t select g, repeat(md5(g::text), 30) from generate_series(1, 1000) g")
        .await?;
    let backup = seawall.backup().await?;
    seawall.wait_archived(cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok(json_str(&backup, "backup")?.to_owned())
}

/// Until when each object is locked.
async fn locks(client: &Client) -> Result<BTreeMap<String, Option<SystemTime>>> {
    let mut out = BTreeMap::new();
    let listed = client.list_objects_v2().bucket(LOCKED).send().await?;
    ensure!(listed.is_truncated != Some(true), "more than a page");
    for key in listed.contents().iter().filter_map(|object| object.key()) {
        let head = client.head_object().bucket(LOCKED).key(key).send().await?;
        let until = head.object_lock_retain_until_date.map(SystemTime::try_from);
        out.insert(key.to_owned(), until.transpose()?);
    }
    Ok(out)
}

fn is_locked_for(until: Option<SystemTime>, at_least: Duration) -> bool {
    until >= Some(SystemTime::now() + at_least)
}

#[test]
fn what_a_backup_needs_is_locked_also_what_it_shares_with_older_ones() {
    case("object_lock", async |scratch| {
        let server = Weed::start(&scratch).await?;
        let admin = client(&server);
        let (cluster, config) = stage(&scratch, &server).await?;

        // A bucket without object lock cannot keep any.
        let refused = Seawall::configure_as(config.clone(), "plain")?;
        let refused = refused.agent.run(&["init", "--single-host"]).await?;
        refused.assert_refused(UNREACHABLE, &["lock"])?;

        let create = admin
            .create_bucket()
            .bucket(LOCKED)
            .object_lock_enabled_for_bucket(true);
        create.send().await?;
        let config = config.set("repository.url", format!("s3://{LOCKED}/e2e"))?;
        let seawall = Seawall::configure(config.clone())?;
        seawall.init().await?;
        let first = more(&cluster, &seawall).await?;
        let before = locks(&admin).await?;
        for (key, until) in before.iter().filter(|(key, _)| !key.contains("/probes/")) {
            let is_passing = ["/leases/", "/condemned/", "/pins/"]
                .iter()
                .any(|part| key.contains(part));
            ensure!(
                is_passing != is_locked_for(*until, DAY),
                "{key} is locked until {until:?}"
            );
        }

        // The owner of all keys cannot delete, neither the object nor its version.
        let pack = before.keys().find(|key| key.contains("/packs/")).context("no pack")?;
        let head = admin.head_object().bucket(LOCKED).key(pack).send().await?;
        let version = head.version_id.context("no version")?;
        let delete = admin.delete_object().bucket(LOCKED).key(pack).version_id(&version);
        ensure!(delete.send().await.is_err(), "a locked pack was deleted");

        // Longer from now on: what the next backup shares with the first is locked on.
        let config = config.set("repository.s3.lock_for", "10d")?;
        let longer = Seawall::configure_as(config, "longer")?;
        let second = more(&cluster, &longer).await?;
        let after = locks(&admin).await?;
        for key in before
            .keys()
            .filter(|key| key.contains("/packs/") || key.contains("/keys/"))
        {
            ensure!(
                is_locked_for(after[key], 10 * DAY),
                "{key} is locked until {:?}",
                after[key]
            );
        }

        // The first one goes by the rules, and may not.
        let pruned = longer.agent.run_ok(&["prune", "--json"]).await?.json()?;
        assert_eq!(
            (json_u64(&pruned, "retire")?, json_u64(&pruned, "locked")?),
            (1, 1),
            "{pruned}"
        );
        let list = longer.list().await?;
        let backups = json_array(&list, "backups")?
            .iter()
            .map(|backup| json_str(backup, "backup"));
        assert_eq!(backups.collect::<Result<Vec<_>>>()?, [first.as_str(), second.as_str()]);
        // And what prune wrote for its own purposes went: nothing in the bucket is only hidden.
        let versions = admin.list_object_versions().bucket(LOCKED).send().await?;
        assert_eq!(versions.delete_markers().len(), 0);
        longer.agent.run_ok(&["verify", "--all"]).await?;
        let restored = longer.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "2000");
        Ok(())
    });
}
