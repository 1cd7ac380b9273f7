//! The server lives, and what is in it is wrong.

use super::super::known::Known;
use super::super::page::{Course, Scenario, Step, code};
use super::super::shell;
use super::{adopt, bring_restore_key, duration, ready, take_restore_key_away, write_down};
use crate::health::Kind;

/// An example that cannot be taken for a real one.
const TARGET: &str = "TARGET='2026-11-21 05:24:00+00'";

pub fn table_dropped(known: &Known<'_>) -> Scenario {
    let (host, port) = known.address();
    let into = format!(
        "INTO=\"host={} port={} dbname='$DATABASE'\"",
        shell::conninfo(&host),
        shell::conninfo(&port)
    );
    let mut steps = vec![
        Step::new("Stop the job that does the damage. Name what is missing. All of this as the user `postgres`.")
            .run("DATABASE='shop'")
            .run("TABLE='public.orders'"),
    ];
    steps.extend(bring_restore_key(known));
    steps.extend([
        Step::new("When was it? This reads archived WAL, and changes nothing.")
            .run(known.programs.restore("find --database \"$DATABASE\" --table \"$TABLE\""))
            .prints("Prints each drop, truncate, delete and rename of the table with its time, and the options that restore to just before it. A wrong UPDATE it cannot tell from a right one: take the time from the application's log, or look around (below).")
            .refused("no … was found", "the table had another name, or the rows were in a partition: ask for that; `--event rewrite` asks for more."),
        Step::new("Choose the time: a second before the accident. (Or replace `--target-time \"$TARGET\"` below by the options that were printed.)").run(TARGET),
        Step::new("Say where the cluster may be restored to meanwhile (as much room as it has), and where the table goes.")
            .run("SCRATCH='/srv/scratch'")
            .run(into),
        Step::new("Bring the table back: with its indexes, keys and sequences, all or nothing. The server goes on working.")
            .run(known.programs.restore(
                "table --database \"$DATABASE\" --table \"$TABLE\" --target-time \"$TARGET\" --scratch \"$SCRATCH\" --into \"$INTO\"",
            ))
            .prints("Prints what was loaded; a foreign key that leads nowhere by now stays `NOT VALID`, and is named. The scratch directory is removed.")
            .refused("already exists", "the table is there, with wrong rows: `ALTER TABLE … RENAME TO …`, run it again, and merge by SQL. Or `--to-sql FILE` instead of `--into`.")
            .refused("nothing later than … is archived", format!("the time is in the future, or the agent is behind: {}.", code(&known.programs.agent("status"))))
            .refused("lies before the first backup", "nothing that old is kept.")
            .refused("not enough space under", "another `$SCRATCH`."),
    ]);
    let look = Course::otherwise(
        "look around, second by second, before you decide",
        vec![
            beside(),
            Step::new("Start the cluster as it was, readable, beside the original.")
                .run(TARGET)
                .run(known.programs.restore(&format!(
                    "--target-time \"$TARGET\" --pgdata \"$PLACE/data\" --port \"$PORT\" --socket-dir \"$SOCKETS\"{} --explore",
                    known.maps_beside()
                )))
                .prints("Prints how to look: with psql, read-only."),
            Step::new("Too early? Go on to a later time; there is no way back.")
                .run("TARGET='2026-11-21 05:24:30+00'")
                .run(known.programs.restore("forward --pgdata \"$PLACE/data\" --target-time \"$TARGET\"")),
            Step::new("Found? Take the rows with `pg_dump`, or end recovery there.")
                .run(known.programs.restore("promote --pgdata \"$PLACE/data\"")),
        ],
    );
    let whole = Course::otherwise(
        "the whole cluster to that time, beside the original",
        vec![
            beside(),
            Step::new("Restore, start, and prove it.").run(TARGET).run(known.programs.restore(&format!(
                "--target-time \"$TARGET\" --pgdata \"$PLACE/data\" --port \"$PORT\" --socket-dir \"$SOCKETS\"{} --start --prove",
                known.maps_beside()
            ))),
            Step::new("Is it what production shall be? Then stop the original for good, and go on with scenario `data-directory`, with `--target-time \"$TARGET\"` in the place of `--target latest`: all commits since then are given up."),
        ],
    );
    let mut after = vec![
        "Count the rows; ask the application's own checks.".to_owned(),
        "Remove what was restored beside the original, and its server.".to_owned(),
        format!("Take a backup: {}.", code(&known.programs.agent("backup"))),
    ];
    after.extend(take_restore_key_away(known));
    after.push(write_down(known));
    let mut before = ready(known);
    before.push("Room for a second copy of the cluster, here or on a spare host.".into());
    Scenario {
        name: "table-dropped",
        title: "a table was dropped, or a wrong UPDATE was committed",
        alarms: &[],
        signs: "People miss rows; the application's log has errors from a certain second on. To the archive it is work like any other.".into(),
        before,
        during: vec![Course::usual(steps), look, whole],
        after,
        loss: "of that table what was committed after the chosen time, of all others nothing. With the whole cluster: all commits after it.".into(),
        duration: format!("{} One table takes as long as the whole cluster, and its load.", duration(known)),
    }
}

