use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::*;

const URL: &str = "[repository]\nurl = \"file:///srv/seawall\"\n";

fn read(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seawall.toml");
    std::fs::write(&path, text).unwrap();
    load(&path, env.iter().copied())
}

fn good(text: &str, env: &[(&str, &str)]) -> Config {
    read(&format!("{URL}{text}"), env).unwrap_or_else(|errors| panic!("{errors}"))
}

fn bad(text: &str, env: &[(&str, &str)]) -> String {
    read(&format!("{URL}{text}"), env).unwrap_err().to_string()
}

fn origin(config: &Config, key: &str) -> (String, Origin) {
    let found = config.effective().into_iter().find(|it| it.key == key);
    let found = found.unwrap_or_else(|| panic!("no {key}"));
    (found.value, found.origin)
}

#[test]
fn an_unknown_key_brings_the_nearest_known_one() {
    assert_eq!(
        bad("[cluster.main.wal]\nship_intervall = \"1s\"", &[]),
        "unknown key \"ship_intervall\" in [cluster.main.wal]\nHINT: did you mean \"ship_interval\"?"
    );
    assert_eq!(
        bad("[cluster.main.backup]\nship_interval = \"1s\"", &[]),
        "unknown key \"ship_interval\" in [cluster.main.backup]\n\
         HINT: \"ship_interval\" belongs in [cluster.main.wal]."
    );
    assert_eq!(
        bad("[cluster.main.wall]\nslot = \"a\"", &[]),
        "unknown table [cluster.main.wall]\nHINT: did you mean [cluster.main.wal]?"
    );
    assert!(bad("[clusters.main]", &[]).contains("did you mean [cluster]?"));
    assert!(bad("[log]\nretention = 1", &[]).contains("HINT: Known keys are level, format."));
    assert!(bad("", &[("SEAWALL_LOG_LEVLE", "info")]).contains("did you mean SEAWALL_LOG_LEVEL?"));
}

#[test]
fn several_problems_are_reported_at_once() {
    let text = "[repository]\nurl = 5\n[log]\nlevel = \"loud\"\nfromat = \"json\"\n\
                [cluster.Main.wal]\n[cluster.main.wal]\nslot = \"A-B\"\nuploads_in_flight = 0\n";
    let ConfigErrors(problems) = read(text, &[("SEAWALL_CLUSTER_MAIN_BACKUP_JOBS", "x")]).unwrap_err();
    let messages: Vec<&str> = problems.iter().map(|it| it.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "invalid cluster name \"Main\"",
            "unknown key \"fromat\" in [log]",
            "\"repository.url\" is not a text: 5",
            "\"cluster.main.wal.slot\" is not the name of a replication slot",
            "\"cluster.main.wal.uploads_in_flight\" is out of range: 0",
            "\"cluster.main.backup.jobs\" (from SEAWALL_CLUSTER_MAIN_BACKUP_JOBS) is not a whole number: \"x\"",
            "\"log.level\" is not one of its values: \"loud\"",
        ]
    );
    assert!(problems.iter().all(|problem| problem.hint.is_some()));
}

