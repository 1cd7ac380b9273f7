//! What an operator gets wrong before anything runs: each mistake has its message, its HINT, its code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use tests::wait::DEADLINE;
use tests::{Cluster, Program, Seawall, case};

const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const DAMAGED: i32 = 4;
const KEY: i32 = 5;
const UNREACHABLE: i32 = 6;

#[test]
fn a_wrong_or_missing_key_of_the_configuration_is_named_with_the_nearest() {
    case("bad_config", async |scratch| {
        let good = "[repository]\nurl = \"file:///nowhere\"\n[cluster.main.postgres]\nhost = \"/nowhere\"\nuser = \"postgres\"\n";
        let cases: [(&str, String, &[&str]); 6] = [
            (
                "typo",
                good.replace("url", "ulr"),
                &["ulr", "did you mean \"url\"", "repository"],
            ),
            (
                "nested",
                format!("{good}[cluster.main.wal]\nship_intervall = \"1s\"\n"),
                &["ship_intervall", "ship_interval\"", "cluster.main.wal"],
            ),
            (
                "missing",
                "[cluster.main.postgres]\nhost = \"/x\"\n".to_owned(),
                &["url"],
            ),
            (
                "unit",
                format!("{good}[cluster.main.wal]\nship_interval = 1\n"),
                &["ship_interval"],
            ),
            (
                "password",
                format!("{good}password = \"hunter2\"\n"),
                &["password_file"],
            ),
            ("syntax", "[repository\n".to_owned(), &["line 1"]),
        ];
        for (name, text, words) in cases {
            let path = scratch.write(format!("etc/{name}.toml"), text)?;
            // What only the agent reads stops no restore: it is told, and passed over.
            let is_of_agent = ["nested", "unit"].contains(&name);
            for (program, args, is_passed_over) in [
                (Program::agent(&scratch, &path)?, ["run"].as_slice(), false),
                (Program::agent(&scratch, &path)?, &["init", "--single-host"], false),
                (Program::restore(&scratch, &path)?, &["list"], is_of_agent),
            ] {
                let output = program.run(args).await?;
                assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
                if is_passed_over {
                    assert!(output.stderr.contains(words[0]), "{}", output.stderr);
                    output.assert_refused(KEY, &["restore.key"])?;
                } else {
                    output.assert_refused(USAGE, words)?;
                }
            }
        }
        let absent = scratch.join("etc/absent.toml");
        let output = Program::agent(&scratch, &absent)?.run(&["run"]).await?;
        output.assert_refused(USAGE, &["absent.toml"])
    });
}

#[test]
fn an_unreachable_server_is_said_and_leaves_nothing_half_done() {
    case("unreachable", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        cluster.kill9()?;
        let seawall = Seawall::configure(Seawall::local_config(&scratch, &cluster)?)?;
        let socket = cluster.socket_dir().display().to_string();
        let output = seawall.agent.run(&["init", "--single-host"]).await?;
        output.assert_refused(UNREACHABLE, &[&socket])?;
        // The same installation works as soon as the server does.
        cluster.start().await?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        agent.stop(DEADLINE).await
    });
}

#[test]
fn a_server_without_the_needed_settings_is_told_the_statement_that_fixes_it() {
    case("settings", async |scratch| {
        let cluster = Cluster::builder(15)
            .setting("wal_level", "minimal")
            .setting("max_wal_senders", "0")
            .create(&scratch, "main")
            .await?;
        let seawall = Seawall::configure(Seawall::local_config(&scratch, &cluster)?)?;
        let output = seawall.agent.run(&["init", "--single-host"]).await?;
        output.assert_refused(REFUSED, &["wal_level", "ALTER SYSTEM SET wal_level", "max_wal_senders"])?;
        // The statements that it names are the fix.
        for statement in statements(&output.stderr) {
            cluster.exec(&statement).await?;
        }
        cluster.restart().await?;
        seawall.init().await?;
        Ok(())
    });
}

