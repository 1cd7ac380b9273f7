//! Somebody else had the host.

use super::super::known::Known;
use super::super::page::{Course, Scenario, Step, code};
use super::{adopt, aftermath, bring_restore_key, duration, ready, spare};
use crate::health::Kind;
use crate::open::host_name;

pub fn stolen_host(known: &Known<'_>) -> Scenario {
    let keys = &known.context.config.keys;
    let signer = known.signing_id.as_ref().map_or_else(
        || "SIGNER='the id that it printed'".to_owned(),
        |id| format!("SIGNER={}", super::shell::quote(id)),
    );
    let lock = &known.context.config.repository.s3.object_lock;
    let locked = match lock {
        Some(lock) => format!(
            "Object lock is on: nobody deletes or changes what was stored within the last {}, with whatever credentials.",
            config::print_duration(lock.keep)
        ),
        None => "**No object lock is configured** (`object_lock` in `[repository.s3]`): who has the right to delete can delete the backups. The host's own credentials need no such right: see that they have none.".to_owned(),
    };
    let mut steps = vec![
        Step::new("Cut the host off from the network, and leave it on for who investigates. Do not pay; do not delete anything."),
        Step::new("Take its credentials of the object store away, at the provider. Those that a thief may have can still write as long as they live."),
        Step::new("On a clean machine with the configuration, as the user `postgres`: say since when it was in wrong hands (earlier, when in doubt), and the time to go back to.")
            .run("SINCE='2026-11-21T05:00:00Z'")
            .run("TARGET='2026-11-21 04:59:00+00'"),
    ];
    steps.extend(bring_restore_key(known));
    steps.extend([
        Step::new("Whose signature does the repository trust?")
            .run(known.programs.agent("key show"))
            .prints(match &known.signing_id { Some(id) => format!("Lists signing keys with their hosts. When this page was printed, this host ({}) had {}.", host_name(), code(id)), None => "Lists signing keys with their hosts.".to_owned() }),
        Step::new("What that key has signed since then must not count.")
            .run(signer)
            .run(known.programs.agent("key revoke \"$SIGNER\" --since \"$SINCE\" --yes"))
            .prints("Prints from when on it does not count. The next backup stores everything anew.")
            .refused("no signer is called", "take the id that `key show` has printed."),
        Step::new(format!("Is what is stored still whole? {locked}"))
            .run(known.programs.agent("verify --all"))
            .prints("Exit code 0: all is whole. 4: names what is not. \"had been revoked before it was stored\" is as it must be: what the thief has stored does not count. Anything else: scenario `repository-damaged`. Objects that were deleted may still be there as versions of the bucket."),
        Step::new(format!("Say where the data goes on the clean machine, and look first.{}", known.data_note()))
            .run(known.data())
            .run(known.programs.restore("--target-time \"$TARGET\" --pgdata \"$DATA\" --dry-run"))
            .refused("nothing later than … is archived", "what came later does not count any more: `--or-latest` in both commands.")
            .refused("lies before the first backup", "nothing that old is kept: take the first time that it names, and look for what the thief has left in the database."),
        Step::new("Restore to before it, start, and prove it.")
            .run(known.programs.restore("--target-time \"$TARGET\" --pgdata \"$DATA\" --start --prove"))
            .prints("Reads every table in the end. Change every password that the database knows, and look through roles, functions and extensions: what a thief has done before that time is in it."),
        Step::new("A new key for the new host, and new credentials of the object store in the configuration.")
            .run(known.programs.agent("key rotate host")),
    ]);
    steps.extend(adopt(known, true));
    let mut before = ready(known);
    before.push(spare(known));
    before.push(match lock {
        Some(lock) => format!("Object lock is on, for {}.", config::print_duration(lock.keep)),
        None => "**Missing:** object lock, in the repository or in a copy; and credentials of the host without the right to delete.".to_owned(),
    });
    if keys.restore_key.exists() || !keys.restore_key_command.is_empty() {
        before.push("**The restore key can be had on this host**: a thief reads all backups, and decides who is trusted. Move it away.".into());
    }
    let mut after = aftermath(known);
    after.push(format!(
        "Could the thief have had the restore key? {}, then print and copy it anew. What he has copied he can read.",
        code(&known.programs.agent("key rotate restore"))
    ));
    after.push("Tell those whose data it is, and whom the law names.".into());
    Scenario {
        name: "stolen-host",
        title: "ransomware, or a stolen host",
        alarms: &[
            Kind::AgentStopped,
            Kind::TrustInDoubt,
            Kind::VerifyDamage,
            Kind::RepositoryDamaged,
        ],
        signs: "Files are encrypted, a note asks for money, a disk or a machine is missing, a login nobody knows."
            .into(),
        before,
        during: vec![Course::usual(steps)],
        after,
        loss: "all since the host was in wrong hands: you decide from when on.".into(),
        duration: format!("{} And however long it takes to find out since when.", duration(known)),
    }
}
