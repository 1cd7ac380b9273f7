//! Tests of the preflight findings.

use super::*;

fn good() -> Settings {
    Settings {
        server_version: ServerVersion(150_018),
        wal_level: "replica".to_owned(),
        max_wal_senders: 10,
        max_replication_slots: 10,
        needs_slots: true,
        full_page_writes: true,
        data_checksums: true,
        fsync: true,
        block_size: 8192,
        wal_block_size: 8192,
        idle_replication_slot_timeout: None,
        max_slot_wal_keep_mib: None,
        synchronous_commit: "on".to_owned(),
        synchronous_standby_names: String::new(),
        application_name: "seawall".to_owned(),
        role: "seawall".to_owned(),
        role_replication: true,
        may_start_backup: true,
        may_read_settings: true,
    }
}

fn only(settings: &Settings) -> Finding {
    let findings = check_settings(settings);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.into_iter().next().unwrap()
}

#[test]
fn a_good_server_has_no_findings() {
    assert_eq!(check_settings(&good()), []);
    assert_eq!(
        check_settings(&Settings {
            wal_level: "logical".to_owned(),
            ..good()
        }),
        []
    );
}

#[test]
fn a_server_whose_wal_is_pushed_needs_no_slots() {
    let without = Settings {
        max_replication_slots: 0,
        needs_slots: false,
        ..good()
    };
    assert_eq!(check_settings(&without), []);
}

#[test]
fn each_thing_that_cannot_work_is_one_error() {
    for (settings, problem) in [
        (
            Settings {
                wal_level: "minimal".to_owned(),
                ..good()
            },
            "wal_level is minimal",
        ),
        (
            Settings {
                max_wal_senders: 0,
                ..good()
            },
            "max_wal_senders is 0",
        ),
        (
            Settings {
                max_replication_slots: 0,
                ..good()
            },
            "max_replication_slots is 0",
        ),
        (
            Settings {
                block_size: 4096,
                ..good()
            },
            "block_size is 4096 bytes",
        ),
        (
            Settings {
                server_version: ServerVersion(120_001),
                ..good()
            },
            "PostgreSQL 12.1 is not supported",
        ),
        (
            Settings {
                role_replication: false,
                ..good()
            },
            "role \"seawall\" lacks REPLICATION",
        ),
        (
            Settings {
                may_read_settings: false,
                ..good()
            },
            "role \"seawall\" may not read all settings",
        ),
    ] {
        let finding = only(&settings);
        assert_eq!((finding.severity, finding.problem.as_str()), (Severity::Error, problem));
    }
}

#[test]
fn each_risk_is_one_warning() {
    for settings in [
        Settings { fsync: false, ..good() },
        Settings {
            full_page_writes: false,
            ..good()
        },
        Settings {
            data_checksums: false,
            ..good()
        },
        Settings {
            idle_replication_slot_timeout: Some(Duration::from_secs(60)),
            ..good()
        },
        Settings {
            max_slot_wal_keep_mib: Some(1024),
            ..good()
        },
    ] {
        let expected = match settings.data_checksums {
            true => Severity::Warning,
            false => Severity::Notice,
        };
        assert_eq!(only(&settings).severity, expected);
    }
}

#[test]
fn the_grant_fits_the_version_and_quotes_the_role() {
    let role = "a\"b".to_owned();
    let new = Settings {
        may_start_backup: false,
        role: role.clone(),
        ..good()
    };
    assert!(only(&new).hint.contains("pg_backup_start(text, boolean)"));
    assert!(only(&new).hint.ends_with("TO \"a\"\"b\";"));
    let old = Settings {
        server_version: ServerVersion(140_010),
        ..new
    };
    assert!(only(&old).hint.contains("pg_start_backup(text, boolean, boolean)"));
}

#[test]
fn remote_apply_is_refused_only_when_it_waits_for_us() {
    let with = |names: &str| Settings {
        synchronous_commit: "remote_apply".to_owned(),
        synchronous_standby_names: names.to_owned(),
        ..good()
    };
    for names in [
        "seawall",
        "ANY 1 (standby, \"Seawall\")",
        "*",
        "2(a,seawall)",
        "a, \"cannot be read",
        "FIRST 1 ( * )",
    ] {
        assert_eq!(only(&with(names)).severity, Severity::Error, "{names}");
    }
    for names in ["", "standby", "ANY 1 (a, b)", "\"sea,wall\", \"(seawall)\""] {
        assert_eq!(check_settings(&with(names)), [], "{names}");
    }
}

#[test]
fn errors_come_before_warnings() {
    let settings = Settings {
        fsync: false,
        may_start_backup: false,
        ..good()
    };
    let severities: Vec<_> = check_settings(&settings).iter().map(|f| f.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning]);
}