#[test]
fn a_variable_wins_over_the_file_and_says_so() {
    let config = good(
        "[cluster.main-db.wal]\nship_interval = \"5s\"\nslot = \"mine\"\n",
        &[
            ("SEAWALL_CLUSTER_MAIN_DB_WAL_SHIP_INTERVAL", "500ms"),
            ("SEAWALL_CLUSTER_MAIN_DB_BACKUP_JOBS", "3"),
            ("SEAWALL_CLUSTER_MAIN_DB_BACKUP_LAST_KNOWN_GOOD", "[\"SELECT 1\"]"),
            ("SEAWALL_CLUSTER_OTHER_POSTGRES_PORT", "5433"),
            ("SEAWALL_REPOSITORY_S3_PATH_STYLE", "true"),
            ("SEAWALL_LOG_LEVEL", ""),
            ("SEAWALL_SEED", "not ours"),
        ],
    );
    let main = config.cluster(Some("main-db")).unwrap();
    assert_eq!(main.wal.ship_interval, Duration::from_millis(500));
    assert_eq!(main.backup.jobs, Some(3));
    assert_eq!(main.backup.last_known_good, ["SELECT 1"]);
    assert_eq!(config.clusters["other"].postgres.options["port"], "5433");
    assert!(config.repository.s3.path_style);
    let variable = "SEAWALL_CLUSTER_MAIN_DB_WAL_SHIP_INTERVAL".to_owned();
    assert_eq!(
        origin(&config, "cluster.main-db.wal.ship_interval"),
        ("500ms".to_owned(), Origin::Environment(variable))
    );
    assert_eq!(
        origin(&config, "cluster.main-db.wal.slot"),
        ("mine".to_owned(), Origin::File)
    );
    assert_eq!(origin(&config, "log.level"), ("info".to_owned(), Origin::Default));
}

#[test]
fn two_clusters_with_one_variable_are_told_apart_by_nobody() {
    let text = "[cluster.a-b.wal]\n[cluster.a_b.wal]\n";
    let problems = bad(text, &[("SEAWALL_CLUSTER_A_B_WAL_SLOT", "x")]);
    assert!(problems.contains("could mean cluster \"a-b\" or \"a_b\""), "{problems}");
}

#[test]
fn secrets_are_read_and_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let text = format!(
        "[repository]\nurl = \"s3://bucket/prefix\"\n[cluster.main.postgres]\npassword_file = \"{}\"\n",
        file.display()
    );
    let env = [
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "swordfish"),
        ("AWS_SESSION_TOKEN", "sesame"),
    ];
    let config = read(&text, &env).unwrap();
    let credentials = config.repository.s3.credentials.clone().unwrap();
    assert_eq!(credentials.access_key_id, "AKIA");
    assert_eq!(credentials.secret_access_key.expose(), "swordfish");
    assert_eq!(credentials.session_token.unwrap().expose(), "sesame");
    let password = config.clusters["main"].postgres.password.as_ref().unwrap();
    assert_eq!(password.expose(), "hunter2");
    let printed = format!("{config:?} {:?}", config.effective());
    for secret in ["hunter2", "swordfish", "sesame"] {
        assert!(!printed.contains(secret), "{secret}");
    }
    let variable = Origin::Environment("AWS_SECRET_ACCESS_KEY".to_owned());
    assert_eq!(
        origin(&config, "repository.s3.secret_access_key"),
        ("<redacted>".to_owned(), variable)
    );

    let mixed = format!("{text}[repository.s3]\naccess_key_id = \"OTHER\"\n");
    assert!(
        read(&mixed, &env)
            .unwrap_err()
            .to_string()
            .contains("is not the one in AWS_ACCESS_KEY_ID")
    );
    let half = read(&text, &env[..1]).unwrap_err().to_string();
    assert!(half.contains("secret_access_key_file\" is not set"), "{half}");
    assert!(read(&text, &[]).unwrap().repository.s3.credentials.is_none());
}

#[test]
fn a_literal_secret_is_refused_and_not_repeated() {
    let text = "[repository.s3]\nsecret_access_key = \"hunter2\"\n\
                secret_access_key_file = \"hunter2\"\n[cluster.main.postgres]\npassword = \"hunter2\"\n";
    let problems = bad(text, &[("SEAWALL_CLUSTER_MAIN_POSTGRES_PASSWORD", "hunter2")]);
    assert!(!problems.contains("hunter2"), "{problems}");
    assert!(
        problems.contains("\"repository.s3.secret_access_key\" is not accepted"),
        "{problems}"
    );
    assert!(
        problems.contains("\"cluster.main.postgres.password\" is not accepted"),
        "{problems}"
    );
    assert!(
        problems.contains("\"SEAWALL_CLUSTER_MAIN_POSTGRES_PASSWORD\" is not accepted"),
        "{problems}"
    );
    for word in ["secret_access_key_file", "password_file", "passfile", ".pgpass"] {
        assert!(problems.contains(word), "{word}: {problems}");
    }
}

