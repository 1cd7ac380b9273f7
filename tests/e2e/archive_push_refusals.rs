//! What `wal-agent archive-push` takes once, takes again without writing, and refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use tests::seawall::json_array;
use tests::wait::{DEADLINE, wait_for};
use tests::{Cluster, Scratch, Seawall, StopMode, case, user};

const FAILED: i32 = 1;
const REFUSED: i32 = 3;
const DAMAGED: i32 = 4;
const KILLED: i32 = 137;

/// A cluster whose files are pushed by hand.
async fn by_hand(scratch: &Scratch, major: u32, segment_mib: u32) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(segment_mib)
        .setting("wal_keep_size", "512MB")
        .archiving()
        .create(scratch, "main")
        .await?;
    let seawall = Seawall::configure(Seawall::local_config(scratch, &cluster)?)?;
    seawall.init_without_slots().await?;
    cluster.exec("create table t (branch text, i int)").await?;
    Ok((cluster, seawall))
}

/// Fills a segment and ends it; its name.
async fn segment(cluster: &Cluster, branch: &str, rows: u32) -> Result<String> {
    let sql = format!("insert into t select '{branch}', generate_series(1, {rows})");
    cluster.exec(&sql).await?;
    let end = cluster.switch_wal().await?;
    cluster.segment_before(end).await
}

/// The objects of a segment, in the order of WAL.
fn objects_of(seawall: &Seawall, segment: &str) -> Result<Vec<String>> {
    let mut names = seawall.objects(&["wal"])?;
    names.retain(|name| name.contains(segment));
    Ok(names)
}

/// Pushes everything that waits.
async fn push_all(seawall: &Seawall, cluster: &Cluster) -> Result<()> {
    for name in cluster.unpushed()? {
        seawall.push(cluster, &name).await?.assert_code(0)?;
    }
    Ok(())
}

/// A changed copy of a segment, alone in a directory.
fn changed(scratch: &Scratch, cluster: &Cluster, name: &str, change: impl Fn(&mut Vec<u8>)) -> Result<PathBuf> {
    let mut bytes = fs::read(cluster.data_directory().join("pg_wal").join(name))?;
    change(&mut bytes);
    scratch.write(format!("changed/{name}"), bytes)
}

#[test]
fn a_file_is_taken_once_and_its_second_push_writes_nothing() {
    case("push_twice", async |scratch| {
        let (cluster, seawall) = by_hand(&scratch, 15, 1).await?;
        let name = segment(&cluster, "a", 2_000).await?;
        assert!(cluster.unpushed()?.contains(&name));
        push_all(&seawall, &cluster).await?;
        let kinds = ["wal", "tail", "leases", "lineages"];
        let written = seawall.objects(&kinds)?;
        assert_eq!(objects_of(&seawall, &name)?.len(), 1);
        for name in cluster.unpushed()? {
            seawall.push(&cluster, &name).await?.assert_code(0)?;
        }
        assert_eq!(seawall.objects(&kinds)?, written);

        // A backup history file is nothing to keep; a stranger's file is no WAL; a missing one is an error.
        let backup = format!("pg_wal/{name}.00000028.backup");
        fs::write(cluster.data_directory().join(&backup), "START WAL LOCATION")?;
        seawall
            .push_file(&cluster.data_directory().join(&backup))
            .await?
            .assert_code(0)?;
        let stranger = scratch.write("changed/notes.txt", "no WAL")?;
        seawall
            .push_file(&stranger)
            .await?
            .assert_refused(REFUSED, &["not the name"])?;
        let missing = seawall.push(&cluster, "0000000100000000000000FF").await?;
        missing.assert_refused(FAILED, &["cannot read"])?;
        assert_eq!(seawall.objects(&kinds)?, written);
        Ok(())
    });
}

