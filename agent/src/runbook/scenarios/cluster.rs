//! The whole cluster is gone, elsewhere, or of another version.

use super::super::known::Known;
use super::super::page::{Course, Scenario, Step, code};
use super::{
    adopt, aftermath, bring_restore_key, config_file, duration, loss, major, ready, spare, take_restore_key_away,
    write_down,
};
use crate::health::Kind;

/// How the restored server goes wrong.
const RECOVERY_STOPPED: &str = "`seawall.restore/server.log` in the data directory says why; `wal-get` says there what it could not fetch. Mend that \
                                and run the same command again: it goes on.";

pub fn host_lost(known: &Known<'_>) -> Scenario {
    let restore = &known.programs;
    let mut steps = vec![
        Step::new(
            "Cut the old host off for good: power, network, its right to write to the repository. Two servers of one cluster must never both be \
             production.",
        ),
        Step::new(format!(
            "Prepare the new host as root: PostgreSQL {}, stopped, with an empty data directory; the package of Seawall, and {} with what it \
             names. `postgres` must own the directory of the keys. From here on as the user `postgres`.",
            major(known),
            config_file(known)
        )),
        Step::new(format!("Say where the data goes.{}", known.data_note())).run(known.data()),
    ];
    steps.extend(bring_restore_key(known));
    steps.extend([
        Step::new("Look first.")
            .run(restore.restore("--target latest --pgdata \"$DATA\" --dry-run"))
            .prints("Prints backup, WAL, stop point, tablespaces, and how long the files will take. The last transaction at the stop point is what was not lost. Nothing is changed.")
            .refused("directory … is not empty", "a new cluster was made by the package: move it away.")
            .refused("directory … of tablespace … is not empty", "each needs its old place, empty, or another one: `--tablespace-map OLD=NEW` here and in the next command.")
            .refused("exit code 6", "the repository is away. Scenario `repository-away`: from a copy with `--copy NAME`.")
            .refused("exit code 5", "a key is missing or does not fit. Scenario `key-lost`."),
        Step::new("Restore, start, and let recovery end.")
            .run(restore.restore("--target latest --pgdata \"$DATA\" --start"))
            .prints("Prints the stop point, the last transaction, timeline, port and socket. A server that sorts text in another way names indexes to `REINDEX`.")
            .refused("the backup needs the programs of PostgreSQL", "install that major version, or set `bin_directory`.")
            .refused("could not restore file", RECOVERY_STOPPED),
        Step::new("The key of the host was lost with it: make a new one. (Skip this where `host.key` came along with a copy of /etc.)")
            .run(known.programs.agent("key rotate host"))
            .prints("Prints the id by which this host signs from now on.")
            .refused("does not say who is trusted", "only the key that `init` made (or `key rotate restore`) says who is trusted; one of `add-recipient` does not."),
    ]);
    steps.extend(adopt(known, true));
    let mut before = ready(known);
    before.insert(0, spare(known));
    let mut after = aftermath(known);
    after.push(format!(
        "The old host's key counts until it is revoked. Was the host stolen, or may it come back? {} lists the keys; scenario `stolen-host`.",
        code(&known.programs.agent("key show"))
    ));
    Scenario {
        name: "host-lost",
        title: "the host is lost",
        alarms: &[Kind::AgentStopped, Kind::NotStreaming],
        signs: "A dead host tells nothing: a `ping` place of `[notify]` stops, Prometheus has `SeawallAgentSilent`, applications cannot connect.".into(),
        before,
        during: vec![Course::usual(steps)],
        after,
        loss: loss(known),
        duration: duration(known),
    }
}

