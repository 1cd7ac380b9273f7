//! Tests of the connection settings.

use super::*;

fn options(keys: &[(&str, &str)], env: &[(&str, &str)]) -> Result<ConnectOptions, ConninfoError> {
    let own = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let env = own(env);
    ConnectOptions::from_keys(&own(keys), &|name| env.get(name).cloned(), Some(PASSFILE))
}

fn places(options: &ConnectOptions) -> Vec<String> {
    options.servers.iter().map(ToString::to_string).collect()
}

fn passwords(options: &ConnectOptions) -> Vec<Option<&str>> {
    options
        .servers
        .iter()
        .map(|server| server.password.as_ref().map(Password::expose))
        .collect()
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
    assert_eq!(places(&opts), ["a:6000", "b:6000", "/run/pg/.s.PGSQL.6000"]);
    assert_eq!(opts.servers[2].host, Host::Unix("/run/pg".into()));
    assert_eq!(opts.sslmode, SslMode::VerifyFull);
    assert_eq!(
        (opts.application_name.as_str(), opts.dbname.as_deref()),
        ("one", Some("d"))
    );
    assert_eq!(opts.connect_timeout, DEFAULT_CONNECT_TIMEOUT);
}

#[test]
fn defaults_are_those_of_a_local_server() {
    let opts = options(&[("host", "")], &[("USER", "bob")]).unwrap();
    assert_eq!(
        places(&opts),
        ["/var/run/postgresql/.s.PGSQL.5432", "/tmp/.s.PGSQL.5432"]
    );
    assert_eq!((opts.user.as_str(), opts.sslmode), ("bob", SslMode::Prefer));
    assert_eq!(opts.channel_binding, ChannelBinding::Prefer);
    assert_eq!(opts.target_session_attrs, TargetSessionAttrs::Any);
    assert_eq!((opts.sslrootcert.as_ref(), opts.client_cert.as_ref()), (None, None));
    assert_eq!(passwords(&opts), [Some("local"); 2]);
    assert_eq!(options(&[], &[]).unwrap_err(), ConninfoError::NoUser);
}

#[test]
fn a_replication_line_of_the_password_file_is_found() {
    let opts = options(&[("host", "other"), ("user", "seawall")], &[]).unwrap();
    assert_eq!(passwords(&opts), [Some("repl")]);
}

