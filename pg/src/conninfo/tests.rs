//! Tests of the connection settings.

use super::*;

fn options(keys: &[(&str, &str)], env: &[(&str, &str)]) -> Result<ConnectOptions, ConninfoError> {
    let own = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let env = own(env);
    ConnectOptions::from_keys(&own(keys), &|name| env.get(name).cloned(), Some(PASSFILE))
}

const PASSFILE: &str = "\
# comment:5432:*:*:no
db1:5432:app:alice:first
*:5432:replication:seawall:repl
localhost:*:*:bob:local\r
/run/my sock:*:*:bob:by-dir
db\\:x:*:*:*:a\\:b\\\\c
short:line
";

fn found(host: &str, port: u16, db: &str, user: &str) -> Option<String> {
    passfile_lookup(PASSFILE, host, port, db, user).map(|p| p.expose().to_owned())
}

#[test]
fn the_first_matching_line_of_the_password_file_counts() {
    assert_eq!(found("db1", 5432, "app", "alice").as_deref(), Some("first"));
    assert_eq!(found("db1", 5433, "app", "alice"), None);
    assert_eq!(found("db1", 5432, "apple", "alice"), None);
    assert_eq!(found("localhost", 1, "x", "bob").as_deref(), Some("local"));
    assert_eq!(found("db:x", 1, "x", "y").as_deref(), Some("a:b\\c"));
    assert_eq!(found("# comment", 5432, "x", "y"), None);
}

#[test]
fn keys_win_over_the_environment_and_both_over_defaults() {
    let opts = options(
        &[
            ("host", "a, b,/run/pg"),
            ("user", "seawall"),
            ("sslmode", "verify-full"),
        ],
        &[
            ("PGHOST", "ignored"),
            ("PGPORT", "6000"),
            ("PGAPPNAME", "one"),
            ("PGDATABASE", "d"),
        ],
    )
    .unwrap();
    let tcp = |name: &str| Host::Tcp(name.to_owned());
    assert_eq!(opts.host, [tcp("a"), tcp("b"), Host::Unix("/run/pg".into())]);
    assert_eq!((opts.port, opts.sslmode), (6000, SslMode::VerifyFull));
    assert_eq!(
        (opts.application_name.as_str(), opts.dbname.as_deref()),
        ("one", Some("d"))
    );
    assert_eq!(opts.connect_timeout, DEFAULT_CONNECT_TIMEOUT);
}

#[test]
fn defaults_are_those_of_a_local_server() {
    let opts = options(&[("host", "")], &[("USER", "bob")]).unwrap();
    assert_eq!(opts.host.len(), DEFAULT_SOCKET_DIRECTORIES.len());
    assert_eq!((opts.port, opts.user.as_str()), (5432, "bob"));
    assert_eq!(opts.sslmode, SslMode::Prefer);
    assert_eq!(opts.password.unwrap().expose(), "local");
    assert_eq!(options(&[], &[]).unwrap_err(), ConninfoError::NoUser);
}

#[test]
fn a_replication_line_of_the_password_file_is_found() {
    let opts = options(&[("host", "other"), ("user", "seawall")], &[]).unwrap();
    assert_eq!(opts.password.unwrap().expose(), "repl");
}

#[test]
fn another_socket_directory_is_looked_up_by_its_path() {
    let opts = options(&[("host", "/run/my sock"), ("user", "bob")], &[]).unwrap();
    assert_eq!(opts.password.unwrap().expose(), "by-dir");
}

#[test]
fn bad_values_name_their_key() {
    let user = ("user", "u");
    let unknown = options(&[user, ("hots", "x")], &[]).unwrap_err();
    assert_eq!(unknown, ConninfoError::UnknownKey { key: "hots".to_owned() });
    for (key, value) in [
        ("host", "a,,b"),
        ("host", "@abstract"),
        ("port", "0"),
        ("port", "5432,5433"),
        ("port", "65536"),
        ("sslmode", "allow"),
        ("connect_timeout", "soon"),
    ] {
        let error = options(&[user, (key, value)], &[]).unwrap_err();
        assert!(
            matches!(error, ConninfoError::InvalidValue { key: k, .. } if k == key),
            "{key}"
        );
    }
}

#[test]
fn a_password_is_never_printed() {
    let opts = options(&[("user", "u"), ("password", "hunter2")], &[]).unwrap();
    let shown = format!("{opts:?}");
    assert!(shown.contains("<redacted>") && !shown.contains("hunter2"), "{shown}");
}