pub fn data_directory(known: &Known<'_>) -> Scenario {
    let maps = known.maps_in_place();
    let over = format!("--target latest --pgdata \"$DATA\" --delta{maps}");
    let stop = format!("{} stop --pgdata \"$DATA\" --mode immediate", known.pg_ctl());
    let mut steps = vec![
        Step::new("Stop the agent, as root:").run(format!("systemctl stop {}", known.unit)),
        Step::new(format!(
            "Say where the data is.{} From here on as the user `postgres`.",
            known.data_note()
        ))
        .run(known.data()),
        Step::new(format!(
            "Stop the server if it runs: by its own unit where it has one, else {}. Has the disk died? Mount a new one at the same place, owned by \
             `postgres`. Its disk must be sound before anything is restored onto it.",
            code(&stop)
        )),
    ];
    steps.extend(bring_restore_key(known));
    steps.extend([
        Step::new("Look first. Everything that is there is compared; nothing is changed.")
            .run(known.programs.restore(&format!("{over} --dry-run")))
            .prints("Prints the stop point, what is right already, and names each file that would be written over, removed, or left.")
            .refused("there is a postmaster.pid", "make sure that no process of the server is left; then `rm \"$DATA/postmaster.pid\"`.")
            .refused("is not empty, and no cluster is in it", "`mv \"$DATA\" \"$DATA.damaged\"`, and again.")
            .refused("nobody knows whose cluster is in", "`global/pg_control` is damaged: `mv \"$DATA\" \"$DATA.damaged\"`, and again.")
            .refused("the cluster in the directory is another one", "`$DATA` is wrong, or `--cluster` is.")
            .refused("directory … of tablespace … is not empty", "one that this page does not know: `--tablespace-map PLACE=PLACE` as well. Where the data directory is gone: move what is left there away."),
        Step::new("Restore over it, start, and let recovery end. Only what differs is fetched.")
            .run(known.programs.restore(&format!("{over} --start")))
            .prints("Prints how much was fetched, the stop point and the last transaction. The old `pg_wal` stays as `seawall.restore/pg_wal.…`: it may hold commits that were never archived.")
            .refused("could not restore file", RECOVERY_STOPPED),
    ]);
    steps.extend(adopt(known, false));
    let mut after = aftermath(known);
    after.push("Where PostgreSQL has a unit of its own, stop the server and start it by that. Debian: `postgresql.conf` now lies in the data directory (OPERATIONS.md, \"Restore\").".into());
    after.push("Remove `$DATA.damaged` and the old `pg_wal` when nobody misses any commit.".into());
    let mut before = ready(known);
    before.push("Room for the cluster on this host, also when the old files cannot be removed.".into());
    Scenario {
        name: "data-directory",
        title: "the data directory is damaged, or its disk died",
        alarms: &[Kind::NotStreaming, Kind::ServerSilent, Kind::ChecksumFailures],
        signs: "The server does not start, or its log has `could not read`, `PANIC`, `invalid page`.".into(),
        before,
        during: vec![Course::usual(steps)],
        after,
        loss: loss(known),
        duration: format!(
            "{} Less where much of what is there is right: only what differs is fetched.",
            duration(known)
        ),
    }
}

