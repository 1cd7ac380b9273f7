//! Logical dumps from the configuration to the repository and back: into files, a pipe, a script and a server; of all, one database, one table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tests::case::case;
use tests::install::pg_bin;
use tests::seawall::{json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, user};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 3;

struct Stage {
    cluster: Cluster,
    seawall: Seawall,
    bin: PathBuf,
}

impl Stage {
    /// A cluster with a database, whose dumps are a component.
    async fn new(scratch: &Scratch) -> Result<Stage> {
        let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
        cluster
            .exec("create role app; create table of_postgres as select 1 as i")
            .await?;
        cluster.exec("create database app owner app").await?;
        let stage = Stage {
            bin: pg_bin(15)?,
            seawall: Seawall::configure(
                Seawall::local_config(scratch, &cluster)?
                    .set("component.dumps.kind", "postgres-dump")?
                    .set("component.dumps.bin_directory", pg_bin(15)?.display().to_string())?,
            )?,
            cluster,
        };
        stage
            .sql("app", "create table users (id serial primary key, name text)")
            .await?;
        stage
            .sql(
                "app",
                "insert into users (name) select 'user ' || i from generate_series(1, 1000) i",
            )
            .await?;
        stage
            .sql("app", "create table orders as select i from generate_series(1, 500) i")
            .await?;
        stage.seawall.init().await?;
        Ok(stage)
    }

    async fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let client = self.cluster.connect_to(database).await?;
        let rows = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
        let first = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(first.unwrap_or_default())
    }

    fn conninfo(&self, database: &str) -> String {
        let (host, port) = (self.cluster.socket_dir().display(), self.cluster.port());
        format!("host={host} port={port} user=postgres dbname={database}")
    }
}

#[test]
fn databases_are_dumped_and_come_back_where_they_are_wanted() {
    case("dump", async |scratch| {
        let stage = Stage::new(&scratch).await?;
        let (agent, restore) = (&stage.seawall.agent, &stage.seawall.restore);
        let looked = agent.run(&["check", "--json"]).await?.json()?;
        let area = json_array(&looked, "areas")?
            .iter()
            .find(|area| area["area"] == "component dumps");
        let state = json_str(area.context("no area for the component")?, "state")?;
        assert!(
            state.contains("postgres-dump, 15.") && state.contains("2 databases, 2 are dumped"),
            "{state}"
        );

        let report = agent.run_ok(&["backup", "dumps", "--json"]).await?.json()?;
        let taken = json_array(&report, "backups")?[0].clone();
        assert_eq!(json_u64(&taken, "files")?, 5);
        assert_eq!(taken["facts"]["rows"], "1501");
        let then = stage.cluster.dump_all().await?;

        // As files, held against the facts.
        let to = scratch.join("files").display().to_string();
        let report = restore
            .run_ok(&["component", "dumps", "--json", "--to", &to])
            .await?
            .json()?;
        assert_eq!(report["differs"], serde_json::json!([]), "{report}");
        // What is in one.
        let contents = restore
            .run_ok(&["component", "dumps", "--contents", "app.dump"])
            .await?
            .stdout;
        assert!(contents.contains("TABLE DATA public users postgres"), "{contents}");
        let gone = restore.run(&["component", "dumps", "--contents", "gone.dump"]).await?;
        gone.assert_refused(REFUSED, &["no file \"gone.dump\""])?;

        // By a pipe.
        stage.cluster.exec("create database by_pipe").await?;
        let mut piped = user::command("sh");
        let script = format!(
            "'{}' --config '{}' component dumps --cat app.dump | '{}/pg_restore' --exit-on-error --dbname '{}'",
            restore.path().display(),
            restore.config().display(),
            stage.bin.display(),
            stage.conninfo("by_pipe")
        );
        piped.args(["-c", &script]);
        user::run(piped, DEADLINE).await?;
        assert_eq!(stage.sql("by_pipe", "select count(*) from users").await?, "1000");

        // As a script, of one table.
        let users = ["component", "dumps", "--database", "app", "--table", "public.users"];
        let script = restore.run_ok(&[&users[..], &["--to-sql", "-"]].concat()).await?.stdout;
        assert!(
            script.contains("COPY public.users") && !script.contains("public.orders"),
            "{script}"
        );

        // One table into a server, with what is its own; not where it is already.
        stage.cluster.exec("create database one_table").await?;
        let into = stage.conninfo("one_table");
        let one = [&users[..], &["--into", &into, "--json"]].concat();
        let report = restore.run_ok(&one).await?.json()?;
        assert_eq!((json_u64(&report, "rows")?, json_u64(&report, "tables")?), (1000, 1));
        assert_eq!(
            stage
                .sql("one_table", "insert into users (name) values ('x') returning id")
                .await?,
            "1001"
        );
        restore
            .run(&one)
            .await?
            .assert_refused(REFUSED, &["public.users is there already"])?;
        let over = restore.run_ok(&[&one[..], &["--over"]].concat()).await?;
        assert!(over.stdout.contains("\"differs\": []"), "{}", over.stdout);

        // All of it over what is there, and into a new server.
        let all = ["component", "dumps", "--into", &stage.conninfo("postgres")];
        restore
            .run(&all)
            .await?
            .assert_refused(REFUSED, &["tables already", "--over"])?;
        let fresh = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "fresh")
            .await?;
        let into = format!(
            "host={} port={} user=postgres",
            fresh.socket_dir().display(),
            fresh.port()
        );
        let loaded = restore.run_ok(&["component", "dumps", "--into", &into]).await?;
        assert!(
            loaded
                .stdout
                .contains("1501 rows, as many in each table as were captured"),
            "{}",
            loaded.stdout
        );
        assert_eq!(fresh.dump_all().await?, then);

        // What makes no sense.
        let secret = ["component", "dumps", "--into", "postgresql://app:hush@127.0.0.1/app"];
        let refused = restore.run(&secret).await?;
        refused.assert_refused(USAGE, &["--into holds a password"])?;
        assert!(!refused.stderr.contains("hush"));
        let named = format!("{into} dbname=postgres");
        let none = ["component", "dumps", "--database", "gone", "--into", &named];
        let unnamed = ["component", "dumps", "--database", "app", "--into", &into];
        let refused = restore.run(&unnamed).await?;
        refused.assert_refused(USAGE, &["names no database"])?;
        restore
            .run(&none)
            .await?
            .assert_refused(REFUSED, &["no dump of a database \"gone\"", "app, postgres"])?;
        let nowhere = ["component", "dumps", "--database", "app"];
        restore
            .run(&nowhere)
            .await?
            .assert_refused(USAGE, &["--into CONNINFO"])?;
        Ok(())
    });
}