#[test]
fn a_push_that_is_killed_between_two_objects_is_finished_by_the_next() {
    case("push_killed", async |scratch| {
        let (cluster, seawall) = by_hand(&scratch, 17, 64).await?;
        let name = segment(&cluster, "a", 400_000).await?;
        let mut killed = seawall.clone();
        killed.agent = killed.agent.env("SEAWALL_CRASH_AT", "after-put:2");
        killed.push(&cluster, &name).await?.assert_code(KILLED)?;
        // In order, so that what is there is contiguous.
        let first = objects_of(&seawall, &name)?;
        assert_eq!(first.len(), 2, "{first:?}");
        seawall.push(&cluster, &name).await?.assert_code(0)?;
        let all = objects_of(&seawall, &name)?;
        assert_eq!(all.len(), 4, "64 MB are four ranges: {all:?}");
        assert_eq!(all[..2], first);
        seawall.push(&cluster, &name).await?.assert_code(0)?;
        assert_eq!(objects_of(&seawall, &name)?, all);
        Ok(())
    });
}

#[test]
fn a_damaged_cut_or_foreign_file_is_refused_and_nothing_of_it_is_stored() {
    case("push_damaged", async |scratch| {
        let (cluster, seawall) = by_hand(&scratch, 15, 1).await?;
        let name = segment(&cluster, "a", 2_000).await?;
        let flipped = changed(&scratch, &cluster, &name, |bytes| bytes[60_000] ^= 0x10)?;
        seawall
            .push_file(&flipped)
            .await?
            .assert_refused(REFUSED, &["not whole"])?;
        let cut = changed(&scratch, &cluster, &name, |bytes| bytes.truncate(900_000))?;
        seawall
            .push_file(&cut)
            .await?
            .assert_refused(REFUSED, &["900000 bytes"])?;
        // As a crash of the disk leaves it: the right length, zeros at the end.
        let zeroed = changed(&scratch, &cluster, &name, |bytes| bytes[90_000..].fill(0))?;
        seawall
            .push_file(&zeroed)
            .await?
            .assert_refused(REFUSED, &["not whole"])?;
        // Whole, but another segment's.
        let renamed = cluster.data_directory().join("pg_wal").join(&name);
        let other = scratch.write("changed/0000000100000000000000AA", fs::read(renamed)?)?;
        seawall
            .push_file(&other)
            .await?
            .assert_refused(REFUSED, &["does not begin"])?;

        let stranger = Cluster::builder(15)
            .segment_size_mib(1)
            .archiving()
            .create(&scratch, "stranger")
            .await?;
        let end = stranger.switch_wal().await?;
        let foreign = stranger.segment_before(end).await?;
        let refused = seawall.push(&stranger, &foreign).await?;
        refused.assert_refused(REFUSED, &["another cluster", "system identifier"])?;
        assert_eq!(seawall.objects(&["wal", "tail"])?, [""; 0]);

        // What is whole is still taken, and damage behind what is archived already is damage all the same.
        push_all(&seawall, &cluster).await?;
        let written = seawall.objects(&["wal", "tail"])?;
        let flipped = changed(&scratch, &cluster, &name, |bytes| bytes[60_000] ^= 0x10)?;
        seawall
            .push_file(&flipped)
            .await?
            .assert_refused(REFUSED, &["not whole"])?;
        assert_eq!(seawall.objects(&["wal", "tail"])?, written);
        Ok(())
    });
}

#[test]
fn a_byte_of_a_record_that_crosses_the_boundary_is_checked_with_the_segment_before() {
    case("push_crossing", async |scratch| {
        let (cluster, seawall) = by_hand(&scratch, 15, 1).await?;
        // Many segments without a switch in between: records cross their boundaries.
        let last = segment(&cluster, "a", 60_000).await?;
        let names = cluster.unpushed()?;
        let continues = |name: &str| -> Result<bool> {
            let bytes = fs::read(cluster.data_directory().join("pg_wal").join(name))?;
            Ok(bytes[2] & 1 == 1)
        };
        let crossing = names
            .iter()
            .skip(1)
            .find(|name| **name < last && continues(name).unwrap())
            .unwrap();
        let at = names.iter().position(|name| name == crossing).unwrap();
        // The rest of the record begins right behind the long page header.
        let flipped = changed(&scratch, &cluster, crossing, |bytes| bytes[40] ^= 1)?;
        fs::copy(
            cluster.data_directory().join("pg_wal").join(&names[at - 1]),
            scratch.join("changed").join(&names[at - 1]),
        )?;
        user::give(&scratch.join("changed").join(&names[at - 1]))?;
        seawall
            .push_file(&flipped)
            .await?
            .assert_refused(REFUSED, &["checksum"])?;
        assert_eq!(seawall.objects(&["wal", "tail"])?, [""; 0]);
        push_all(&seawall, &cluster).await
    });
}

