use super::super::facts::{Backup, Channel, Disk};
use super::*;
use crate::copies::CopySeen;
use crate::drill::Drilled;
use crate::status::DaemonState;

const HOUR_US: i64 = 3_600_000_000;

fn cluster() -> Cluster {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/seawall.toml.example");
    let config = config::load_for_restore(&directory, [("A", "b")]).unwrap();
    config.cluster(None).unwrap().clone()
}

/// Nothing is wrong.
fn fine() -> Facts {
    let now_us = 1000 * HOUR_US;
    Facts {
        now_us,
        started_us: now_us - HOUR_US,
        daemon: DaemonState {
            streaming: true,
            timeline: 1,
            ..DaemonState::default()
        },
        repository: Repository {
            looked_us: now_us,
            backups: 1,
            newest: Some(Backup {
                finished_us: now_us - HOUR_US,
                ..Backup::default()
            }),
            ..Repository::default()
        },
        server: Server {
            looked_us: now_us,
            slot_is_there: Some(true),
            slot_wal_status: Some("reserved".into()),
            ..Server::default()
        },
        ..Facts::default()
    }
}

#[test]
fn nothing_is_said_when_nothing_is_wrong() {
    assert_eq!(judge(&fine(), &cluster()), []);
    // Before anything was looked at nothing is known to be wrong with it.
    let mut unseen = fine();
    unseen.repository = Repository::default();
    unseen.server = Server::default();
    assert_eq!(judge(&unseen, &cluster()), []);
}

/// What must be changed so that a kind, and no other, is raised.
fn spoil(kind: Kind, facts: &mut Facts) -> bool {
    let Facts {
        now_us,
        daemon,
        repository,
        server,
        host,
        ..
    } = facts;
    let ago = |hours: i64| *now_us - hours * HOUR_US;
    let finding = |is_error| vec![("fsync is off".to_owned(), "Turn it on.".to_owned(), is_error)];
    let disk = |free_bytes| {
        vec![Disk {
            what: "pg_wal".into(),
            total_bytes: 100,
            free_bytes,
        }]
    };
    let job = |name: &str| {
        vec![Job {
            name: name.into(),
            started_us: Some(1),
            ended_us: Some(2),
            succeeded_us: Some(1),
            exit_code: Some(6),
            error: Some("the repository is away".into()),
            due_us: None,
        }]
    };
    match kind {
        // Said by the daemon itself, on its way out.
        Kind::AgentStopped => return false,
        Kind::NotStreaming => daemon.streaming = false,
        Kind::RpoBroken => daemon.rpo_ms = 60_001,
        Kind::RepositoryUnreachable => repository.error = Some("timeout".into()),
        Kind::RepositoryDamaged => {
            repository.error = Some("damaged".into());
            repository.is_damaged = true;
        }
        Kind::TrustInDoubt => repository.is_trust_in_doubt = true,
        Kind::CopyBehind => {
            facts.copies = vec![CopySeen {
                name: "away".into(),
                standing: "behind".into(),
                ..CopySeen::default()
            }];
        }
        Kind::SlotMissing => server.slot_is_there = Some(false),
        Kind::SlotLost => server.slot_wal_status = Some("lost".into()),
        Kind::WalRetained => facts.retained_level = 1,
        Kind::WalRetainedMuch => facts.retained_level = 2,
        Kind::WalDiskFilling => daemon.pg_wal_full_in_s = Some(60),
        Kind::DiskHigh => host.disks = disk(39),
        Kind::DiskFull => host.disks = disk(19),
        Kind::WalHole => repository.holes = vec!["0/1 to 0/2 on timeline 1".into()],
        Kind::NoBackup => repository.newest = None,
        Kind::BackupOfOtherHistory => {
            repository.newest = None;
            repository.is_of_other_lineage = true;
        }
        Kind::BackupOld => {
            repository.newest = Some(Backup {
                finished_us: ago(37),
                ..Backup::default()
            })
        }
        Kind::BackupFailed => facts.jobs = job("backup"),
        Kind::BackupSlow => host.backup_started_us = Some(ago(25)),
        Kind::CorruptPages => {
            repository.newest = Some(Backup {
                finished_us: ago(1),
                corrupt_pages: 1,
                ..Backup::default()
            });
        }
        Kind::ChecksumFailures => server.checksum_failures = Some((1, ago(1))),
        Kind::VerifyDamage => repository.damaged_objects = 1,
        Kind::VerifyOld => repository.verified_us = Some(ago(200)),
        Kind::VerifyFailed => facts.jobs = job("verify"),
        Kind::PruneFailed => facts.jobs = job("prune"),
        Kind::DrillFailed => {
            host.drill = Some(Drilled {
                error: Some("no row came back".into()),
                ..Drilled::default()
            });
        }
        Kind::RtoBroken => {
            daemon.archived_lsn = "0/0".into();
            repository.newest = Some(Backup {
                finished_us: ago(1),
                logical_bytes: 1000,
                ..Backup::default()
            });
            host.drill = Some(Drilled {
                passed: true,
                logical_bytes: 1,
                phases_ms: serde_json::json!({ "fetch": 60_000 }),
                ..Drilled::default()
            });
        }
        Kind::DrillOld => repository.proven_us = Some(ago(800)),
        Kind::Degraded => daemon.degraded = true,
        Kind::RemoteApply => daemon.remote_apply = true,
        Kind::ArchiverFailing => server.archiver_failing_since = Some("noon".into()),
        Kind::ServerSilent => server.error = Some("too many clients".into()),
        Kind::ServerSetting => server.findings = finding(true),
        Kind::ServerSettingUnwise => server.findings = finding(false),
        Kind::IdleSlot => server.idle_slots = vec!["seawall_old".into()],
        Kind::ClockApart => server.clock_apart_ms = -31_000,
        Kind::KeyUnreadable => host.key_error = Some("no such file".into()),
        Kind::StateUnwritable => host.state_error = Some("read-only".into()),
        Kind::ReloadFailed => facts.reload_error = Some("unknown key".into()),
        Kind::NotifyFailing => {
            facts.channels = vec![Channel {
                name: "oncall".into(),
                sent: 0,
                failing: Some((1, "404".into())),
            }];
        }
    }
    true
}

