//! `wal-agent check` answers whether it really works now, and names what does not with what mends it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Result, ensure};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
};
use serde_json::Value;
use tests::case::case;
use tests::s3_client::client;
use tests::seawall::{BUCKET, json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Seawall, Weed};

/// Exit code: something must be mended.
const REFUSED: i32 = 3;

fn problems(check: &Value, severity: &str) -> Result<Vec<String>> {
    let findings = json_array(check, "findings")?.iter();
    let of = findings.filter(|finding| finding["severity"] == severity);
    of.map(|finding| {
        ensure!(!json_str(finding, "hint")?.is_empty(), "no hint: {finding}");
        Ok(format!(
            "{}: {}",
            json_str(finding, "area")?,
            json_str(finding, "problem")?
        ))
    })
    .collect()
}

#[test]
fn a_record_is_written_archived_and_read_back_and_what_is_missing_is_named() {
    case("check_local", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let check = seawall.agent.run_ok(&["check", "--json"]).await?.json()?;
        ensure!(problems(&check, "error")?.is_empty(), "{check}");
        json_u64(&check, "archived_ms")?;
        json_u64(&check, "read_back_ms")?;
        let areas: Vec<&str> = json_array(&check, "areas")?
            .iter()
            .map(|area| json_str(area, "area"))
            .collect::<Result<_>>()?;
        assert_eq!(areas, ["server", "keys", "repository", "clocks", "disks", "WAL"]);

        // A copy that is configured is missed; a key that is named may be on another machine.
        let config = seawall
            .config
            .clone()
            .set("keys.maintenance_key", "/does/not/exist.key")?
            .set(
                "copy.second.url",
                format!("file://{}", scratch.join("second").display()),
            )?;
        let lacking = Seawall::configure_as(config, "lacking")?;
        let checked = lacking.agent.run(&["check", "--json"]).await?;
        assert_eq!(checked.code(), 0, "{}", checked.stderr);
        let check = checked.json()?;
        let (notices, warnings) = (problems(&check, "notice")?, problems(&check, "warning")?);
        ensure!(
            notices.iter().any(|notice| notice.contains("/does/not/exist.key")),
            "{check}"
        );
        ensure!(warnings.iter().any(|warning| warning.contains("\"second\"")), "{check}");
        // It went on to the end all the same.
        json_u64(&check, "read_back_ms")?;
        agent.stop(DEADLINE).await
    });
}

#[test]
fn a_bucket_that_deletes_by_itself_and_a_key_that_may_delete_are_named() {
    case("check_bucket", async |scratch| {
        let server = Weed::start(&scratch).await?;
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        let seawall = Seawall::s3(&scratch, &cluster, &server).await?;
        let agent = seawall.run().await?;
        let check = seawall.agent.run_ok(&["check", "--json"]).await?.json()?;
        let warnings = problems(&check, "warning")?;
        ensure!(warnings.iter().any(|warning| warning.contains("may delete")), "{check}");

        let rule = LifecycleRule::builder()
            .id("tidy")
            .filter(LifecycleRuleFilter::builder().prefix("").build())
            .expiration(LifecycleExpiration::builder().days(30).build())
            .status(ExpirationStatus::Enabled)
            .build()?;
        let rules = BucketLifecycleConfiguration::builder().rules(rule).build()?;
        client(&server)
            .put_bucket_lifecycle_configuration()
            .bucket(BUCKET)
            .lifecycle_configuration(rules)
            .send()
            .await?;
        let checked = seawall.agent.run(&["check"]).await?;
        assert_eq!(checked.code(), REFUSED, "{}", checked.stdout);
        ensure!(
            checked.stdout.contains("a lifecycle rule of the bucket") && checked.stdout.contains("30 days"),
            "{}",
            checked.stdout
        );
        agent.stop(DEADLINE).await
    });
}