#[test]
fn a_bad_or_missing_url_is_refused_and_not_repeated() {
    let none = read("", &[]).unwrap_err().to_string();
    assert!(
        none.starts_with("\"repository.url\" is not set\nHINT: Write \"file:///"),
        "{none}"
    );
    let url = "[repository]\nurl = \"s3://id:hunter2@bucket\"\n";
    let wrong = read(url, &[]).unwrap_err().to_string();
    assert!(
        wrong.starts_with("\"repository.url\" is not the URL of a repository"),
        "{wrong}"
    );
    assert!(!wrong.contains("hunter2"), "{wrong}");
}

#[test]
fn numbers_without_a_unit_and_values_out_of_bounds_are_refused() {
    for (line, word) in [
        ("ship_interval = 1", "with its unit: ms, s"),
        ("ship_interval = \"1\"", "with its unit: ms, s"),
        ("ship_interval = \"2h\"", "Use 0s to 1h."),
        ("tail_bytes_max = 1048576", "with its unit: KiB"),
        ("tail_bytes_max = \"32MiB\"", "Use 64KiB to 16MiB."),
        (
            "memory_max = \"16MiB\"\ntail_bytes_max = \"16MiB\"",
            "twice \"tail_bytes_max\"",
        ),
        ("on_unknown_history = \"guess\"", "Use new-lineage, stop."),
    ] {
        let problems = bad(&format!("[cluster.main.wal]\n{line}\n"), &[]);
        assert!(problems.contains(word), "{line}: {problems}");
    }
    let config = good("[cluster.main.wal]\nship_interval = \"0s\"\n", &[]);
    assert_eq!(config.clusters["main"].wal.ship_interval, Duration::ZERO);
    assert!(bad("[keys]\ndirectory = \"keys\"\n", &[]).contains("is not an absolute path"));
}

#[test]
fn several_servers_have_a_port_each_or_one_for_all() {
    let options = |text: &str| {
        let config = good(&format!("[cluster.main.postgres]\n{text}\n"), &[]);
        let env = |name: &str| (name == "PGUSER").then(|| "u".to_owned());
        let options = open::connect_options(&config.clusters["main"].postgres, &env, None).unwrap();
        let servers = options.servers.iter().map(ToString::to_string);
        (servers.collect::<Vec<_>>(), options.target_session_attrs.as_str())
    };
    let two = "host = \"a,b\"\ntarget_session_attrs = \"primary\"";
    for (port, a, b) in [
        ("5432", "a:5432", "b:5432"),
        ("\"5433\"", "a:5433", "b:5433"),
        ("\"1, 2\"", "a:1", "b:2"),
    ] {
        let read = options(&format!("{two}\nport = {port}"));
        assert_eq!(read, (vec![a.to_owned(), b.to_owned()], "primary"), "{port}");
    }
    for (lines, words) in [
        ("port = 0", "is not a port: 0"),
        ("port = 65536", "is not a port: 65536"),
        ("port = \"5432;5433\"", "is not a port: \"5432;5433\""),
        ("port = true", "is not a text"),
        (
            "host = \"a\"\nport = \"1,2\"",
            "port\" does not fit: 2 ports for 1 hosts\nHINT: Name one port",
        ),
        ("host = \"a,,b\"\nport = 1", "host\" does not fit: invalid value"),
        (
            "hostaddr = \"10.0.0.1\"",
            "hostaddr\" is not supported\nHINT: Write the IP address in \"host\"",
        ),
        ("load_balance_hosts = \"random\"", "HINT: Leave it out"),
        (
            "target_session_attrs = \"master\"",
            "Use any, read-write, read-only, primary,",
        ),
        (
            "sslmode = \"allow\"",
            "Use disable, prefer, require, verify-ca, verify-full.",
        ),
        ("channel_binding = \"on\"", "Use disable, prefer, require."),
        ("sslkey = \"client.key\"", "is not an absolute path"),
    ] {
        let problems = bad(&format!("[cluster.main.postgres]\n{lines}\n"), &[]);
        assert!(problems.contains(words), "{lines}: {problems}");
    }
}

