//! The database works; what protects it does not.

use super::super::known::Known;
use super::super::page::{Course, Scenario, Step, code};
use super::write_down;
use crate::health::Kind;

pub fn wal_disk_full(known: &Known<'_>) -> Scenario {
    let retained = known.context.cluster.wal.retained;
    let drop = match retained.drop {
        Some(size) => {
            format!("At {size} (`wal.retained_drop`) the agent lets go of the slots by itself, as long as it lives.")
        }
        None => "`wal.retained_drop` is not set: the agent never lets go of the slots by itself.".to_owned(),
    };
    let steps = vec![
        Step::new("Who holds the WAL, and how long does the disk last?")
            .run(known.programs.agent("status"))
            .prints(format!(
                "What the server keeps for us, when the disk is full, what is wrong. Warnings begin at {}, pages at {}. {drop}",
                retained.warn, retained.page
            )),
        Step::new("Is the agent dead? As root:").run(format!("systemctl start {}", known.unit)),
        Step::new("Is the repository away? Scenario `repository-away`. It is the cause in most cases; once it is back the agent catches up, and the server frees the WAL with its next checkpoints."),
        Step::new("Is it another slot, or `archive_command`? The server knows:").run({
            let (host, port) = known.address();
            format!(
                "psql --host {} --port {} --dbname postgres --command 'SELECT slot_name, active, wal_status, restart_lsn FROM pg_replication_slots' --command 'SELECT * FROM pg_stat_archiver'",
                super::shell::quote(&host),
                super::shell::quote(&port)
            )
        })
        .prints("A slot of somebody else that nobody uses: `SELECT pg_drop_replication_slot('NAME')`."),
        Step::new("Make room on the disk: grow it, or move other files off it. Never remove a file in `pg_wal` by hand: the database is broken after that. Has the server stopped already? Make room, start it; the agent goes on where it was."),
    ];
    let last = Course::otherwise(
        "the last resort: the server must live, and WAL may be lost",
        vec![
            Step::new("Stop the agent, as root:").run(format!("systemctl stop {}", known.unit)),
            Step::new("See what would be dropped.").run(known.programs.agent("drop-slots")),
            Step::new("Let the server go. What was not archived is lost to restores: a hole.")
                .run(known.programs.agent("drop-slots --yes"))
                .prints("Names the slots. The server frees the WAL with its next checkpoint."),
            Step::new("When the disk has room and the repository answers, as root:")
                .run(format!("systemctl start {}", known.unit)),
            Step::new(
                "The agent makes the slots again, declares the hole, and takes a backup. See that it does; if not:",
            )
            .run(known.programs.agent("backup")),
        ],
    );
    Scenario {
        name: "wal-disk-full",
        title: "the disk of pg_wal fills up",
        alarms: &[
            Kind::WalRetained,
            Kind::WalRetainedMuch,
            Kind::WalDiskFilling,
            Kind::DiskHigh,
            Kind::DiskFull,
            Kind::IdleSlot,
        ],
        signs: "The server's log has `No space left on device`, and then `PANIC`.".into(),
        before: vec![
            "`pg_wal` has room for as long as an outage of the repository may last.".into(),
            "Decide now what comes first: the server (`wal.retained_drop`, `max_slot_wal_keep_size`) or every commit (neither).".into(),
        ],
        during: vec![Course::usual(steps), last],
        after: vec![
            format!("{}: is there a hole, and a backup behind it?", code(&known.programs.agent("list"))),
            format!("{}: no alarm is open.", code(&known.programs.agent("status"))),
            write_down(known),
        ],
        loss: "nothing, as long as the slots stay. With the last resort: restores to the time from the hole to the next backup.".into(),
        duration: "until there is room; the server is up as long as there is some.".into(),
    }
}

pub fn dead(known: &Known<'_>) -> Scenario {
    let steps = vec![
        Step::new("What does it say?")
            .run(known.programs.agent("status"))
            .prints("`not running`, or why there is no stream, and how far the archive reaches."),
        Step::new("And its log, as root:").run(format!("journalctl --unit {} --lines 50", known.unit)),
        Step::new("What stands in its way? Every step is tried.")
            .run(known.programs.agent("check"))
            .prints("Names what is missing, with the statement or the command that adds it.")
            .refused("cannot connect to PostgreSQL", "the server is down, or `pg_hba.conf` has not both lines (the database, and `replication`).")
            .refused("was not archived within", "all but the agent is well: start it.")
            .refused("exit code 5", "a key is missing or does not fit. Scenario `key-lost`."),
        Step::new("Start it, as root. It goes on where it was: the slot has kept the WAL.").run(format!("systemctl restart {}", known.unit)),
        Step::new("Exit code 7: another agent has taken over. Find it (the log has its host) and decide which of the two shall run. Exit code 5: scenario `key-lost`. Exit code 3: the server is another one; scenario `failover` or `pg-upgrade`."),
        Step::new("Was the slot lost? The agent makes it again, asks other servers of the configuration for what is missing, declares as a hole what nobody has, and takes a backup. See that it does:")
            .run(known.programs.agent("list"))
            .prints("`HOLE …` with its range; behind it a backup labelled \"after a loss of WAL\"."),
        Step::new("No such backup? Take it.").run(known.programs.agent("backup")),
    ];
    Scenario {
        name: "agent-dead",
        title: "the agent is dead, or its slot is lost",
        alarms: &[
            Kind::AgentStopped,
            Kind::NotStreaming,
            Kind::SlotMissing,
            Kind::SlotLost,
            Kind::WalHole,
            Kind::ServerSetting,
            Kind::ArchiverFailing,
            Kind::StateUnwritable,
        ],
        signs: "A dead agent tells nothing: `SeawallAgentGone` of Prometheus, or a `ping` place of `[notify]` that stops.".into(),
        before: vec![
            "Somebody outside notices silence: `[notify.NAME] type = \"ping\"`, or Prometheus.".into(),
            "A second server in `host`, with `wal_keep_size`: what one has lost comes from another.".into(),
        ],
        during: vec![Course::usual(steps)],
        after: vec![
            format!("{}: it streams, no alarm is open.", code(&known.programs.agent("status"))),
            "Why was the slot lost? `max_slot_wal_keep_size`, `idle_replication_slot_timeout`, somebody who dropped it.".into(),
            write_down(known),
        ],
        loss: "nothing, as long as the server keeps the WAL. Should the host die meanwhile: all since the agent stopped. A lost slot: restores to the time from the hole to the next backup.".into(),
        duration: "minutes; the database works meanwhile. With `synchronous_standby_names` on the agent alone, commits wait for it.".into(),
    }
}
