//! A thief has everything that is on the host: its files, its keys, and its rights on a server that enforces them (no delete, no overwrite). What
//! was stored before he can neither read, change nor delete; what he adds is noticed, or does not count once he is revoked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "red_team/attack.rs"]
mod attack;
#[path = "red_team/stage.rs"]
mod stage;

use anyhow::ensure;
use stage::Stage;
use tests::case::case;
use tests::seawall::{BUCKET, json_str, json_u64};

/// Exit codes: the repository is damaged; a key is missing or wrong.
const DAMAGED: i32 = 4;
const KEY: i32 = 5;

#[test]
fn a_thief_of_the_host_reads_changes_and_deletes_nothing_that_was_stored() {
    case("red_team", async |scratch| {
        let stage = Stage::new(&scratch).await?;
        // Everything of the daemon works with the host's rights and public parts.
        let first = stage.more().await?;
        let second = stage.more().await?;
        ensure!(second["parent"].is_string(), "{second}");
        stage.thief.agent.run_ok(&["list"]).await?;
        stage.thief.agent.run_ok(&["status"]).await?;

        let before = stage.bytes().await?;
        let requests = attack::on_objects(&stage, &before).await? + attack::on_the_bucket(&stage).await?;
        let openings = attack::on_contents(&stage).await?;
        println!("{requests} requests to change or delete were refused, {openings} objects could not be decrypted");
        ensure!(stage.bytes().await? == before, "an object is not what it was");
        let target = scratch.join("stolen/data").display().to_string();
        let latest = ["--target", "latest", "--pgdata", target.as_str()];
        ensure!(stage.thief.restore.run(&latest).await?.code() == KEY);

        // Garbage, some of it signed by the stolen key.
        let planted = attack::plant(&stage).await?;
        println!("{} objects were planted", planted.len());
        let verified = stage.owner.agent.run(&["verify", "--all", "--json"]).await?;
        verified.assert_code(DAMAGED)?;
        let told = |key: &&String| verified.stdout.contains(key.rsplit('/').next().unwrap());
        // A host may say that it has lost WAL: that is in the list of holes.
        let untold: Vec<_> = planted
            .iter()
            .filter(|key| !key.contains("/holes/") && !told(key))
            .collect();
        ensure!(untold.is_empty(), "{untold:?} in {}", verified.stdout);
        for (backup, rows) in [(&first, "100"), (&second, "200")] {
            let id = json_str(backup, "backup")?;
            ensure!(
                stage
                    .rows(&format!("of-{id}"), &["--backup", id, "--target", "immediate"])
                    .await?
                    == rows
            );
        }

        // The owner takes away what was named.
        for key in &planted {
            stage.admin.delete_object().bucket(BUCKET).key(key).send().await?;
        }
        // Found out: a new key for the host, the old one revoked. The next backup relies on nothing of before.
        let old = stage.signer().await?;
        stage.owner.agent.run_ok(&["key", "rotate", "host"]).await?;
        stage
            .owner
            .agent
            .run_ok(&["key", "revoke", &old, "--since", "now", "--yes"])
            .await?;
        let refused = stage.thief.agent.run(&["backup"]).await?;
        ensure!(refused.code() == KEY, "{}", refused.stderr);
        let again = stage.more().await?;
        ensure!(again["parent"].is_null(), "{again}");
        ensure!(json_u64(&again, "new_pages")? == json_u64(&again, "pages")?, "{again}");
        let id = json_str(&again, "backup")?;
        ensure!(stage.rows("again", &["--backup", id, "--target", "latest"]).await? == "300");
        let id = json_str(&first, "backup")?;
        ensure!(stage.rows("first", &["--backup", id, "--target", "immediate"]).await? == "100");
        Ok(())
    });
}