#[test]
fn the_target_is_left_to_the_environment_when_nobody_sets_it() {
    let env = |name: &str| {
        let value = match name {
            "PGUSER" => "u",
            "PGTARGETSESSIONATTRS" => "standby",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let target = |text: &str| {
        let config = good(&format!("[cluster.main.postgres]\n{text}\n"), &[]);
        let options = open::connect_options(&config.clusters["main"].postgres, &env, None).unwrap();
        options.target_session_attrs.as_str()
    };
    assert_eq!(target(""), "standby");
    assert_eq!(target("target_session_attrs = \"any\""), "any");
}

#[test]
fn a_restore_needs_no_password_of_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seawall.toml");
    let text = format!("{URL}[cluster.main.postgres]\npassword_file = \"/does/not/exist\"\n");
    std::fs::write(&path, text).unwrap();
    let none = BTreeMap::<String, String>::new();
    let errors = load(&path, none.clone()).unwrap_err().to_string();
    assert!(errors.contains("could not read file \"/does/not/exist\""), "{errors}");
    let config = load_for_restore(&path, none).unwrap();
    assert!(config.clusters["main"].postgres.password.is_none());
}

#[test]
fn a_mistake_in_what_only_the_agent_reads_stops_no_restore() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seawall.toml");
    let read = |tables: &str| {
        std::fs::write(&path, format!("{URL}{tables}")).unwrap();
        let none = BTreeMap::<String, String>::new();
        assert!(load(&path, none.clone()).is_err());
        load_for_restore(&path, none)
    };
    let tables = "[cluster.main.retention]\nkeep_dayly = 7\nwindow = \"soon\"\n[cluster.main.schedule]\nbackup = \"x\"\n[notify.me]\n";
    let passed_over = read(tables).unwrap().passed_over;
    assert_eq!(passed_over.len(), 4, "{passed_over:?}");
    for tables in [
        "[cluster.main.restore]\njobs = \"x\"",
        "[keys]\nrestore = 1",
        "[cluster.main.postgres]\nhosts = 1",
    ] {
        read(tables).unwrap_err();
    }
}

#[test]
fn defaults_follow_from_other_keys() {
    let config = good(
        "[repository.s3]\nendpoint = \"http://127.0.0.1:8333\"\n[keys]\ndirectory = \"/k\"\n",
        &[],
    );
    assert!(config.repository.s3.path_style);
    assert_eq!(config.keys.host_key, Path::new("/k/host.key"));
    assert_eq!(
        origin(&config, "keys.host_key"),
        ("/k/host.key".to_owned(), Origin::Default)
    );
    assert!(!good("", &[]).repository.s3.path_style);
}

#[test]
fn the_file_is_named_by_a_variable_or_has_its_place() {
    let none = BTreeMap::<String, String>::new();
    assert_eq!(default_path(none), Path::new(DEFAULT_PATH));
    assert_eq!(default_path([("SEAWALL_CONFIG", "/x.toml")]), Path::new("/x.toml"));
    let errors = load(Path::new("/does/not/exist"), [("A", "b")]).unwrap_err();
    assert!(errors.to_string().starts_with("could not read configuration file"));
}