#[test]
fn another_socket_directory_is_looked_up_by_its_path() {
    let opts = options(&[("host", "/run/my sock"), ("user", "bob")], &[]).unwrap();
    assert_eq!(passwords(&opts), [Some("by-dir")]);
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
        ("port", "5432,x"),
        ("port", "65536"),
        ("sslmode", "allow"),
        ("channel_binding", "yes"),
        ("target_session_attrs", "master"),
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
fn each_host_has_its_port_or_all_have_one() {
    let list = |host, port| options(&[("user", "u"), ("host", host), ("port", port)], &[]);
    let opts = list("a, ::1,/run/pg,10.0.0.1", "5432, 6000,,7000").unwrap();
    assert_eq!(
        places(&opts),
        ["a:5432", "[::1]:6000", "/run/pg/.s.PGSQL.5432", "10.0.0.1:7000"]
    );
    assert_eq!(places(&list("a,b", "7000").unwrap()), ["a:7000", "b:7000"]);
    for (host, port, ports, hosts) in [("a", "1,2", 2, 1), ("a,b,c", "1,2", 2, 3), ("", "1,2,3", 3, 2)] {
        let error = list(host, port).unwrap_err();
        assert_eq!(error, ConninfoError::PortCount { ports, hosts }, "{host} {port}");
    }
    let mut pinned = opts.servers[0].clone();
    pinned.ip = Some([10, 0, 0, 9].into());
    let only = opts.only(pinned);
    assert_eq!(places(&only), ["a:5432 (10.0.0.9)"]);
    assert_eq!(only.user, opts.user);
}

#[test]
fn each_host_has_its_own_line_of_the_password_file() {
    let opts = options(&[("user", "bob"), ("host", "db1,localhost,/run/my sock")], &[]).unwrap();
    assert_eq!(passwords(&opts), [None, Some("local"), Some("by-dir")]);
    let all = options(&[("user", "bob"), ("host", "db1,localhost")], &[("PGPASSWORD", "p")]).unwrap();
    assert_eq!(passwords(&all), [Some("p"); 2]);
}

#[test]
fn certificates_binding_and_target_come_from_keys_or_the_environment() {
    let keys = [
        ("user", "u"),
        ("sslcert", "/c"),
        ("sslkey", "/k"),
        ("channel_binding", "require"),
        ("target_session_attrs", "prefer-standby"),
    ];
    let env = [
        ("PGUSER", "u"),
        ("PGSSLCERT", "/c"),
        ("PGSSLKEY", "/k"),
        ("PGCHANNELBINDING", "require"),
        ("PGTARGETSESSIONATTRS", "prefer-standby"),
    ];
    let files = ClientCert {
        certificate: "/c".into(),
        key: "/k".into(),
    };
    for opts in [options(&keys, &[]).unwrap(), options(&[], &env).unwrap()] {
        assert_eq!(opts.client_cert.as_ref(), Some(&files));
        assert_eq!(opts.channel_binding, ChannelBinding::Require);
        assert_eq!(opts.target_session_attrs, TargetSessionAttrs::PreferStandby);
    }
    for (key, value, other) in [("sslcert", "/c", "sslkey"), ("sslkey", "/k", "sslcert")] {
        let error = options(&[("user", "u"), (key, value)], &[]).unwrap_err();
        assert_eq!(error, ConninfoError::Needs { key, other });
    }
    let elsewhere = options(&[("user", "u"), ("host", "a")], &[("PGHOSTADDR", "10.0.0.1")]);
    assert_eq!(elsewhere.unwrap_err(), ConninfoError::Unsupported { key: "PGHOSTADDR" });
}

#[test]
fn the_systems_certificates_go_with_verify_full_only() {
    let with = |sslmode: &str| {
        let keys = [("user", "u"), ("sslrootcert", "system"), ("sslmode", sslmode)];
        options(&keys, &[])
    };
    for sslmode in ["", "verify-full"] {
        let opts = with(sslmode).unwrap();
        assert_eq!(
            (opts.sslmode, opts.sslrootcert),
            (SslMode::VerifyFull, Some(RootCert::System))
        );
    }
    for sslmode in ["disable", "prefer", "require", "verify-ca"] {
        assert!(matches!(with(sslmode), Err(ConninfoError::Needs { .. })), "{sslmode}");
    }
    let file = options(&[("user", "u"), ("sslrootcert", "./system")], &[]).unwrap();
    assert_eq!(file.sslrootcert, Some(RootCert::File("./system".into())));
}

#[test]
fn each_word_of_target_session_attrs_wants_what_libpq_wants() {
    use TargetSessionAttrs::{Any, Primary, ReadOnly, ReadWrite, Standby};
    // A primary, a primary whose sessions are read-only by default, a standby.
    let servers = [(false, false), (false, true), (true, true)];
    for (wanted, accepted) in [
        (Any, [true, true, true]),
        (ReadWrite, [true, false, false]),
        (ReadOnly, [false, true, true]),
        (Primary, [true, true, false]),
        (Standby, [false, false, true]),
    ] {
        assert_eq!(
            servers.map(|(standby, read_only)| wanted.accepts(standby, read_only)),
            accepted
        );
        assert_eq!(wanted.as_str().parse(), Ok(wanted));
    }
}

#[test]
fn a_password_is_never_printed() {
    let opts = options(&[("user", "u"), ("password", "hunter2")], &[]).unwrap();
    let shown = format!("{opts:?}");
    assert!(shown.contains("<redacted>") && !shown.contains("hunter2"), "{shown}");
}
