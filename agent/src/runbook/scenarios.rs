//! The disasters, and what several of them have in common. Pure: from what is known to what is to be done.

mod agent;
mod cluster;
mod data;
mod keys;
mod repository;
mod theft;

use store::keys::Role;

use super::known::Known;
use super::page::{Scenario, Step, code};
use super::shell;
use crate::status;

/// As `--scenario` has them, in the order in which they are printed.
pub const NAMES: [&str; 12] = [
    "host-lost",
    "data-directory",
    "table-dropped",
    "corrupt-pages",
    "wal-disk-full",
    "repository-away",
    "stolen-host",
    "repository-damaged",
    "agent-dead",
    "failover",
    "key-lost",
    "pg-upgrade",
];

/// All of them.
pub fn all(known: &Known<'_>) -> Vec<Scenario> {
    vec![
        cluster::host_lost(known),
        cluster::data_directory(known),
        data::table_dropped(known),
        data::corrupt_pages(known),
        agent::wal_disk_full(known),
        repository::away(known),
        theft::stolen_host(known),
        repository::damaged(known),
        agent::dead(known),
        cluster::failover(known),
        keys::lost(known),
        cluster::pg_upgrade(known),
    ]
}

/// What a restore to the last archived record loses.
fn loss(known: &Known<'_>) -> String {
    let rpo = config::print_duration(known.context.cluster.objectives.rpo);
    let usual = config::print_duration(known.context.cluster.wal.ship_interval);
    format!(
        "the commits of the last moments: {rpo} by `objectives.rpo` (more is the alarm `rpo_broken`), usually little more than {usual} \
         (`wal.ship_interval`)."
    )
}

/// How long a restore takes, as promised and as measured.
fn duration(known: &Known<'_>) -> String {
    let promised = known.context.cluster.objectives.rto.map_or_else(
        || "no `objectives.rto` is set".to_owned(),
        |rto| format!("{} by `objectives.rto`", config::print_duration(rto)),
    );
    format!("{promised}. Now: {}.", status::expected(&known.view))
}

/// What every restore needs long before it.
fn ready(known: &Known<'_>) -> Vec<String> {
    let keys = &known.context.config.keys;
    let key = match keys.restore_key_command.is_empty() {
        true => format!(
            "`restore.key` lies at two places other than this host (a safe, a password store), and two persons know where. {} says whether it opens the newest backup.",
            code(&known.programs.agent("key check"))
        ),
        false => "`restore_key_command` of the configuration prints the restore key; it works from another host too, and two persons may run it.".to_owned(),
    };
    vec![
        key,
        drilled(known),
        format!("{} lies outside of this host, as this page does.", config_file(known)),
    ]
}

/// A restore that was rehearsed.
fn drilled(known: &Known<'_>) -> String {
    let age = match known.context.cluster.objectives.drill_age {
        Some(age) => format!(
            "not longer ago than {} (`objectives.drill_age`)",
            config::print_duration(age)
        ),
        None => "within the last month (`objectives.drill_age` is not set: nobody is told)".to_owned(),
    };
    format!("A drill has passed {age}: {}.", code(&known.programs.agent("drill")))
}

/// A machine to restore to.
fn spare(known: &Known<'_>) -> String {
    format!(
        "A spare host with PostgreSQL {}, `wal-agent`, `wal-restore`, and room for the cluster{}.",
        major(known),
        known.view.newest.as_ref().map_or_else(String::new, |newest| format!(
            " ({} of files)",
            crate::output::bytes(newest.totals.logical_bytes)
        ))
    )
}

fn major(known: &Known<'_>) -> String {
    known.major.map_or_else(
        || "of the same major version (which could not be looked up)".to_owned(),
        |major| major.to_string(),
    )
}

fn config_file(known: &Known<'_>) -> String {
    code(&known.context.path.display().to_string())
}

/// The restore key to where the programs look for it; nothing where a command prints it.
fn bring_restore_key(known: &Known<'_>) -> Vec<Step> {
    let keys = &known.context.config.keys;
    if !keys.command(Role::Restore).is_empty() {
        return Vec::new();
    }
    let place = shell::path(&keys.restore_key);
    let copy = format!("[ -e {place} ] || install -m 600 \"$RESTORE_KEY\" {place}");
    let import = known
        .programs
        .agent(&format!("key import \"$PRINTED\" --output {place}"));
    vec![
        Step::new("Bring the restore key, from where its copies lie. It must belong to the user who restores.")
            .run("RESTORE_KEY='/media/safe/restore.key'")
            .run(copy)
            .prints(format!(
                "Prints nothing. A key on paper, or in parts: {} (`$PRINTED`: the file with what was typed in; name several, one after another).",
                code(&import)
            )),
    ]
}

/// The restore key away again.
fn take_restore_key_away(known: &Known<'_>) -> Vec<String> {
    let keys = &known.context.config.keys;
    match keys.command(Role::Restore).is_empty() {
        true => vec![format!(
            "Take the restore key away from this host again, if it does not stay here (`--single-host`): {}.",
            code(&format!("shred -u {}", shell::path(&keys.restore_key)))
        )],
        false => Vec::new(),
    }
}

/// The restored server is production: looked at, then done, then the agent.
fn adopt(known: &Known<'_>, is_gone: bool) -> Vec<Step> {
    let gone = if is_gone { " --old-is-gone" } else { "" };
    let check = known.programs.agent("check");
    vec![
        Step::new("See what will make the server production again. Nothing is changed.")
            .run(known.programs.agent(&format!("adopt --dry-run{gone}")))
            .prints("Prints the lineage, the old server, slots, settings, and what is left to you.")
            .refused("the old server … lives", "its WAL still comes in. Stop it and its agent for good.")
            .refused(
                "the old server … may live",
                "its WAL came in minutes ago. See that it is off and cannot come back; then `--old-is-gone` in both commands.",
            )
            .refused(
                "cannot connect to PostgreSQL",
                "`host` and `port` of `[cluster.….postgres]` must name the restored server.",
            ),
        Step::new("Do it: slots, settings, WAL, and a backup. From its end on the server is protected again.")
            .run(known.programs.agent(&format!("adopt --yes{gone}")))
            .prints("Prints the same, what was done, and since when the server is protected. Interrupted? Run it again."),
        Step::new("Start the agent. Without it the slots keep WAL until the disk is full. As root:")
            .run(format!("systemctl enable --now {}", known.unit)),
        Step::new("Test all of it, with a record that is written now.")
            .run(check)
            .prints("Ends with 0 when the record was archived within 30 s.")
            .refused("was not archived within", "the agent's log says what holds it up."),
    ]
}

/// What is left after the server is production again.
fn aftermath(known: &Known<'_>) -> Vec<String> {
    let mut points = vec![
        format!(
            "{}: no alarm is open, the newest backup is from after the restore.",
            code(&known.programs.agent("status"))
        ),
        "Applications reach the server (DNS, connection strings, poolers); those who use it were told what is lost."
            .to_owned(),
        format!(
            "A restore of what is there now works: {}.",
            code(&known.programs.agent("drill"))
        ),
    ];
    points.extend(take_restore_key_away(known));
    points.push(write_down(known));
    points
}

/// For those who were not there.
fn write_down(known: &Known<'_>) -> String {
    format!(
        "Write down when it began, was noticed, was decided, was over; {} prints what the repository knows.",
        code(&known.programs.agent("timeline"))
    )
}