/// All documents of the project, by their path.
fn documents(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_piece_of_configuration_in_the_documents_is_accepted() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![project.join("README.md")];
    documents(&project.join("docs"), &mut found);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("seawall.toml");
    let mut pieces = 0;
    for document in found {
        let text = std::fs::read_to_string(&document).unwrap();
        for piece in text.split("```toml\n").skip(1) {
            let piece = piece.split("```").next().unwrap();
            // A piece begins with a table, or is of the server's; what it lacks to be whole is added.
            let mut whole = match piece.trim_start().starts_with(['[', '#']) {
                true => piece.to_owned(),
                false => format!("[cluster.main.postgres]\n{piece}"),
            };
            if !whole.contains("[repository]") {
                whole = format!("{whole}\n{URL}");
            }
            if !whole.contains("[cluster.") {
                whole = format!("{whole}\n[cluster.main.postgres]\n");
            }
            std::fs::write(&file, &whole).unwrap();
            let read = load_for_restore(&file, [("A", "b")]);
            let read = read.unwrap_or_else(|errors| panic!("{}:\n{whole}\n{errors}", document.display()));
            assert!(
                read.passed_over.is_empty(),
                "{}:\n{whole}\n{:?}",
                document.display(),
                read.passed_over
            );
            pieces += 1;
        }
    }
    assert!(pieces >= 10, "{pieces}");
}

#[test]
fn a_component_has_the_keys_of_its_kind_and_a_group_names_what_is_there() {
    let cluster = "[cluster.main.wal]\n[component.c]\nkind = \"redis\"\n";
    let files = "[component.f]\nkind = \"files\"\npaths = [\"/srv\"]\n";
    let config = good(
        &format!(
            "{cluster}sentinels = [\"a\", \"b:1\"]\nmaster = \"m\"\n{files}[group.g]\ncomponents = [\"f\", \"c\"]"
        ),
        &[],
    );
    assert_eq!(config.groups["g"].components, ["f", "c"]);
    let ComponentKind::Redis(redis) = &config.components["c"].kind else {
        panic!("{:?}", config.components["c"]);
    };
    let RedisServers::Sentinels { addresses, master, .. } = &redis.servers else {
        panic!("{redis:?}");
    };
    let tcp = |host: &str, port| RedisAddress::Tcp(host.into(), port);
    assert_eq!(
        (addresses.as_slice(), master.as_str()),
        ([tcp("a", 26379), tcp("b", 1)].as_slice(), "m")
    );

    for (text, said) in [
        ("", "\"component.c.address\" is not set"),
        ("address = \"redis://a\"", "which is no address"),
        ("address = \"a\"\nsentinels = [\"b\"]", "is set beside \"sentinels\""),
        (
            "address = \"a\"\nmaster = \"m\"",
            "\"component.c.master\" is for sentinels",
        ),
        ("sentinels = [\"b\"]", "\"component.c.master\" is not set"),
        ("address = \"a\"\nca_file = \"/ca\"", "is set, and \"tls\" is not"),
        (
            "address = \"a\"\ntls = true\ncert_file = \"/c\"",
            "without \"key_file\"",
        ),
        ("address = \"a\"\nuser = \"u\"", "has no password"),
        ("address = \"a\"\npassword = \"secret\"", "password_file"),
        (
            "address = \"a\"\nexclude = [\"x\"]",
            "belongs to a component of another kind",
        ),
        ("address = \"a\"\n[group.g]\ncomponents = []", "names nothing"),
        (
            "address = \"a\"\n[group.g]\ncomponents = [\"c\", \"d\"]",
            "names \"d\", which is not in the configuration",
        ),
        (
            "address = \"a\"\n[group.g]\ncomponents = [\"c\", \"c\"]",
            "names \"c\" twice",
        ),
    ] {
        let errors = bad(&format!("{cluster}{text}"), &[]);
        assert!(
            errors.contains(said) && !errors.contains("secret\""),
            "{text}: {errors}"
        );
    }
    let two = format!(
        "{cluster}address = \"a\"\ncluster = \"main\"\n[cluster.other.wal]\n[group.g]\ncluster = \"other\"\ncomponents = [\"c\"]"
    );
    assert!(bad(&two, &[]).contains("which belongs to cluster \"main\""));
}
