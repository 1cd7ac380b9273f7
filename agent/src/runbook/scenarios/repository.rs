//! Where the backups are is away, gone, or damaged.

use store::object::mirrored::Confirm;

use super::super::known::Known;
use super::super::page::{Course, Scenario, Step, code};
use super::{config_file, duration, ready, write_down};
use crate::health::Kind;

/// What happens to WAL while one place is away.
fn confirmed(known: &Known<'_>) -> &'static str {
    if known.context.config.copies.is_empty() {
        return "WAL waits on the server until it is back.";
    }
    match known.context.config.confirm {
        Confirm::First => {
            "`confirm = \"first\"`: WAL waits on the server until the repository is back; a copy that is away holds nothing up."
        }
        Confirm::Any => "`confirm = \"any\"`: WAL goes on to whatever place lives and lacks nothing.",
        Confirm::All => "`confirm = \"all\"`: WAL waits on the server until every place is back.",
    }
}

pub fn away(known: &Known<'_>) -> Scenario {
    let config = &known.context.config;
    let mut steps = vec![
        Step::new(format!("Is it away, or is it us? {}", confirmed(known)))
            .run(known.programs.agent("check"))
            .prints("Names what fails: name, network, certificate, credentials, or the service."),
        Step::new(format!(
            "Look at the service's own status, and try {} by hand with the same credentials, from this host and from another.",
            code(&config.repository.url.to_string())
        )),
        Step::new("Watch the disk of `pg_wal` meanwhile: scenario `wal-disk-full`.")
            .run(known.programs.agent("status")),
        Step::new(
            "Do commits wait for the agent (`synchronous_standby_names`)? With `on_store_outage = \"hold\"` they wait as long as it lasts; take it out by hand if they must not.",
        ),
    ];
    let mut during = Vec::new();
    if config.copies.is_empty() {
        steps.push(Step::new(
            "**There is no copy.** No `[copy.NAME]` is configured: while the repository is away nothing can be restored, and if it is gone all backups \
             are gone. All that is left is the live server: keep it alive.",
        ));
        during.push(Course::usual(steps));
    } else {
        during.push(Course::usual(steps));
        for name in config.copies.keys() {
            during.push(from_copy(known, name));
        }
    }
    during.push(anew(known));
    let mut before = ready(known);
    match config.copies.is_empty() {
        true => before.push(format!(
            "**Missing:** a second place, in another region or at another provider: `[copy.NAME]` in {}, then {}.",
            config_file(known),
            code(&known.programs.agent("copy NAME"))
        )),
        false => before.push(format!(
            "The copies ({}) are whole: {}.",
            names(known),
            code(&known.programs.agent("status"))
        )),
    }
    Scenario {
        name: "repository-away",
        title: "the repository is away, or its region is gone",
        alarms: &[
            Kind::RepositoryUnreachable,
            Kind::RpoBroken,
            Kind::WalRetained,
            Kind::CopyBehind,
            Kind::Degraded,
        ],
        signs: "The agent's log has `object store request failed, will try again`.".into(),
        before,
        during,
        after: vec![
            format!("{}: the archive has caught up, copies are whole.", code(&known.programs.agent("status"))),
            format!("{}: nothing was lost with it.", code(&known.programs.agent("verify"))),
            write_down(known),
        ],
        loss: match config.copies.is_empty() {
            true => "nothing while the server lives and its disk lasts. If the repository is gone for good: all that was before the next backup, **as there is no copy**.".into(),
            false => "nothing while the server lives and its disk lasts; from a copy what had not reached it.".into(),
        },
        duration: format!("as long as the outage. A restore from a copy: {}", duration(known)),
    }
}

fn names(known: &Known<'_>) -> String {
    let names = known.context.config.copies.keys().map(|name| code(name));
    names.collect::<Vec<_>>().join(", ")
}

fn from_copy(known: &Known<'_>, name: &str) -> Course {
    let copy = super::shell::quote(name);
    let url = known.context.config.copies.get(name).map(|place| place.url.to_string());
    Course::otherwise(
        "the server is lost too: restore from a copy",
        vec![
            Step::new(format!(
                "What has the copy {} ({})?",
                code(name),
                code(&url.unwrap_or_default())
            ))
            .run(known.programs.restore(&format!("--copy {copy} list")))
            .prints(
                "Prints its backups and what can be reached there. Several copies? Take the one that reaches furthest.",
            ),
            Step::new("Go on as in scenario `host-lost`, with the copy in each command of `wal-restore`:")
                .run(known.data())
                .run(
                    known
                        .programs
                        .restore(&format!("--copy {copy} --target latest --pgdata \"$DATA\" --dry-run")),
                )
                .run(
                    known
                        .programs
                        .restore(&format!("--copy {copy} --target latest --pgdata \"$DATA\" --start")),
                ),
            Step::new(format!(
                "Is the repository gone for good? In {} make the copy's url that of `[repository]`, take its `[copy.…]` away, and start the agent. Then make a new copy.",
                config_file(known)
            )),
        ],
    )
}

/// A new repository, from a server that lives.
fn anew(known: &Known<'_>) -> Course {
    let keys = super::shell::path(&known.context.config.keys.directory);
    Course::otherwise(
        "it is gone for good, no copy is left, and the server lives",
        vec![
            Step::new("Stop the agent, as root:").run(format!("systemctl stop {}", known.unit)),
            Step::new(format!(
                "Write another url into {}, and put the old keys aside.",
                config_file(known)
            ))
            .run(format!("mv {keys} {keys}.old && mkdir -m 700 {keys}")),
            Step::new("Begin anew. The first backup protects what is there now; nothing from before can be restored.")
                .run(known.programs.agent("init --confirm-key-copied"))
                .prints("Prints where the new keys are. Copy `restore.key` away before anything else."),
            Step::new("As root:").run(format!("systemctl start {}", known.unit)),
            Step::new("And a backup.").run(known.programs.agent("backup")),
        ],
    )
}

pub fn damaged(known: &Known<'_>) -> Scenario {
    let config = &known.context.config;
    let sources = match config.copies.is_empty() {
        true => "the live cluster (there is no copy)".to_owned(),
        false => format!("the copies ({}) and the live cluster", names(known)),
    };
    let steps = vec![
        Step::new("Delete nothing. What is damaged? Every object is read.")
            .run(known.programs.agent("verify --all"))
            .prints("Names each damaged or missing object, and what can be restored without them. Exit code 4: something is damaged; 0: nothing is."),
        Step::new("What can be made up for?")
            .run(known.programs.agent("repair --dry-run"))
            .prints(format!("Names each object and where it can come from: {sources}. Nothing is changed.")),
        Step::new("Do it soon: each page of the live cluster that changes is one that cannot be brought back from there. Nothing is deleted or changed; what was damaged stays where it is.")
            .run(known.programs.agent("repair"))
            .prints("Ends with 0 when all is made up for; with 4 it names what is left.")
            .refused("cannot be made up for", "a new backup (below) stores it anew; older backups stay as they are. Versions of the bucket may hold the bytes."),
        Step::new("Something at `keys/` (alarm `trust_in_doubt`)? `verify` names it. Remove what was planted; bring back what is damaged from a copy."),
        Step::new("Take a backup: it stores anew what is missing.").run(known.programs.agent("backup")),
        Step::new("Look again. That ends the alarm.").run(known.programs.agent("verify --all")),
    ];
    let mut before = vec![
        match config.copies.is_empty() {
            true => "**Missing:** a copy (`[copy.NAME]`). Without one only what the live cluster still has comes back."
                .to_owned(),
            false => format!(
                "The copies ({}) are whole, and on other disks than the repository.",
                names(known)
            ),
        },
        format!(
            "Stored bytes are compared all the time: {} in the schedule or by `seawall-verify.timer`.",
            code(&known.programs.agent("verify --share 30"))
        ),
    ];
    before.extend(ready(known));
    Scenario {
        name: "repository-damaged",
        title: "the repository is damaged",
        alarms: &[Kind::VerifyDamage, Kind::RepositoryDamaged, Kind::TrustInDoubt, Kind::VerifyOld, Kind::VerifyFailed],
        signs: "A command ends with exit code 4, or says `object … is damaged`.".into(),
        before,
        during: vec![Course::usual(steps)],
        after: vec![
            "Why? The disk, the service, or somebody who may write there: scenario `stolen-host`.".into(),
            format!("A restore works: {}.", code(&known.programs.agent("drill"))),
            write_down(known),
        ],
        loss: "nothing of the database. Of the past what neither copy nor live cluster has.".into(),
        duration: "as long as it takes to read the repository once, for `verify`, and again for `repair`; the server works meanwhile.".into(),
    }
}
