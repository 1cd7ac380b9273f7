//! Promotion after promotion under load: the agent follows by itself, every timeline is archived without a hole, also where two
//! servers went on from one fork, and each branch is restored as it was written.
//!
//! Twenty promotions lead past timeline 0xA, where hexadecimal and decimal part, to 0x15.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod promotions_writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use pg::timeline::{TimelineHistory, TimelineId};
use promotions_writer::{Mark, TABLE, Writer, rows, write_zombies};
use serde_json::Value;
use tests::cluster::lsn_text;
use tests::seawall::{flushed_lsn, json_array, json_lsn, json_str, json_u64};
use tests::wait::{DEADLINE, wait_for};
use tests::{Address, Child, Cluster, Scratch, Seawall, StopMode, case};

/// What an operator prepares on a standby that may take over.
const SLOTS: &str = "
    select pg_create_physical_replication_slot('seawall', true);
    select pg_create_physical_replication_slot('seawall_overlap', true);";

/// Rows before and after each mark: about half a segment of 1 MB.
const STRETCH: u64 = 60;

/// How a timeline comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promotion {
    /// The server itself, stopped and promoted.
    InPlace,
    /// A standby that has everything takes over from a server that was stopped.
    Switchover,
    /// A standby that was cut off takes over from a server that hangs. That one wakes up and goes on, with the agent.
    Zombie,
    /// As before, but the agent has left when the old server wakes up.
    Fenced,
}

struct Story {
    seawall: Seawall,
    address: Address,
    agent: Option<Child>,
    writer: Writer,
    primary: Cluster,
    timeline: u32,
    lineage: String,
    /// The last state of each branch that was left behind by a standby which had not got all of it.
    ends: BTreeMap<u32, BTreeSet<i64>>,
}

impl Story {
    async fn begin(scratch: &Scratch, major: u32, segment_mib: u32) -> Result<Self> {
        let primary = Cluster::builder(major)
            .segment_size_mib(segment_mib)
            .setting("autovacuum", "off")
            .setting("min_wal_size", "128MB")
            .setting("wal_keep_size", "64MB")
            .create(scratch, "n1")
            .await?;
        primary.exec(TABLE).await?;
        let address = Address::of(scratch, "address", &primary)?;
        let config = Seawall::local_config(scratch, &primary)?
            .set("cluster.main.postgres.host", address.host().display().to_string())?
            .set("cluster.main.postgres.port", i64::from(address.port()))?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        let lineage = seawall.lineages()?[0].clone();
        seawall.backup().await?;
        Ok(Self {
            writer: Writer::start(&address),
            seawall,
            address,
            agent: Some(agent),
            primary,
            timeline: 1,
            lineage,
            ends: BTreeMap::new(),
        })
    }

    /// Some rows, a look, some rows.
    async fn stretch(&self) -> Result<Mark> {
        self.writer.wait_for(STRETCH).await?;
        let mark = self.writer.mark(&self.primary).await?;
        ensure!(
            mark.timeline == self.timeline,
            "on {} and not on {}",
            mark.timeline,
            self.timeline
        );
        self.writer.wait_for(STRETCH).await?;
        Ok(mark)
    }

    async fn promote(&mut self, how: Promotion) -> Result<()> {
        match how {
            Promotion::InPlace => self.primary.switch_timeline().await?,
            Promotion::Switchover => self.switchover().await?,
            Promotion::Zombie | Promotion::Fenced => self.failover(how).await?,
        }
        self.timeline += 1;
        let flushed = flushed_lsn(&self.primary).await?;
        self.wait_archived_on(self.timeline, flushed).await
    }

    /// The repository has the timeline up to there. The agent's own word would not do: its LSN may be that of another branch.
    async fn wait_archived_on(&self, timeline: u32, lsn: u64) -> Result<()> {
        let what = format!("timeline {timeline} to be archived up to {}", lsn_text(lsn));
        wait_for(&what, DEADLINE, async || {
            let list = self.seawall.list().await.ok()?;
            let there =
                |window: &Value| window["timeline"] == timeline && json_lsn(window, "to_lsn").is_ok_and(|to| to >= lsn);
            json_array(&list, "windows").ok()?.iter().any(there).then_some(())
        })
        .await
    }

    async fn standby(&self) -> Result<Cluster> {
        let standby = self.primary.standby(&format!("n{}", self.timeline + 1)).await?;
        standby.exec(SLOTS).await?;
        standby.wait_replayed(flushed_lsn(&self.primary).await?).await?;
        Ok(standby)
    }

    async fn switchover(&mut self) -> Result<()> {
        let standby = self.standby().await?;
        self.writer
            .held(async {
                // A clean stop waits until standbys and agent have everything.
                self.primary.stop(StopMode::Fast).await?;
                standby.promote().await?;
                self.address.move_to(&standby)?;
                self.writer.moved();
                Ok(())
            })
            .await?;
        self.primary = standby;
        self.writer.mark(&self.primary).await?;
        Ok(())
    }

