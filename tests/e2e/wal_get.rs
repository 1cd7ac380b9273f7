//! PostgreSQL never promotes early, whatever happens to `wal-get`.
//!
//! A server that is told "there is no more WAL" while there is some promotes without an error and has
//! lost data. So each fault is tried twice: with the recovery target that a restore always sets, and
//! with an open end, where the exit code of `wal-get` alone decides.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod wal_get_stage;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use tests::scratch::write_private;
use tests::seed::Rng;
use tests::wait::within;
use tests::{Scratch, Weed, case};
use wal_get_stage::{Fault, Stage, change_byte, replace_file};

#[test]
fn postgres_15_never_promotes_early_when_the_repository_fails() {
    case("wal_get_repository_15", async |scratch| {
        let stage = Stage::local(&scratch, 15).await?;
        stage.answers_when_all_is_well().await?;
        Box::pin(repository_faults(&stage)).await
    });
}

#[test]
fn postgres_17_never_promotes_early_when_the_repository_fails() {
    case("wal_get_repository_17", async |scratch| {
        let stage = Stage::local(&scratch, 17).await?;
        stage.answers_when_all_is_well().await?;
        Box::pin(repository_faults(&stage)).await
    });
}

#[test]
fn postgres_15_never_promotes_early_when_the_tool_fails() {
    case("wal_get_tool_15", async |scratch| {
        let stage = Stage::local(&scratch, 15).await?;
        Box::pin(tool_faults(&stage)).await
    });
}

#[test]
fn postgres_17_never_promotes_early_when_the_tool_fails() {
    case("wal_get_tool_17", async |scratch| {
        let stage = Stage::local(&scratch, 17).await?;
        Box::pin(tool_faults(&stage)).await
    });
}

#[test]
fn postgres_13_never_promotes_early_whatever_fails() {
    case("wal_get_13", async |scratch| Box::pin(all_faults(&scratch, 13)).await);
}

#[test]
fn postgres_14_never_promotes_early_whatever_fails() {
    case("wal_get_14", async |scratch| Box::pin(all_faults(&scratch, 14)).await);
}

#[test]
fn postgres_16_never_promotes_early_whatever_fails() {
    case("wal_get_16", async |scratch| Box::pin(all_faults(&scratch, 16)).await);
}

#[test]
fn postgres_18_never_promotes_early_whatever_fails() {
    case("wal_get_18", async |scratch| Box::pin(all_faults(&scratch, 18)).await);
}

/// The same faults, one after the other on the same two directories.
async fn all_faults(scratch: &Scratch, major: u32) -> Result<()> {
    let stage = Stage::shared(scratch, major).await?;
    stage.answers_when_all_is_well().await?;
    repository_faults(&stage).await?;
    tool_faults(&stage).await?;
    stage.end().await
}

/// Store down, access refused, object missing, truncated, flipped.
async fn repository_faults(stage: &Stage) -> Result<()> {
    let scratch = stage.scratch();
    let repository = stage.seawall.repository();
    let away = scratch.join("away");
    stage
        .survives(
            "store down",
            &Fault::new(
                || Ok(fs::rename(&repository, &away)?),
                || Ok(fs::rename(&away, &repository)?),
            ),
        )
        .await?;
    stage
        .survives(
            "access refused",
            &Fault::new(
                || Ok(fs::set_permissions(&repository, fs::Permissions::from_mode(0o000))?),
                || Ok(fs::set_permissions(&repository, fs::Permissions::from_mode(0o700))?),
            ),
        )
        .await?;

    let object = stage.victim()?;
    let whole = fs::read(&object)?;
    let repair = || replace_file(&object, &whole);
    stage
        .survives("object missing", &Fault::new(|| Ok(fs::remove_file(&object)?), repair))
        .await?;
    let half = &whole[..whole.len() / 2];
    stage
        .survives("object truncated", &Fault::new(|| replace_file(&object, half), repair))
        .await?;
    stage
        .survives("object empty", &Fault::new(|| replace_file(&object, b""), repair))
        .await?;
    // In the clear part, in the header, in the body.
    for at in [20, 130, whole.len() * 3 / 4] {
        let flipped = change_byte(&whole, at);
        let name = format!("byte {at} flipped");
        stage
            .survives(&name, &Fault::new(|| replace_file(&object, &flipped), repair))
            .await?;
    }
    Ok(())
}

/// Wrong key, configuration gone, killed half-way.
async fn tool_faults(stage: &Stage) -> Result<()> {
    let scratch = stage.scratch();
    let config = scratch.join("etc/seawall.toml");
    let good = fs::read(&config)?;
    stage
        .survives(
            "configuration gone",
            &Fault::new(|| Ok(fs::remove_file(&config)?), || replace_file(&config, &good)),
        )
        .await?;

    let wrong = stage
        .seawall
        .config
        .clone()
        .set("keys.restore_key", stage.foreign_key.clone())?;
    stage
        .survives(
            "wrong restore key",
            &Fault::new(
                || replace_file(&config, wrong.text().as_bytes()),
                || replace_file(&config, &good),
            ),
        )
        .await?;

    // As the kernel does it when memory is short.
    let wrapper = stage.wrapper()?;
    let fault = Fault::new(
        || write_private(&stage.killing(), b""),
        || Ok(fs::remove_file(stage.killing())?),
    );
    stage.survives_with("killed", &fault.indirect(), Some(&wrapper)).await
}

#[test]
fn postgres_15_never_promotes_early_when_the_bucket_fails() {
    case("wal_get_s3", async |scratch| {
        let mut weed = Weed::start(&scratch).await?;
        let stage = Stage::s3(&scratch, 15, &weed).await?;
        let secret = scratch.join("etc/s3-secret");
        let good = fs::read(&secret)?;
        stage
            .survives(
                "wrong secret",
                &Fault::new(
                    || replace_file(&secret, b"not-the-secret-key"),
                    || replace_file(&secret, &good),
                ),
            )
            .await?;
        weed.kill9()?;
        let waiting = stage.fail("bucket down", None, false).await?;
        weed.restart().await?;
        stage.recovers(waiting).await
    });
}

#[test]
fn half_a_file_is_never_left_behind() {
    case("wal_get_partial", async |scratch| {
        let stage = Stage::local(&scratch, 15).await?;
        let destination = scratch.dir("there")?.join("RECOVERYXLOG");
        let path = destination.display().to_string();
        let asked = scratch.join("asked/data").display().to_string();
        let mut rng = Rng::named("wal_get_partial");
        let (mut whole, mut killed) = (0, 0);
        for _ in 0..60 {
            let command = stage
                .seawall
                .restore
                .command(&["wal-get", &stage.segment, &path, "--pgdata", &asked]);
            let mut child = tokio::process::Command::from(command).spawn()?;
            // Killed at any moment of its life, unless it was quicker.
            let life = Duration::from_micros(rng.between(100, 60_000));
            if within("wal-get", life, child.wait()).await.is_err() {
                child.kill().await?;
                killed += 1;
            }
            if destination.exists() {
                assert_eq!(fs::metadata(&destination)?.len(), 1 << 20);
                fs::remove_file(&destination)?;
                whole += 1;
            }
        }
        println!("{killed} of 60 were killed, {whole} had delivered");
        assert!(killed > 0);
        stage.get(&stage.segment, 0).await
    });
}
