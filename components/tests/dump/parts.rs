//! Parts: of a server into a backup, and of a backup into a server, a script or a list.

use std::process::Command;

use components::dump::load::{self, LoadOptions, Target};
use components::dump::{Dump, Selection, Server as Reached, contents, patterns};

use crate::faults::said;
use crate::server::Server;
use crate::stage::Stage;

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose_databases_schemas_and_tables() {
    let stage = Stage::new().await;
    let server = Server::start(15, &stage.path("source"), &[], "");
    for name in ["app_1", "app_2", "app_old"] {
        server.sql("postgres", &format!("create database {name}"));
        server.sql(name, "create schema s; create table s.a as select 1 as i; create table s.b as select 2 as i; create table c as select 3 as i");
    }
    let dump = Dump {
        selection: Selection {
            databases: patterns(&texts(&["app_*"])).unwrap(),
            exclude_databases: patterns(&texts(&["*_old"])).unwrap(),
            schemas: texts(&["s"]),
            exclude_tables: texts(&["*.b"]),
            ..Selection::default()
        },
        globals: false,
        counts_rows: false,
        ..stage.dump(&server)
    };
    let taken = stage.take(&dump).await.unwrap();
    let facts = &taken.component.as_ref().unwrap().facts;
    assert_eq!((facts["databases"].as_str(), facts["tables"].as_str()), ("2", "2"));
    assert_eq!((facts["globals"].as_str(), facts.get("rows")), ("none", None));
    assert_eq!(taken.totals.files, 4);
    let counts = stage.database(&taken, "app_2").await.counts;
    assert_eq!(
        (counts.tables[0].title().as_str(), counts.tables[0].rows),
        ("s.a", None)
    );
    let only = Dump {
        selection: Selection {
            databases: patterns(&texts(&["app_1"])).unwrap(),
            tables: texts(&["public.c"]),
            ..Selection::default()
        },
        ..stage.dump(&server)
    };
    let taken = stage.take(&only).await.unwrap();
    let facts = &taken.component.as_ref().unwrap().facts;
    assert_eq!((facts["tables"].as_str(), facts["rows"].as_str()), ("1", "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dump_holds_is_told_without_fetching_it() {
    let stage = Stage::new().await;
    let server = Server::start(17, &stage.path("source"), &[], "");
    // Rows that no compression makes small: 60 MB.
    server.sql(
        "postgres",
        "create table big as select i, (select string_agg(md5((i * 100 + j)::text), '') from generate_series(1, 30) j) \
         from generate_series(1, 60000) i",
    );
    let taken = stage.take(&stage.dump(&server)).await.unwrap();
    let size = taken.totals.logical_bytes;
    assert!(size > 55_000_000, "{size}");
    let (entry, _) = stage.file(&taken, "postgres.dump").await;
    let stored = stage.stored(&taken);
    let target = stage.target(&server, "postgres").await;
    stage.store.take();
    let lines = contents(&stored, &entry, &target.programs, &target.server)
        .await
        .unwrap();
    let got = stage.store.counts().bytes_got;
    assert!(
        lines
            .iter()
            .any(|line| line.contains(" TABLE DATA public big postgres")),
        "{lines:?}"
    );
    assert!(got < size / 5, "{got} of {size} bytes were fetched");
    println!("contents: {got} bytes were fetched of a dump of {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_and_one_table_come_back_with_all_that_is_theirs() {
    let stage = Stage::new().await;
    let server = Server::start(15, &stage.path("source"), &[], "");
    crate::fill(&server);
    let taken = stage.take(&stage.dump(&server)).await.unwrap();
    let database = stage.database(&taken, "app").await;
    let of_source = server.sql("app", "select sum(id), max(name) from only users");

    // The whole database into another one, beside it; and by several processes.
    for (name, jobs) in [("copy", 1), ("copy_2", 2)] {
        server.sql("postgres", &format!("create database {name}"));
        let target = stage.target(&server, name).await;
        let options = LoadOptions {
            jobs,
            ..stage.options()
        };
        assert_eq!(
            load::one(&target, &database, &options).await.unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(server.sql(name, "select sum(id), max(name) from only users"), of_source);
        let again = said(&load::one(&target, &database, &options).await.unwrap_err());
        assert!(again.contains("tables already") && again.contains("--over"), "{again}");
    }

    // One table, dropped before, beside others that stay.
    let before = server.sql(
        "copy",
        "select string_agg(indexdef, ';' order by indexname) from pg_indexes where tablename = 'users'",
    );
    server.sql("copy", "drop table users cascade; create table other (i int)");
    let target = stage.target(&server, "copy").await;
    let options = LoadOptions {
        tables: texts(&["public.users"]),
        ..stage.options()
    };
    assert_eq!(
        load::one(&target, &database, &options).await.unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(
        server.sql("copy", "select sum(id), max(name) from only users"),
        of_source
    );
    let after = server.sql(
        "copy",
        "select string_agg(indexdef, ';' order by indexname) from pg_indexes where tablename = 'users'",
    );
    assert_eq!(after, before);
    assert_eq!(
        server.sql("copy", "insert into users (name) values ('next') returning id"),
        server.sql("app", "select last_value + 1 from users_id_seq")
    );
    assert_eq!(server.sql("copy", "select polname from pg_policy"), "mine");
    assert_eq!(
        server.sql("copy", "select has_table_privilege('reader', 'users', 'select')"),
        "t"
    );
    assert_eq!(
        server.sql("copy", "select col_description('users'::regclass, 2)"),
        "a; \"name\""
    );
    // It is there now; what is there is replaced only when that is said.
    let again = said(&load::one(&target, &database, &options).await.unwrap_err());
    assert!(again.contains("table public.users is there already"), "{again}");
    let over = LoadOptions {
        over: true,
        ..options.clone()
    };
    assert_eq!(
        load::one(&target, &database, &over).await.unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(
        server.sql("copy", "select sum(id), max(name) from only users"),
        of_source
    );
    let gone = LoadOptions {
        tables: texts(&["public.gone"]),
        ..stage.options()
    };
    let gone = said(&load::one(&target, &database, &gone).await.unwrap_err());
    assert!(gone.contains("no rows of a table \"public.gone\""), "{gone}");

    // As a script.
    let script = stage.path("users.sql");
    load::to_sql(&target, &database, &options, &script).await.unwrap();
    let text = std::fs::read_to_string(&script).unwrap();
    assert!(
        text.contains("COPY public.users ") && !text.contains("COPY public.orders"),
        "{text}"
    );

    // A role that is not there ends it, and nothing stays; without owners it comes.
    let other = Server::start(15, &stage.path("other"), &[], "");
    let target = stage.target(&other, "postgres").await;
    let error = said(&load::one(&target, &database, &stage.options()).await.unwrap_err());
    assert!(error.contains("role \"app\" does not exist"), "{error}");
    assert_eq!(
        other.sql("postgres", "select count(*) from pg_tables where schemaname = 'public'"),
        "0"
    );
    let no_owners = LoadOptions {
        no_owners: true,
        ..stage.options()
    };
    // A policy names no role here, and grants are left out.
    assert_eq!(
        load::one(&target, &database, &no_owners).await.unwrap(),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_missing_after_a_load_are_told() {
    let stage = Stage::new().await;
    let server = Server::start(17, &stage.path("source"), &[], "");
    server.sql("postgres", "create table t as select i from generate_series(1, 10) i");
    let taken = stage.take(&stage.dump(&server)).await.unwrap();
    let mut database = stage.database(&taken, "postgres").await;
    database.counts.tables[0].rows = Some(11);
    server.sql("postgres", "create database copy");
    let target = stage.target(&server, "copy").await;
    let differs = load::one(&target, &database, &stage.options()).await.unwrap();
    assert_eq!(differs, ["public.t: 11 rows were captured, 10 are there"]);
    let of_none = Target {
        server: Reached {
            conninfo: "dbname=gone".into(),
            ..target.server.clone()
        },
        ..target
    };
    let error = said(&load::one(&of_none, &database, &stage.options()).await.unwrap_err());
    assert!(error.contains("database \"gone\" does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_comes_over_tls_and_not_where_the_certificate_is_of_somebody_else() {
    let stage = Stage::new().await;
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl")
            .args(arguments)
            .current_dir(stage.directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    for name in ["right", "wrong"] {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        openssl(&[
            "req",
            "-x509",
            "-days",
            "2",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &certificate,
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]);
    }
    let path = |name: &str| stage.path(name).display().to_string();
    if let Some((uid, gid)) = crate::server::user() {
        std::os::unix::fs::chown(stage.path("right.key"), Some(uid), Some(gid)).unwrap();
    }
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", path("right.crt")),
        format!("ssl_key_file={}", path("right.key")),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::start(
        17,
        &stage.path("source"),
        &settings,
        "hostssl all postgres 127.0.0.1/32 trust",
    );
    let by = |root: &str| Dump {
        server: server.by_tcp(&[
            ("PGUSER", "postgres"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", &path(root)),
        ]),
        ..stage.dump(&server)
    };
    let error = said(&stage.take(&by("wrong.crt")).await.unwrap_err());
    assert!(
        error.contains("certificate verify failed") && error.contains("\"sslrootcert\""),
        "{error}"
    );
    assert!(stage.is_empty().await);
    stage.take(&by("right.crt")).await.unwrap();
}