    async fn failover(&mut self, how: Promotion) -> Result<()> {
        let standby = self.standby().await?;
        standby.exec("alter system set primary_conninfo = ''").await?;
        standby.reload().await?;
        wait_for("the standby to be cut off", DEADLINE, async || {
            let receivers = standby
                .query_one("select count(*) from pg_stat_wal_receiver")
                .await
                .ok()?;
            (receivers == "0").then_some(())
        })
        .await?;
        // These are on the old timeline alone, and archived there behind the fork.
        self.writer.wait_for(STRETCH).await?;
        let old = &self.primary;
        let hang = async |_: &Mark| {
            self.wait_archived_on(self.timeline, flushed_lsn(old).await?).await?;
            old.freeze()?;
            standby.promote().await?;
            self.address.move_to(&standby)?;
            self.writer.moved();
            Ok(())
        };
        let mut end = self.writer.mark_and(old, hang).await?;
        if how == Promotion::Fenced {
            self.agent.take().context("no agent")?.kill9()?;
            self.agent = Some(self.seawall.run().await?);
        }
        // Both write at the same time.
        old.thaw()?;
        self.writer.mark_after_loss(&standby).await?;
        self.writer.wait_for(STRETCH).await?;
        if how == Promotion::Zombie {
            write_zombies(old, 100).await?;
            self.wait_archived_on(self.timeline, flushed_lsn(old).await?).await?;
            end.rows = rows(&old.connect().await?).await?;
            old.kill9()?;
        } else {
            let flushed = flushed_lsn(&standby).await?;
            self.wait_archived_on(self.timeline + 1, flushed).await?;
            let before = self.seawall.wal_of(&self.lineage)?;
            write_zombies(old, 100).await?;
            old.stop(StopMode::Fast).await?;
            let after = self.seawall.wal_of(&self.lineage)?;
            let of_old = format!("/{:08X}/", self.timeline);
            ensure!(
                !after.difference(&before).any(|name| name.contains(&of_old)),
                "{after:?}"
            );
        }
        self.ends.insert(self.timeline, end.rows);
        self.primary = standby;
        Ok(())
    }

    /// Every timeline is there, up to where the next one begins, with its history, in one lineage, without a hole.
    async fn is_complete(&self) -> Result<()> {
        let list = self.seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        assert_eq!(self.seawall.lineages()?, [self.lineage.as_str()]);
        let mut ends = BTreeMap::new();
        for window in json_array(&list, "windows")? {
            ends.insert(json_u64(window, "timeline")?, json_lsn(window, "to_lsn")?);
        }
        let timelines: Vec<u64> = ends.keys().copied().collect();
        assert_eq!(timelines, (1..=u64::from(self.timeline)).collect::<Vec<_>>(), "{list}");

        let name = format!("{:08X}.history", self.timeline);
        let history = fs::read(self.primary.data_directory().join("pg_wal").join(name))?;
        let history = TimelineHistory::parse(TimelineId::new(self.timeline).unwrap(), &history)?;
        assert_eq!(history.entries.len(), timelines.len() - 1);
        for entry in &history.entries {
            let end = ends[&u64::from(entry.timeline.as_u32())];
            assert!(
                end >= entry.switch_point.as_u64(),
                "timeline {}: {list}",
                entry.timeline
            );
        }
        let wal = self.seawall.wal_of(&self.lineage)?;
        for timeline in 2..=self.timeline {
            let history = format!("wal/{}/{timeline:08X}/history.", self.lineage);
            assert_eq!(
                wal.iter().filter(|name| name.starts_with(&history)).count(),
                1,
                "{history}"
            );
        }
        Ok(())
    }

    async fn restored(&self, name: &str, target: &[&str], expected: &BTreeSet<i64>) -> Result<()> {
        let run = async {
            let restored = self.seawall.restore_to(name, target).await?;
            let found = rows(&restored.connect().await?).await?;
            let missing: Vec<_> = expected.difference(&found).collect();
            let strange: Vec<_> = found.difference(expected).collect();
            ensure!(
                missing.is_empty() && strange.is_empty(),
                "missing {missing:?}, not to be there {strange:?}"
            );
            anyhow::Ok(())
        };
        run.await.with_context(|| format!("{name}: {target:?}"))
    }

    /// The branch that ends behind a fork, with all that its server wrote.
    async fn left_branches_are_whole(&self) -> Result<()> {
        for (timeline, rows) in &self.ends {
            let timeline = timeline.to_string();
            let target = ["--target", "latest", "--target-timeline", timeline.as_str()];
            self.restored(&format!("left-{timeline}"), &target, rows).await?;
        }
        Ok(())
    }

    /// Ends the load and the agent, which has archived all; returns the last state.
    async fn end(&mut self) -> Result<BTreeSet<i64>> {
        self.writer.stop().await?;
        let last = self.writer.mark(&self.primary).await?;
        let flushed = flushed_lsn(&self.primary).await?;
        self.wait_archived_on(self.timeline, flushed).await?;
        self.is_complete().await?;
        let agent = self.agent.take().context("no agent")?;
        agent.assert_no_unexpected_warnings(&EXPECTED_WARNINGS)?;
        agent.stop(DEADLINE).await?;
        self.primary.kill9()?;
        Ok(last.rows)
    }
}

