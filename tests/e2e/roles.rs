//! Every command with each key alone, and with none: what a role may do it does, everything else ends with "a key is missing or wrong", names what is
//! missing and says where it comes from; and changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tests::case::case;
use tests::seawall::json_str;
use tests::wait::DEADLINE;
use tests::{Cluster, Program, Scratch, Seawall, tree};

/// Exit code: a key is missing or wrong.
const KEY: i32 = 5;

/// The keys that a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Host,
    Keeper,
    Restorer,
    Nobody,
}

const ROLES: [Role; 4] = [Role::Host, Role::Keeper, Role::Restorer, Role::Nobody];

/// A command, who may use it, and what others are told to be missing.
struct Rule {
    program: &'static str,
    arguments: Vec<String>,
    may: &'static [Role],
    missing: &'static str,
}

impl Rule {
    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    fn what(&self) -> String {
        format!("{} {}", self.program, self.arguments.join(" "))
    }

    /// What it would do with its key is tested elsewhere.
    fn has_its_key(&self, role: Role) -> bool {
        let key = match role {
            Role::Host => "host",
            Role::Keeper => "maintenance",
            Role::Restorer => "restore",
            Role::Nobody => return false,
        };
        self.may.contains(&role) || key == self.missing
    }
}

fn rule(program: &'static str, arguments: &str, may: &'static [Role], missing: &'static str) -> Rule {
    Rule {
        program,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        may,
        missing,
    }
}

/// The same installation on a machine that has only the key of a role.
fn with_keys_of(seawall: &Seawall, scratch: &Scratch, role: Role) -> Result<Seawall> {
    let mut config = seawall.config.clone();
    for (of, key) in [
        (Role::Host, "host_key"),
        (Role::Keeper, "maintenance_key"),
        (Role::Restorer, "restore_key"),
    ] {
        if of != role {
            let away = scratch.join("elsewhere").join(format!("{key}.key"));
            config = config.set(&format!("keys.{key}"), away.display().to_string())?;
        }
    }
    Seawall::configure_as(config, &format!("{role:?}").to_lowercase())
}

fn names(seawall: &Seawall) -> Result<Vec<PathBuf>> {
    names_in(&seawall.repository())
}

fn names_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut names = tree::files(directory)?;
    names.sort();
    Ok(names)
}

fn rules(backup: &str, data: &str, scratch: &Scratch) -> Vec<Rule> {
    const HOST: &[Role] = &[Role::Host];
    const KEEPER: &[Role] = &[Role::Keeper];
    const RESTORER: &[Role] = &[Role::Restorer];
    const ANY: &[Role] = &[Role::Host, Role::Keeper, Role::Restorer];
    let file = |name: &str| scratch.join(name).display().to_string();
    vec![
        // Who looks.
        rule("agent", "verify --json", ANY, "host"),
        rule("agent", "verify --all --json", ANY, "host"),
        rule("agent", "repair --dry-run --json", ANY, "host"),
        rule("agent", "list --json", ANY, "host"),
        // Who decides what is deleted.
        rule("agent", "prune --dry-run --json", KEEPER, "maintenance"),
        rule("agent", "prune --json", KEEPER, "maintenance"),
        // A host may as well: that only keeps.
        rule(
            "agent",
            &format!("pin {backup}"),
            &[Role::Host, Role::Keeper],
            "maintenance",
        ),
        rule("agent", &format!("unpin {backup}"), KEEPER, "maintenance"),
        // Who writes.
        rule("agent", "backup --json", HOST, "host"),
        rule("agent", "archive-push pg_wal/000000010000000000000001", &[], "host"),
        rule("agent", "run", &[], "host"),
        rule("agent", "adopt --dry-run --json", &[], "host"),
        // Who says who is trusted.
        rule("agent", "key rotate host", &[], "restore"),
        rule(
            "agent",
            &format!("key add-host other --output {}", file("other.key")),
            &[],
            "restore",
        ),
        rule(
            "agent",
            &format!("key add-recipient friend --output {}", file("friend.key")),
            &[],
            "restore",
        ),
        rule("agent", "key remove-recipient friend", &[], "restore"),
        rule("agent", "key revoke somebody", &[], "restore"),
        rule("agent", "key export restore", RESTORER, "restore"),
        // Who reads data.
        rule("restore", "list --json", RESTORER, "restore"),
        rule(
            "restore",
            "--target latest --dry-run --pgdata /nowhere/data",
            RESTORER,
            "restore",
        ),
        rule("restore", &format!("--target latest --pgdata {data}"), &[], "restore"),
        rule(
            "restore",
            // With its key it finds nothing here.
            "find --database postgres --event drop --json",
            &[],
            "restore",
        ),
    ]
}

#[test]
fn each_command_asks_for_the_key_of_its_role_and_says_so() {
    case("roles", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let backup = seawall.backup().await?;
        seawall.wait_archived(&cluster).await?;
        let data = scratch.join("restored/data").display().to_string();
        let rules = rules(json_str(&backup, "backup")?, &data, &scratch);
        let mut refusals = 0;
        for role in ROLES {
            let machine = with_keys_of(&seawall, &scratch, role)?;
            for rule in rules.iter().filter(|rule| rule.may.contains(&role)) {
                let output = program(&machine, rule).run(&rule.arguments()).await?;
                ensure!(output.code() == 0, "{role:?}: {}: {}", rule.what(), output.stderr);
            }
        }
        agent.stop(DEADLINE).await?;
        let before = names(&seawall)?;
        let files = names_in(&scratch.join("keys"))?;
        for role in ROLES {
            let machine = with_keys_of(&seawall, &scratch, role)?;
            for rule in rules.iter().filter(|rule| !rule.has_its_key(role)) {
                let output = program(&machine, rule).run(&rule.arguments()).await?;
                let what = format!("{role:?}: {}: {}", rule.what(), output.stderr);
                ensure!(output.code() == KEY, "{what}");
                let mut missing = rule.missing.split('|');
                ensure!(
                    missing.any(|key| output.stderr.contains(&format!("this needs the {key} key"))),
                    "{what}"
                );
                ensure!(
                    output.stderr.contains("HINT:") && output.stderr.contains("does not exist"),
                    "{what}"
                );
                ensure!(
                    names(&seawall)? == before && names_in(&scratch.join("keys"))? == files,
                    "{what}"
                );
                ensure!(!scratch.join("restored").exists(), "{what}");
                refusals += 1;
            }
        }
        println!("{refusals} refusals");
        ensure!(refusals > 55, "{refusals}");
        Ok(())
    });
}

fn program<'a>(machine: &'a Seawall, rule: &Rule) -> &'a Program {
    if rule.program == "agent" {
        &machine.agent
    } else {
        &machine.restore
    }
}
