//! A key is lost, or somebody who had one leaves.

use super::super::known::Known;
use super::super::page::{Course, Scenario, Step, code};
use super::super::shell;
use super::{bring_restore_key, take_restore_key_away, write_down};
use crate::health::Kind;

pub fn lost(known: &Known<'_>) -> Scenario {
    let keys = &known.context.config.keys;
    let place = shell::path(&keys.restore_key);
    let mut lost = bring_restore_key(known);
    lost.extend([
        Step::new("Do the keys that are left fit, and open the newest backup? Never rely on a copy that was not tried.")
            .run(known.programs.agent("key check"))
            .prints("A line for each key file. Exit code 5: one is missing or does not fit.")
            .refused("exit code 5", "**no copy of it is left anywhere? Then no backup can be restored, by anyone.** The live server is all there is: scenario `repository-away`, \"it is gone for good\", makes a new repository with new keys."),
        Step::new("Is one copy in unknown hands? Replace the key. The old one still opens what was stored under it, and nothing that comes.")
            .run(known.programs.agent("key rotate restore"))
            .prints("Prints where the new key is; the old file stays beside it as `….replaced-N`.")
            .refused("the key comes from", "put the new key behind that command by hand."),
        Step::new("Print it, in parts of which some are needed, and give them to different people.")
            .run("DIRECTORY='/media/paper'")
            .run(known.programs.agent("key export restore --parts 5 --threshold 3 --directory \"$DIRECTORY\""))
            .prints("Five files; any three give the key, two say nothing."),
    ]);
    let leaves = Course::otherwise(
        "a person leaves who had a key of her own",
        vec![
            Step::new("Nothing new is sealed to her.")
                .run("NAME='alice'")
                .run(known.programs.agent("key remove-recipient \"$NAME\""))
                .refused("no restorer is called", format!("{} lists them.", code(&known.programs.agent("key show")))),
            Step::new("What she could open she still can: take her way to the objects (credentials of the store), and the restore key anew if she knew that one.")
                .run(known.programs.agent("key rotate restore")),
            Step::new("Another person restores from now on.")
                .run("NAME='bob'")
                .run("KEY_FILE='/media/bob/restore.key'")
                .run(known.programs.agent("key add-recipient \"$NAME\" --output \"$KEY_FILE\"")),
        ],
    );
    let host = Course::otherwise(
        "host.key is lost or cannot be read",
        vec![
            Step::new("No backup is lost with it. With the restore key here, make another one.")
                .run(known.programs.agent("key rotate host"))
                .prints("Prints the id of the new key. The old one counts until it is revoked: scenario `stolen-host`, if somebody else has it."),
            Step::new("As root:").run(format!("systemctl restart {}", known.unit)),
            Step::new("Does it fit?").run(known.programs.agent("key check")),
        ],
    );
    let keeper = Course::otherwise(
        "maintenance.key is lost",
        vec![
            Step::new(
                "Make another one; the old one decides nothing any more. Copy it to where `prune` and `verify` run.",
            )
            .run(known.programs.agent("key rotate maintenance")),
        ],
    );
    let mut after = vec![
        format!("Everything fits: {}.", code(&known.programs.agent("key check"))),
        "New copies lie at two places; old ones, and the `….replaced-N` files, are destroyed once the new ones were tried.".to_owned(),
        "The table of keys on this page says who has what.".to_owned(),
    ];
    after.extend(take_restore_key_away(known));
    after.push(write_down(known));
    Scenario {
        name: "key-lost",
        title: "a key is lost, or a person leaves",
        alarms: &[Kind::KeyUnreadable, Kind::DrillFailed],
        signs: "A command ends with exit code 5; a safe was emptied; somebody hands in the notice.".into(),
        before: vec![
            format!(
                "`restore.key` (here {}) exists at least twice elsewhere, once on paper.",
                code(&place)
            ),
            "A list of who has which key, and which copy was tried when.".into(),
        ],
        during: vec![Course::usual(lost), leaves, host, keeper],
        after,
        loss: "nothing, as long as one copy of the restore key is left.".into(),
        duration: "minutes; the server and the agent work meanwhile.".into(),
    }
}
