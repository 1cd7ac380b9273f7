//! What goes wrong: each is an error that says what to do, and nothing is listed.

use std::time::Duration;

use components::dump::{Dump, Places, Selection, Server as Reached, patterns};
use components::{Component as _, ComponentError};
use store::object::Secret;
use store::pipeline::{Pace, PaceLimits};

use crate::server::{Server, bin};
use crate::stage::Stage;

/// The error and its hint.
pub fn said(error: &ComponentError) -> String {
    format!("{error} HINT: {}", error.hint().unwrap_or_default())
}

async fn refused(stage: &Stage, dump: &Dump, words: &[&str]) {
    let error = said(&stage.take(dump).await.unwrap_err());
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(stage.is_empty().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_server_does_not_let_in_or_what_does_not_fit_is_told() {
    let stage = Stage::new().await;
    let access = "host all app 127.0.0.1/32 scram-sha-256\nhost all reader 127.0.0.1/32 trust";
    let server = Server::start(17, &stage.path("source"), &[], access);
    server.sql(
        "postgres",
        "create role app login password 'right'; create role reader login; create table t as select 1 as i",
    );
    let dump = stage.dump(&server);
    let with = |server: Reached| Dump { server, ..dump.clone() };

    let mut wrong = server.by_tcp(&[("PGUSER", "app")]);
    wrong.password = Some(Secret::new("wr0ng"));
    refused(
        &stage,
        &with(wrong.clone()),
        &["password authentication failed", "\"password_file\""],
    )
    .await;
    assert!(!format!("{wrong:?}").contains("wr0ng"));
    refused(
        &stage,
        &with(server.by_tcp(&[("PGUSER", "app")])),
        &["no password supplied"],
    )
    .await;
    refused(
        &stage,
        &with(server.by_tcp(&[("PGUSER", "postgres")])),
        &["no pg_hba.conf entry", "Let the role in"],
    )
    .await;
    let strict = server.by_tcp(&[("PGUSER", "reader"), ("PGSSLMODE", "require")]);
    refused(&stage, &with(strict), &["does not support SSL", "\"sslmode\""]).await;
    // It may connect, and not read.
    let reader = server.by_tcp(&[("PGUSER", "reader")]);
    refused(
        &stage,
        &with(reader.clone()),
        &["permission denied", "pg_read_all_data"],
    )
    .await;

    // With the right to read its tables and nothing more, as on a managed server: all but the passwords.
    server.sql("postgres", "grant select on t to reader");
    let managed = stage.take(&with(reader)).await.unwrap();
    let facts = &managed.component.as_ref().unwrap().facts;
    assert_eq!(
        (facts["globals"].as_str(), facts["rows"].as_str()),
        ("without passwords", "1")
    );
    let (_, globals) = stage.file(&managed, "globals.sql").await;
    let globals = String::from_utf8(globals).unwrap();
    assert!(
        globals.contains("CREATE ROLE app") && !globals.contains("SCRAM-SHA-256"),
        "{globals}"
    );
    let mut right = server.by_tcp(&[("PGUSER", "app")]);
    right.password = Some(Secret::new("right"));
    server.sql("postgres", "grant pg_read_all_data to app");
    let reads_all = stage.take(&with(right)).await.unwrap();
    assert_eq!(reads_all.component.as_ref().unwrap().facts["globals"], "with passwords");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_too_old_or_away_and_databases_that_are_not_there_are_refused() {
    let stage = Stage::new().await;
    let mut server = Server::start(17, &stage.path("source"), &[], "");
    let dump = stage.dump(&server);
    let at = |directory: std::path::PathBuf| Dump {
        places: Places {
            directory: Some(directory),
            path: Vec::new(),
        },
        ..dump.clone()
    };
    refused(
        &stage,
        &at(bin(15)),
        &[
            "pg_dump 15",
            "is older than PostgreSQL 17",
            "Install the client programs",
        ],
    )
    .await;
    let away = at("/nowhere".into());
    refused(
        &stage,
        &away,
        &["no pg_dump, pg_restore and psql in \"/nowhere\"", "bin_directory"],
    )
    .await;
    // Of several the oldest that will do, wherever it stands.
    let several = Places {
        directory: None,
        path: vec![bin(18), bin(17), bin(15)],
    };
    assert_eq!(several.for_major(17).await.unwrap().directory, bin(17));

    let selected = |databases: &[&str]| {
        let texts: Vec<String> = databases.iter().map(|text| (*text).to_owned()).collect();
        Dump {
            selection: Selection {
                databases: patterns(&texts).unwrap(),
                ..Selection::default()
            },
            ..dump.clone()
        }
    };
    refused(
        &stage,
        &selected(&["post*", "gone"]),
        &["no database fits \"gone\"", "The server has: postgres."],
    )
    .await;
    let no_table = Dump {
        selection: Selection {
            tables: vec!["public.gone".into()],
            ..Selection::default()
        },
        ..dump.clone()
    };
    refused(
        &stage,
        &no_table,
        &["no matching tables", "fits nothing in this database"],
    )
    .await;
    assert!(patterns(&["a[".into()]).is_err());

    server.kill();
    refused(&stage, &dump, &["Connection refused", "See that the server runs"]).await;
    assert!(dump.look().await.is_err());
}

/// Slow enough that something can happen meanwhile: 20 s at least.
fn slowly() -> Pace {
    Pace::new(PaceLimits {
        bytes_per_second: Some(1 << 20),
        nice: 0,
    })
}

/// While rows are on their way.
async fn wait_for_rows(server: &Server) {
    let copying = "select count(*) from pg_stat_activity where query like 'COPY %' and state = 'active'";
    while server.sql("postgres", copying) == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn broken(what_happens: fn(&mut Server)) {
    let stage = Stage::new().await;
    let mut server = Server::start(15, &stage.path("source"), &[], "");
    server.sql(
        "postgres",
        "create table big as select i, repeat(md5(i::text), 32) from generate_series(1, 20000) i",
    );
    let dump = stage.dump(&server);
    let happening = async {
        wait_for_rows(&server).await;
        what_happens(&mut server);
    };
    let (taken, ()) = tokio::join!(Box::pin(stage.take_at(&dump, slowly())), happening);
    let error = said(&taken.unwrap_err());
    assert!(error.contains("See that the server runs"), "{error}");
    assert!(stage.is_empty().await);
}

fn end_the_dump(server: &mut Server) {
    let end =
        "select pg_terminate_backend(pid) from pg_stat_activity where query like 'COPY %' and pid <> pg_backend_pid()";
    server.sql("postgres", end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_leaves_nothing() {
    broken(Server::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_fails_half_way_leaves_nothing() {
    broken(end_the_dump).await;
}