#[test]
fn what_was_loaded_and_is_not_what_was_dumped_is_told_by_the_exit_code() {
    case("dump_differs", async |scratch| {
        let stage = Stage::new(&scratch).await?;
        let (agent, restore) = (&stage.seawall.agent, &stage.seawall.restore);
        agent.run_ok(&["backup", "dumps"]).await?;
        // A trigger of the target's swallows a row.
        stage.cluster.exec("create database odd").await?;
        stage
            .sql(
                "odd",
                "create function less() returns trigger language plpgsql as $$ begin \
                 if new.name = 'user 7' then return null; end if; return new; end $$; \
                 create function watch() returns event_trigger language plpgsql as $$ begin \
                 if to_regclass('public.users') is not null and not exists (select from pg_trigger where tgname = 'less') then \
                 execute 'create trigger less before insert on public.users for each row execute function public.less()'; \
                 end if; end $$; \
                 create event trigger watch on ddl_command_end when tag in ('CREATE TABLE') execute function watch()",
            )
            .await?;
        let into = stage.conninfo("odd");
        let odd = restore
            .run(&["component", "dumps", "--database", "app", "--into", &into])
            .await?;
        assert_eq!(odd.code(), FAILED, "{}{}", odd.stdout, odd.stderr);
        assert!(
            odd.stderr
                .contains("public.users: 1000 rows were captured, 999 are there"),
            "{}",
            odd.stderr
        );

        // A server that is away.
        let away = restore
            .run(&[
                "component",
                "dumps",
                "--database",
                "app",
                "--into",
                "host=/nowhere dbname=app",
            ])
            .await?;
        assert_eq!(away.code(), FAILED, "{}", away.stderr);
        assert!(away.stderr.contains("See that the server runs"), "{}", away.stderr);
        Ok(())
    });
}
