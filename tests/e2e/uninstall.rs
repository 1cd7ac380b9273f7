//! The end: slots are dropped when nobody uses them, and only when they are meant to be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use tests::seawall::{json_array, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Seawall, case};

const REFUSED: i32 = 3;

#[test]
fn slots_are_dropped_at_the_end_and_not_while_the_agent_uses_them() {
    case("uninstall", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let slots = "select count(*) from pg_replication_slots";
        let used = seawall.agent.run(&["drop-slots", "--yes"]).await?;
        used.assert_code(REFUSED)?;
        assert!(used.stderr.contains("somebody streams from slot") && used.stderr.contains("Stop the agent first"));
        agent.stop(DEADLINE).await?;

        let shown = seawall.agent.run_ok(&["drop-slots"]).await?;
        assert!(shown.stdout.contains("would be dropped") && shown.stdout.contains("Nothing was changed"));
        assert_eq!(cluster.query_one(slots).await?, "2");

        let dropped = seawall.agent.run_ok(&["drop-slots", "--yes", "--json"]).await?.json()?;
        let dropped = json_array(&dropped, "slots")?;
        assert_eq!(dropped.len(), 2);
        assert!(dropped.iter().all(|slot| slot["dropped"] == true));
        assert_eq!(json_str(&dropped[0], "slot")?, "seawall");
        assert_eq!(cluster.query_one(slots).await?, "0");
        let again = seawall.agent.run_ok(&["drop-slots"]).await?;
        assert!(again.stdout.contains("No slot of this cluster is left"));
        Ok(())
    });
}