#[test]
fn a_role_without_privileges_is_told_the_statements_that_grant_them() {
    case("privileges", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        cluster.exec("create role tides login").await?;
        let config = Seawall::local_config(&scratch, &cluster)?.set("cluster.main.postgres.user", "tides")?;
        let seawall = Seawall::configure(config)?;
        let output = seawall.agent.run(&["init", "--single-host"]).await?;
        output.assert_refused(REFUSED, &["tides", "REPLICATION", "ALTER ROLE"])?;
        // It may take a second look, when the first problem hid others.
        for _ in 0..3 {
            let output = seawall.agent.run(&["init", "--single-host"]).await?;
            for statement in statements(&output.stderr) {
                cluster.exec(&statement).await?;
            }
        }
        seawall.init().await?;
        // Least privilege is enough for all of it.
        let agent = seawall.run().await?;
        seawall.backup().await?;
        seawall.agent.run_ok(&["check"]).await?;
        agent.stop(DEADLINE).await
    });
}

/// The SQL in a message: what stands between a verb of SQL and a semicolon.
fn statements(message: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in message.lines() {
        let mut rest = line;
        while let Some(at) = ["ALTER ", "GRANT "].iter().filter_map(|verb| rest.find(verb)).min() {
            let Some(len) = rest[at..].find(';') else {
                break;
            };
            found.push(rest[at..at + len].to_owned());
            rest = &rest[at + len..];
        }
    }
    found
}

#[test]
fn wrong_keys_and_foreign_repositories_are_refused() {
    case("foreign", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        agent.stop(DEADLINE).await?;

        // A second installation, whole in itself, with a repository and keys of its own.
        let other_keys = scratch.dir("other-keys")?.display().to_string();
        let other_repository = format!("file://{}", scratch.join("other-repo").display());
        let config = seawall
            .config
            .clone()
            .set("keys.directory", other_keys.clone())?
            .set("repository.url", other_repository)?
            .set("cluster.main.wal.slot", "another")?;
        Seawall::configure_as(config, "other")?.init().await?;

        // Our repository with their keys.
        let config = seawall.config.clone().set("keys.directory", other_keys)?;
        let foreign = Seawall::configure_as(config, "foreign")?;
        for args in [["run"].as_slice(), &["list"], &["init", "--single-host"]] {
            foreign.agent.run(args).await?.assert_refused(KEY, &["key"])?;
        }
        let target = scratch.join("target").display().to_string();
        let restore = ["--target", "latest", "--pgdata", &target];
        foreign.restore.run(&restore).await?.assert_refused(KEY, &["key"])?;
        assert!(!scratch.join("target").exists());

        // Something that is no repository we know, and nothing at all.
        scratch.write("junk/seawall.json", "{\"format\": 99}")?;
        for (place, code) in [("junk", DAMAGED), ("nothing", UNREACHABLE)] {
            let url = format!("file://{}", scratch.join(place).display());
            let config = seawall.config.clone().set("repository.url", url)?;
            let lost = Seawall::configure_as(config, place)?;
            let output = lost.restore.run(&["list"]).await?;
            output.assert_refused(code, &["repository"])?;
        }
        // Nothing of this has harmed ours.
        seawall.restore_to("mine", &["--target", "latest"]).await?;
        Ok(())
    });
}

#[test]
fn another_cluster_is_never_mixed_into_the_archive_of_the_first() {
    case("other_cluster", async |scratch| {
        let first = Cluster::builder(15).create(&scratch, "main").await?;
        let second = Cluster::builder(15).create(&scratch, "two").await?;
        let seawall = Seawall::local(&scratch, &first).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        agent.stop(DEADLINE).await?;
        let before = seawall.list().await?;
        let kinds = ["wal", "tail", "packs", "backups", "lineages", "intents"];
        let bytes = seawall.stored_bytes(&kinds)?;

        let socket = second.socket_dir().display().to_string();
        let config = seawall
            .config
            .clone()
            .set("cluster.main.postgres.host", socket)?
            .set("cluster.main.postgres.port", i64::from(second.port()))?;
        let wrong = Seawall::configure_as(config, "wrong")?;
        let commands: [(&[&str], &str); 3] = [
            (&["run"], "system identifier"),
            (&["backup"], "another cluster"),
            (&["init", "--single-host"], "system identifier"),
        ];
        for (args, words) in commands {
            let output = wrong.agent.run(args).await?;
            output.assert_refused(REFUSED, &[words])?;
        }
        assert_eq!(seawall.list().await?, before);
        assert_eq!(seawall.stored_bytes(&kinds)?, bytes);
        // Least of all does it take a slot there.
        let slots = "select count(*) from pg_replication_slots";
        assert_eq!(second.query_one(slots).await?, "0");
        fs::metadata(first.data_directory())?;
        Ok(())
    });
}
