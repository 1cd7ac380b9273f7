//! Databases of real servers into a repository and back, exactly; and what goes wrong is never listed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "dump/databases.rs"]
mod databases;
#[path = "dump/faults.rs"]
mod faults;
#[path = "dump/parts.rs"]
mod parts;
#[path = "ports/mod.rs"]
mod ports;
#[path = "dump/server.rs"]
mod server;
mod stage;

use components::Component as _;
use components::dump::load;
use server::Server;
use stage::Stage;

/// A bit of everything.
fn fill(server: &Server) {
    server.sql(
        "postgres",
        "create role app login password 'x'; create role reader; grant reader to app",
    );
    server.sql("postgres", "create database app owner app");
    server.sql("postgres", "create database \"a b/c\"");
    for sql in [
        "create schema \"Odd schema\"",
        "create table users (id serial primary key, name text unique not null check (name <> ''), at timestamptz default now())",
        "insert into users (name) select 'user ' || i from generate_series(1, 5000) i",
        "create table \"Odd schema\".\"t\"\"x\" (i int generated always as identity, doc jsonb)",
        "insert into \"Odd schema\".\"t\"\"x\" (doc) select jsonb_build_object('i', i) from generate_series(1, 100) i",
        "create table orders (user_id int not null references users, day date) partition by range (day)",
        "create table orders_1 partition of orders for values from ('2026-01-01') to ('2026-07-01')",
        "create table orders_2 partition of orders default",
        "insert into orders select i, '2026-01-01'::date + i from generate_series(1, 300) i",
        "create table more (extra int) inherits (users)",
        "insert into more (name, extra) values ('of more', 1)",
        "create view names as select name from only users",
        "create materialized view counted as select count(*) from users",
        "create index on users (lower(name))",
        "create function f() returns trigger language plpgsql as $$ begin return new; end $$",
        "create trigger t before insert on users for each row execute function f()",
        "comment on column users.name is 'a; \"name\"'",
        "grant select on users to reader",
        "alter table users owner to app",
        "alter table users enable row level security",
        "create policy mine on users using (name = current_user)",
        "create unlogged table quick as select 1 as i",
        "select lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'))",
        "alter database app set work_mem = '8MB'",
    ] {
        server.sql("app", sql);
    }
    server.sql("a b/c", "create table t as select i from generate_series(1, 10) i");
}

fn change(server: &Server) {
    server.sql("app", "delete from only users where id > 4990");
    server.sql(
        "app",
        "insert into users (name) values ('new'); refresh materialized view counted",
    );
    server.sql("app", "create table later (i int); select lo_from_bytea(0, 'xyz')");
    server.sql("postgres", "create role late");
}

async fn there_and_back(major: u32) {
    let stage = Stage::new().await;
    let server = Server::start(major, &stage.path("source"), &[], "");
    let dump = stage.dump(&server);
    fill(&server);
    let looked = dump.look().await.unwrap();
    assert_eq!(looked.notes[0], "it holds 3 databases, 3 are dumped");
    let mut seen = vec![server.all_of_it()];
    let mut taken = vec![stage.take(&dump).await.unwrap()];
    change(&server);
    seen.push(server.all_of_it());
    taken.push(stage.take(&dump).await.unwrap());
    assert_eq!(taken[1].parent, Some(taken[0].backup));
    assert_ne!(seen[0], seen[1]);

    for (number, (manifest, seen)) in taken.iter().zip(&seen).enumerate() {
        let component = manifest.component.as_ref().unwrap();
        let facts = &component.facts;
        // users, more, "t""x", both partitions, quick and, later, later; and t.
        assert_eq!(facts["tables"], if number == 0 { "7" } else { "8" }, "{facts:?}");
        let rows = 5000 + 1 + 100 + 300 + 1 + 10;
        assert_eq!(
            facts["rows"],
            if number == 0 { rows } else { rows - 10 + 1 }.to_string()
        );
        assert_eq!(
            (facts["databases"].as_str(), facts["globals"].as_str()),
            ("3", "with passwords")
        );
        assert_eq!(component.version, looked.version);
        // As files, and in a server that is made for it.
        let to = stage.bring_back(manifest, &format!("to{number}")).await;
        assert!(to.join("a%20b%2Fc.dump").exists());
        assert_eq!(dump.compare(facts, &to).await.unwrap(), Vec::<String>::new());
        // From the repository into a server of our own: it says the same of itself.
        let restored = Server::start(major, &stage.path(&format!("restored{number}")), &[], "");
        let target = stage.target(&restored, "postgres").await;
        let globals = stage.globals(manifest).await;
        let mut databases = Vec::new();
        for name in ["a b/c", "app", "postgres"] {
            databases.push(stage.database(manifest, name).await);
        }
        let differs = load::all(&target, Some(&globals), &databases, &stage.options())
            .await
            .unwrap();
        assert_eq!(differs, Vec::<String>::new());
        assert_eq!(restored.all_of_it(), *seen);
        // Once more is refused; over what is there it comes again.
        let again = load::all(&target, Some(&globals), &databases, &stage.options())
            .await
            .unwrap_err();
        assert!(again.to_string().contains("tables already"), "{again}");
        let over = load::LoadOptions {
            over: true,
            ..stage.options()
        };
        restored.sql("app", "insert into more (name) values ('too much')");
        load::all(&target, Some(&globals), &databases, &over).await.unwrap();
        assert_eq!(restored.sql("app", "select count(*) from more"), "1");
    }
    // The facts of one do not fit the files of the other.
    let facts = &taken[0].component.as_ref().unwrap().facts;
    let differs = dump.compare(facts, &stage.path("to1")).await.unwrap();
    assert!(
        differs.iter().any(|line| line.starts_with("rows: 5412 were captured")),
        "{differs:?}"
    );
    // Nor do counts fit that were changed: the server that loads the dump says so.
    let counts = stage.path("to0").join("app.counts.json");
    let text = std::fs::read_to_string(&counts).unwrap();
    let text = text
        .replace("\"rows\": 5000", "\"rows\": 4999")
        .replacen("\"rows\": 1,", "\"rows\": 2,", 1);
    std::fs::write(&counts, text).unwrap();
    let differs = dump.compare(facts, &stage.path("to0")).await.unwrap();
    assert!(
        differs
            .iter()
            .any(|line| line == "app: public.users: 4999 rows were captured, 5000 are there"),
        "{differs:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_15_come_back_exactly() {
    there_and_back(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_17_come_back_exactly() {
    there_and_back(17).await;
}