const EXPECTED_WARNINGS: [&str; 2] = ["reconnecting", "not streaming; trying again"];

#[test]
fn twenty_promotions_are_followed_and_every_branch_is_restored() {
    case("promotions", async |scratch| {
        let mut story = Story::begin(&scratch, 15, 1).await?;
        let list = story.seawall.list().await?;
        let first = json_str(&list["backups"][0], "backup")?.to_owned();
        let mut marks = BTreeMap::new();
        for timeline in 1..=20 {
            marks.insert(timeline, story.stretch().await?);
            let how = match timeline {
                4 => Promotion::Switchover,
                7 => Promotion::Zombie,
                16 => Promotion::Fenced,
                _ => Promotion::InPlace,
            };
            story.promote(how).await?;
            // Nine switches lie between the first backup and the second.
            if timeline == 10 || timeline == 17 {
                story.seawall.backup().await?;
            }
        }
        assert_eq!(story.stretch().await?.timeline, 0x15);
        let last = Box::pin(story.end()).await?;

        for (timeline, by) in [
            (1, "lsn"),
            (2, "time"),
            (8, "lsn"),
            (9, "time"),
            (0xA, "lsn"),
            (0xB, "time"),
        ] {
            let mark = &marks[&timeline];
            let (option, point) = match by {
                "lsn" => ("--target-lsn", lsn_text(mark.lsn)),
                _ => ("--target-time", mark.time.clone()),
            };
            // Every other one on its own timeline, the rest on the way to the newest.
            let number = timeline.to_string();
            let mut target = vec![option, point.as_str()];
            if timeline % 2 == 0 {
                target.extend(["--target-timeline", number.as_str()]);
            }
            story.restored(&format!("t{timeline}"), &target, &mark.rows).await?;
        }
        story.left_branches_are_whole().await?;
        let across = ["--target", "latest", "--backup", first.as_str()];
        story.restored("across", &across, &last).await?;
        story.restored("latest", &["--target", "latest"], &last).await
    });
}

/// The same with larger segments, where several forks lie in one.
async fn three_promotions(scratch: &Scratch, major: u32, segment_mib: u32) -> Result<()> {
    let mut story = Story::begin(scratch, major, segment_mib).await?;
    let mut marks = Vec::new();
    for how in [Promotion::InPlace, Promotion::Zombie, Promotion::InPlace] {
        marks.push(story.stretch().await?);
        story.promote(how).await?;
    }
    story.stretch().await?;
    let last = Box::pin(story.end()).await?;
    let point = lsn_text(marks[0].lsn);
    story.restored("t1", &["--target-lsn", &point], &marks[0].rows).await?;
    let time = marks[2].time.as_str();
    story.restored("t3", &["--target-time", time], &marks[2].rows).await?;
    story.left_branches_are_whole().await?;
    story.restored("latest", &["--target", "latest"], &last).await
}

#[test]
fn promotions_within_one_segment_of_16_megabytes_are_told_apart() {
    case("promotions_16_mb", async |scratch| {
        three_promotions(&scratch, 17, 16).await
    });
}

#[test]
fn promotions_within_one_segment_of_64_megabytes_are_told_apart() {
    case("promotions_64_mb", async |scratch| {
        three_promotions(&scratch, 18, 64).await
    });
}

/// While nobody archives, the server is promoted twice, with segments of WAL on each timeline.
async fn away(scratch: &Scratch, settled: bool) -> Result<()> {
    let mut story = Story::begin(scratch, 15, 1).await?;
    story.stretch().await?;
    let agent = story.agent.take().context("no agent")?;
    let (writer, primary) = (&story.writer, &story.primary);
    if settled {
        // A clean stop waits until the agent has all of the timeline, its end included.
        let turn = async {
            primary.stop(StopMode::Fast).await?;
            agent.stop(DEADLINE).await?;
            primary.start_promoted().await
        };
        writer.held(turn).await?;
    } else {
        agent.kill9()?;
        writer.wait_for(STRETCH).await?;
        primary.switch_timeline().await?;
    }
    story.timeline = 2;
    let second = story.stretch().await?;
    emit(&story.primary).await?;
    story.primary.switch_timeline().await?;
    story.timeline = 3;
    emit(&story.primary).await?;
    story.stretch().await?;
    story.agent = Some(story.seawall.run().await?);
    let last = Box::pin(story.end()).await?;
    let point = lsn_text(second.lsn);
    let target = ["--target-lsn", point.as_str(), "--target-timeline", "2"];
    story.restored("t2", &target, &second.rows).await?;
    story.restored("latest", &["--target", "latest"], &last).await
}

async fn emit(cluster: &Cluster) -> Result<()> {
    let sql = "select pg_logical_emit_message(false, 'seawall-test', repeat('x', 3000000))";
    cluster.exec(sql).await
}

#[test]
fn timelines_that_began_while_a_killed_agent_was_away_are_archived_too() {
    case("promotions_killed", async |scratch| away(&scratch, false).await);
}

#[test]
fn timelines_that_began_while_a_settled_agent_was_away_are_archived_too() {
    case("promotions_settled", async |scratch| away(&scratch, true).await);
}