pub fn failover(known: &Known<'_>) -> Scenario {
    let servers = match known.has_other_servers() {
        true => {
            "The configuration names several servers: the agent goes on with the one that `target_session_attrs` wants, by itself, once it answers."
        }
        false => {
            "The configuration names one server. Name all of the cluster (`host = \"db1,db2\"`), or point `host` at the new primary."
        }
    };
    let mut steps = vec![
        Step::new("The old primary is off and cannot come back as one: fence it. If it was not shut down cleanly, it must not be started again but restored or rewound."),
        Step::new("Is it promoted? On the new primary (`f` is what you want):")
            .run({
                let (host, port) = known.address();
                format!(
                    "psql --host {} --port {} --dbname postgres --command 'SELECT pg_is_in_recovery()'",
                    super::shell::quote(&host),
                    super::shell::quote(&port)
                )
            })
            .prints("`t`: it still follows. `SELECT pg_promote()` ends that."),
        Step::new(format!("{servers} The new primary's host needs the configuration, and a `host.key` of its own: copy it there, or make one where the restore key is."))
            .run("NEW_HOST='db2'")
            .run("KEY_FILE=\"$HOME/host.key.$NEW_HOST\"")
            .run(known.programs.agent("key add-host \"$NEW_HOST\" --output \"$KEY_FILE\"")),
    ];
    steps.extend(adopt(known, true));
    Scenario {
        name: "failover",
        title: "a standby was promoted, or the primary failed over",
        alarms: &[Kind::NotStreaming, Kind::SlotMissing, Kind::BackupOfOtherHistory, Kind::AgentStopped],
        signs: "The cluster manager says so; the agent's log says that the timeline has changed, or that the slot is missing.".into(),
        before: vec![
            format!("Configuration and a host key on each host that may become primary ({}), the agent's role and `pg_hba.conf` too.", code(&known.programs.agent("key add-host NAME --output FILE"))),
            "`wal_keep_size` on the standbys: what the old primary has not archived, another server may still have.".into(),
        ],
        during: vec![Course::usual(steps)],
        after: vec![
            format!("{}: no hole; a backup of the new timeline.", code(&known.programs.agent("list"))),
            format!("{}: no alarm is open.", code(&known.programs.agent("status"))),
            "The agent of the old primary is disabled. The old primary was restored as a standby, or taken out.".into(),
            write_down(known),
        ],
        loss: "what the standby had not received when the primary died; it is decided by replication, not by the archive. WAL of the old timeline behind the fork is kept as a branch.".into(),
        duration: "seconds to promote; `adopt` takes as long as a backup, during which the server works.".into(),
    }
}

pub fn pg_upgrade(known: &Known<'_>) -> Scenario {
    let mut steps = vec![
        Step::new("Stop the agent before pg_upgrade, as root. It archives what is left; all WAL of the old version is stored then.")
            .run(format!("systemctl stop {}", known.unit)),
        Step::new("Run pg_upgrade and start the new server. The agent's role and rights come along, `pg_hba.conf` does not: copy its two lines."),
        Step::new(format!("Set `bin_directory` (and `data_directory`) in {} to those of the new version, where they are set.", config_file(known))),
    ];
    steps.extend(adopt(known, false));
    let back = Course::otherwise(
        "back to before the upgrade",
        vec![
            Step::new("Choose a backup of the old version.")
                .run(known.programs.restore("list"))
                .prints("Prints the backups; those before the upgrade are of another lineage."),
            Step::new("Restore it with the programs of the old version, beside the new server.")
                .run("BACKUP='01J0000000000000000000000A'")
                .run("PLACE='/srv/restored'")
                .run("SOCKETS='/srv/run'")
                .run(known.programs.restore(&format!(
                    "--backup \"$BACKUP\" --target latest --pgdata \"$PLACE/data\" --port 5433 --socket-dir \"$SOCKETS\"{} --start",
                    known.maps_beside()
                )))
                .refused("the backup needs the programs of PostgreSQL", "install the old major version again."),
            Step::new("Is the upgrade given up? Start the old server, and `adopt` that: its lineage goes on."),
        ],
    );
    let mut after = vec![
        format!("{}: a backup of the new lineage.", code(&known.programs.agent("list"))),
        "Keep the old version's packages as long as backups of it are kept.".into(),
        format!(
            "A restore of the new version works: {}.",
            code(&known.programs.agent("drill"))
        ),
    ];
    after.extend(take_restore_key_away(known));
    after.push(write_down(known));
    Scenario {
        name: "pg-upgrade",
        title: "after pg_upgrade",
        alarms: &[Kind::AgentStopped, Kind::SlotMissing, Kind::BackupOfOtherHistory],
        signs:
            "The agent refuses the server: \"the server's system identifier\", \"the server is of another cluster\"."
                .into(),
        before: vec![
            "A backup of the old version from today.".into(),
            "The programs of the old version stay installed.".into(),
        ],
        during: vec![Course::usual(steps), back],
        after,
        loss: "nothing. What the new server does is protected from the end of the backup that `adopt` takes.".into(),
        duration: "as long as a full backup; the server works meanwhile.".into(),
    }
}
