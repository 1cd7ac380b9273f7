//! What `wal-restore` refuses before it writes a byte, and what it says then.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

use anyhow::Result;
use tests::cluster::lsn_text;
use tests::oracle::Options;
use tests::program::Output;
use tests::seawall::{json_array, json_lsn, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Oracle, Scratch, Seawall, case, tree};

const REFUSED: i32 = 3;
const DAMAGED: i32 = 4;

async fn with_backup(scratch: &Scratch) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("track_commit_timestamp", "on")
        .create(scratch, "main")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    Ok((cluster, seawall))
}

async fn refuse(seawall: &Seawall, scratch: &Scratch, target: &[&str]) -> Result<Output> {
    let data = scratch.join("refused").display().to_string();
    let mut args = target.to_vec();
    args.extend(["--pgdata", &data]);
    let output = seawall.restore.run(&args).await?;
    assert!(!scratch.join("refused/global/pg_control").exists());
    assert!(!scratch.join("refused").exists(), "something was written");
    Ok(output)
}

#[test]
fn a_target_that_cannot_be_reached_is_refused_with_the_nearest_that_can() {
    case("unreachable_target", async |scratch| {
        let (cluster, seawall) = with_backup(&scratch).await?;
        let agent = seawall.run().await?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(20).await?;
        let before = oracle.mark(None).await?;
        oracle.wait_for(20).await?;
        let backup = seawall.backup().await?;
        oracle.wait_for(20).await?;
        let inside = oracle.mark(None).await?;
        oracle.wait_for(20).await?;
        let history = oracle.stop().await?;
        let end = seawall.wait_archived(&cluster).await?;
        let window = seawall.list().await?;
        agent.stop(DEADLINE).await?;

        // Before the first backup: its end is the nearest point.
        let end_of_backup = json_str(&backup, "end_lsn")?;
        for target in [
            ["--target-time", before.time.as_str()],
            ["--target-lsn", &lsn_text(before.lsn)],
            ["--target-lsn", json_str(&backup, "start_lsn")?],
        ] {
            let output = refuse(&seawall, &scratch, &target).await?;
            output.assert_refused(REFUSED, &[end_of_backup])?;
        }
        // Past the archive: the last point that is there.
        let last = json_array(&window, "windows")?
            .iter()
            .map(|window| json_lsn(window, "to_lsn"))
            .collect::<Result<Vec<u64>>>()?;
        let last = last.into_iter().max().unwrap();
        assert!(last >= end);
        let far = lsn_text(end + (1 << 30));
        refuse(&seawall, &scratch, &["--target-lsn", &far])
            .await?
            .assert_refused(REFUSED, &["archived"])?;
        let tomorrow = ["--target-time", "2199-01-01 00:00:00+00"];
        refuse(&seawall, &scratch, &tomorrow)
            .await?
            .assert_refused(REFUSED, &["--or-latest"])?;
        // And nonsense is usage, not refusal.
        for target in [
            ["--target-time", "yesterday-ish"].as_slice(),
            &["--target-lsn", "not/anlsn"],
            &["--target", "someday"],
            &["--target", "latest", "--target-lsn", "0/1"],
        ] {
            refuse(&seawall, &scratch, target).await?.assert_code(2)?;
        }

        let mut late = tomorrow.to_vec();
        late.push("--or-latest");
        let restored = seawall.restore_to("latest", &late).await?;
        let client = restored.connect().await?;
        history.assert_exact(&client, &history.expected_now()).await?;
        let target = ["--target-time", inside.time.as_str()];
        let restored = seawall.restore_to("inside", &target).await?;
        let client = restored.connect().await?;
        history.assert_exact(&client, &inside.expected).await?;
        Ok(())
    });
}

#[test]
fn a_directory_with_something_in_it_is_left_as_it_is() {
    case("occupied", async |scratch| {
        let (cluster, seawall) = with_backup(&scratch).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        agent.stop(DEADLINE).await?;
        let latest = async |target: &Path| {
            let target = target.display().to_string();
            let args = ["--target", "latest", "--pgdata", &target];
            seawall.restore.run(&args).await
        };

        // A running server, first of all.
        let output = latest(cluster.data_directory()).await?;
        output.assert_refused(REFUSED, &["running"])?;
        assert!(cluster.is_running());
        cluster.exec("create table still_here (i int)").await?;
        // The same one, crashed: what it left is not thrown away either.
        cluster.kill9()?;
        latest(cluster.data_directory())
            .await?
            .assert_refused(REFUSED, &["empty"])?;
        cluster.start().await?;
        assert_eq!(cluster.query_one("select count(*) from still_here").await?, "0");

        let precious = scratch.write("precious/keep.me", "all there is")?;
        let output = latest(&scratch.join("precious")).await?;
        output.assert_refused(REFUSED, &["empty"])?;
        assert_eq!(fs::read_to_string(&precious)?, "all there is");
        assert_eq!(tree::files(&scratch.join("precious"))?.len(), 1);
        // A file where a directory should be.
        let output = latest(&precious).await?;
        assert_ne!(output.code(), 0);
        assert_eq!(fs::read_to_string(&precious)?, "all there is");

        // An empty directory that exists is fine, as mount points are.
        let ready = scratch.dir("ready/data")?;
        latest(&ready).await?.assert_code(0)?;
        let restored = Cluster::adopt(&scratch, "ready", &ready)?;
        restored.start().await?;
        assert!(restored.is_running());
        Ok(())
    });
}

#[test]
fn a_damaged_repository_gives_a_named_error_and_no_server_that_starts() {
    case("damaged", async |scratch| {
        let (cluster, seawall) = with_backup(&scratch).await?;
        let agent = seawall.run().await?;
        cluster
            .exec("create table t as select i, md5(i::text) from generate_series(1, 50000) i")
            .await?;
        seawall.backup().await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        let root = seawall.repository().join("clusters/main");

        for kind in ["packs", "backups"] {
            let mut files = tree::files(&root.join(kind))?;
            files.sort_by_key(|path| path.metadata().map_or(0, |meta| meta.len()));
            let victim = files.pop().unwrap();
            let whole = fs::read(&victim)?;
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 1;
            for (damage, content) in [
                ("missing", None),
                ("truncated", Some(&whole[..whole.len() * 2 / 3])),
                ("flipped", Some(flipped.as_slice())),
            ] {
                match content {
                    Some(content) => tests::scratch::write_private(&victim, content)?,
                    None => fs::remove_file(&victim)?,
                }
                let place = format!("{kind}-{damage}");
                let target = scratch.join(&place).display().to_string();
                let args = ["--target", "latest", "--pgdata", &target];
                let output = seawall.restore.run(&args).await?;
                // Without its manifest a backup does not exist, and there was only this one.
                let gone = (kind, damage) == ("backups", "missing");
                let code = if gone { REFUSED } else { DAMAGED };
                output
                    .assert_refused(code, &[])
                    .map_err(|error| error.context(place.clone()))?;
                assert!(!scratch.join(&place).join("global/pg_control").exists(), "{place}");
                tests::scratch::write_private(&victim, &whole)?;
            }
        }
        let restored = seawall.restore_to("whole", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "50000");
        Ok(())
    });
}
