//! Sixty cycles of the kill loop: agent, server and both, at any moment and at every crash point, and a host that is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use store::crash::CrashPoint;
use tests::kill_loop::plan::{Mode, Reach, reach};
use tests::kill_loop::recorder::{Recorder, TABLE};
use tests::kill_loop::{Options, run};
use tests::seed::seed;
use tests::wait::DEADLINE;
use tests::{Cluster, case, wait_until};

const CYCLES: u64 = 60;

#[test]
fn sixty_kills_lose_no_acknowledged_commit_and_leave_no_other_byte() {
    case("kill_loop", async |_scratch| {
        let options = Options {
            cycles: CYCLES,
            seed: seed(),
            major: 15,
            summary: None,
            fresh: false,
        };
        let summary = run(&options).await?;
        let json = summary.json();
        for key in [
            "lost",
            "lost_too_old",
            "divergent_bytes",
            "confirmed_ahead_bytes",
            "commits_with_warning",
        ] {
            assert_eq!(json[key], 0, "{json:#}");
        }
        assert_eq!(json["cycles"], CYCLES);
        assert_eq!(json["host_losses"], 1);
        // At 20 and 40, of the lost host, at the end.
        assert_eq!(json["restores"], 4, "{json:#}");
        assert!(summary.number("acknowledged_synchronous") > 300, "{json:#}");
        assert!(summary.number("compared_bytes") > 10 << 20, "{json:#}");
        for point in CrashPoint::ALL
            .into_iter()
            .filter(|point| reach(*point) != Reach::Never)
        {
            assert!(
                json["hits"][point.name()].as_u64() >= Some(1),
                "{} was not hit: {json:#}",
                point.name()
            );
        }
        Ok(())
    });
}

#[test]
fn a_commit_whose_wait_for_the_archive_was_cancelled_does_not_count_as_acknowledged() {
    case("kill_loop_warned", async |scratch| {
        let cluster = Cluster::builder(15)
            .setting("synchronous_standby_names", "nobody")
            .setting("synchronous_commit", "local")
            .create(&scratch, "main")
            .await?;
        cluster.exec(TABLE).await?;
        let mut recorder = Recorder::start(&cluster, 1);
        recorder.wait_for_commit().await?;
        recorder.set_mode(Mode::Synchronous);
        let cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
        wait_until("cancelled waits", DEADLINE, async || {
            cluster.exec(cancel).await.unwrap();
            recorder.warned() >= 20
        })
        .await?;
        let commits = recorder.commits();
        let synchronous = commits.iter().filter(|commit| commit.mode == Mode::Synchronous);
        assert_eq!(synchronous.filter(|commit| commit.acknowledged_at.is_some()).count(), 0);
        assert_eq!(recorder.acknowledged().synchronous, 0);
        recorder.set_mode(Mode::Asynchronous);
        // A commit that was on its way to the wait may come to it only now.
        let cancelling = wait_until("the recorder to stop", DEADLINE, async || {
            cluster.exec(cancel).await.unwrap();
            false
        });
        tokio::select! {
            stopped = recorder.stop() => stopped,
            gave_up = cancelling => gave_up,
        }
    });
}