/// Where a second server goes.
fn beside() -> Step {
    Step::new("With the restore key here, as above: say where it goes. `$SOCKETS` must be short, and closed to others.")
        .run("PLACE='/srv/restored'")
        .run("SOCKETS='/srv/run'")
        .run("PORT='5433'")
        .run("mkdir -p \"$PLACE\" && mkdir -p -m 700 \"$SOCKETS\"")
}

pub fn corrupt_pages(known: &Known<'_>) -> Scenario {
    let (host, port) = known.address();
    let psql = format!("psql --host {} --port {}", shell::quote(&host), shell::quote(&port));
    let over = format!(
        "--backup \"$BACKUP\" --target latest --pgdata \"$DATA\" --delta{}",
        known.maps_in_place()
    );
    let mut steps = vec![
        Step::new("Which backup is older than the damage? Where a backup names no corrupt pages it is sound.")
            .run(known.programs.agent("list --json"))
            .prints("`corrupt_pages` of each backup counts them; the log of the backup (`journalctl`) names file and block."),
        Step::new("Keep it, whatever retention says.")
            .run("BACKUP='01J0000000000000000000000A'")
            .run(known.programs.agent("pin \"$BACKUP\" --reason 'before corrupt pages'"))
            .refused("there is no backup", "its id as `list` prints it."),
        Step::new("Which relation is it? The last number of the file is its `relfilenode`.")
            .run("DATABASE='shop'")
            .run("FILENODE='16384'")
            .run(format!(
                "{psql} --dbname \"$DATABASE\" --command \"SELECT oid::regclass, relkind FROM pg_class WHERE pg_relation_filenode(oid) = $FILENODE\""
            ))
            .prints("`relkind` `i` is an index: `REINDEX INDEX …` makes it anew from its table, and that is all. Else go on."),
        Step::new("Find out why: `dmesg`, the disk's own report (`smartctl -a`), the controller. On a disk that goes on failing restore elsewhere: scenario `host-lost`."),
        Step::new("Stop the agent, as root:").run(format!("systemctl stop {}", known.unit)),
        Step::new(format!(
            "Stop the server: by its own unit where it has one, else {}.{}",
            code(&format!("{} stop --pgdata \"$DATA\" --mode fast", known.pg_ctl())),
            known.data_note()
        ))
        .run(known.data()),
    ];
    steps.extend(bring_restore_key(known));
    steps.extend([
        Step::new("Restore over it from the sound backup, up to the last commit: pages come from the backup, everything since from WAL. Nothing is lost. Look first:")
            .run(known.programs.restore(&format!("{over} --dry-run"))),
        Step::new("Then:").run(known.programs.restore(&format!("{over} --start --prove"))).prints(
            "Reads every table in the end; a proof that does not hold is named.",
        ),
    ]);
    steps.extend(adopt(known, false));
    let table = Course::otherwise(
        "only one table is damaged, and the server must not stop",
        vec![
            Step::new("Take the table from before the damage, as a script, and compare it with what can still be read.")
                .run("DATABASE='shop'")
                .run("TABLE='public.orders'")
                .run(TARGET)
                .run("SCRATCH='/srv/scratch'")
                .run("SCRIPT='/srv/table.sql'")
                .run(known.programs.restore(
                    "table --database \"$DATABASE\" --table \"$TABLE\" --target-time \"$TARGET\" --scratch \"$SCRATCH\" --to-sql \"$SCRIPT\"",
                )),
        ],
    );
    let mut after = vec![
        format!(
            "The next backup finds no corrupt page: {}.",
            code(&known.programs.agent("backup"))
        ),
        "Data checksums are on (`SHOW data_checksums`): without them only broken page headers are found.".into(),
        format!(
            "When nobody needs the old backup any more: {}.",
            code(&known.programs.agent("unpin \"$BACKUP\""))
        ),
    ];
    after.extend(take_restore_key_away(known));
    after.push(write_down(known));
    Scenario {
        name: "corrupt-pages",
        title: "corrupt pages were found in the database",
        alarms: &[Kind::CorruptPages, Kind::ChecksumFailures],
        signs: "The server's log has `invalid page in block … of relation …` or `page verification failed`.".into(),
        before: ready(known),
        during: vec![Course::usual(steps), table],
        after,
        loss: "nothing, where a backup is older than the damage and WAL is whole since. Else what was on the pages."
            .into(),
        duration: duration(known),
    }
}