#[test]
fn a_valid_segment_of_another_history_is_never_spliced_in() {
    case("push_diverged", async |scratch| {
        let (cluster, seawall) = by_hand(&scratch, 15, 1).await?;
        segment(&cluster, "common", 2_000).await?;
        push_all(&seawall, &cluster).await?;
        cluster.stop(StopMode::Fast).await?;
        let copy = scratch.dir("two")?.join("data");
        let mut command = user::command("cp");
        command.arg("-a").arg(cluster.data_directory()).arg(&copy);
        user::run(command, DEADLINE).await?;
        let other = Cluster::adopt(&scratch, "two", &copy)?;
        cluster.start().await?;
        other.start().await?;

        let ours = segment(&cluster, "ours", 3_000).await?;
        push_all(&seawall, &cluster).await?;
        let written = seawall.objects(&["wal", "tail"])?;
        segment(&other, "theirs", 60_000).await?;
        let theirs: Vec<String> = other.unpushed()?.into_iter().filter(|name| *name >= ours).collect();
        // The same name with other bytes, each of them valid.
        let refused = seawall.push(&other, &theirs[0]).await?;
        refused.assert_refused(DAMAGED, &["other content", &ours])?;
        // And the segments behind ours: their first record does not follow our last one.
        let next = theirs
            .iter()
            .find(|name| !written.iter().any(|object| object.contains(*name)));
        let refused = seawall.push(&other, next.unwrap()).await?;
        refused.assert_refused(REFUSED, &["history is not the archived one"])?;
        assert_eq!(seawall.objects(&["wal", "tail"])?, written);
        // Ours goes on.
        segment(&cluster, "ours", 10).await?;
        push_all(&seawall, &cluster).await?;
        assert!(seawall.objects(&["wal"])?.len() > written.len());
        Ok(())
    });
}

#[test]
fn a_backup_is_refused_when_another_server_archived_its_last_segment() {
    case("push_split", async |scratch| {
        let (cluster, seawall) = by_hand(&scratch, 15, 1).await?;
        segment(&cluster, "common", 2_000).await?;
        push_all(&seawall, &cluster).await?;
        // An archiver that neither fails nor gets anything done, for as long as its data directory is there.
        let idle = "while test -e PG_VERSION; do sleep 1; done; false # archive-push %p";
        cluster.append_setting("archive_command", idle)?;
        cluster.stop(StopMode::Fast).await?;
        let copy = scratch.dir("two")?.join("data");
        let mut command = user::command("cp");
        command.arg("-a").arg(cluster.data_directory()).arg(&copy);
        user::run(command, DEADLINE).await?;
        let other = Cluster::adopt(&scratch, "two", &copy)?;
        cluster.start().await?;
        other.start().await?;
        let waiting = other.unpushed()?;
        for name in &waiting {
            seawall.push(&other, name).await?.assert_code(0)?;
        }

        // A backup ends a segment when it begins and one when it ends. Then the other server's segments of those names are archived, and all
        // WAL of the backup seems to be there.
        let (backup, pushed) = tokio::join!(seawall.agent.run(&["backup"]), async {
            let ended = wait_for("the backup to end", DEADLINE, async || {
                let unpushed = cluster.unpushed().ok()?;
                let has_ended = unpushed.iter().any(|name| name.ends_with(".backup"));
                let new = unpushed
                    .into_iter()
                    .filter(|name| !waiting.contains(name) && name.len() == 24);
                has_ended.then(|| new.collect::<Vec<_>>())
            });
            for name in ended.await? {
                assert_eq!(segment(&other, "theirs", 10).await?, name);
                seawall.push(&other, &name).await?.assert_code(0)?;
            }
            anyhow::Ok(())
        });
        pushed?;
        backup?.assert_refused(DAMAGED, &["not this server's", "other content"])?;
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "backups")?.len(), 0, "{list}");
        Ok(())
    });
}