#[test]
fn each_kind_is_raised_by_its_own_fault_and_by_nothing_else() {
    let mut cluster = cluster();
    cluster.objectives.rto = Some(std::time::Duration::from_secs(3600));
    cluster.objectives.drill_age = Some(std::time::Duration::from_secs(30 * 86_400));
    for kind in Kind::ALL {
        let mut facts = fine();
        if !spoil(*kind, &mut facts) {
            continue;
        }
        let kinds: Vec<Kind> = judge(&facts, &cluster).iter().map(|alarm| alarm.kind).collect();
        assert_eq!(kinds, [*kind]);
    }
}

#[test]
fn a_look_that_found_damage_did_not_fail() {
    let mut facts = fine();
    spoil(Kind::VerifyFailed, &mut facts);
    facts.jobs[0].exit_code = Some(4);
    assert_eq!(judge(&facts, &cluster()), []);
}

#[test]
fn each_component_has_an_age_of_its_own() {
    let mut facts = fine();
    let hour = std::time::Duration::from_secs(3600);
    facts.component_ages = vec![("cache".into(), hour), ("uploads".into(), 30 * hour)];
    let two_hours_ago = facts.now_us - 7_200_000_000;
    facts.repository.components = [("cache", two_hours_ago), ("uploads", two_hours_ago)]
        .map(|(name, us)| (name.to_owned(), us))
        .into();
    let old = judge(&facts, &cluster());
    assert_eq!(
        old.iter().map(Alarm::key).collect::<Vec<_>>(),
        [(Kind::BackupOld, Some("cache".to_owned()))]
    );
    // Never captured: as old as the agent.
    facts.repository.components.clear();
    facts.started_us = two_hours_ago;
    assert_eq!(judge(&facts, &cluster()).len(), 1);
    facts.jobs = vec![Job {
        name: "backup cache".into(),
        ended_us: Some(1),
        error: Some("away".into()),
        ..Job::default()
    }];
    let keys: Vec<_> = judge(&facts, &cluster()).iter().map(Alarm::key).collect();
    assert!(
        keys.contains(&(Kind::BackupFailed, Some("cache".to_owned()))),
        "{keys:?}"
    );
}
