use super::*;

const SMALL: &str = "
    about = 'small'
    store = { kind = 's3', latency_ms = 5 }
    [[phase]]
    name = 'load'
    seconds = 10
    commits_per_second = 100
    [[event]]
    kind = 'backup'
    at_seconds = 6
    [[event]]
    kind = 'store_away'
    at_seconds = 2
    seconds = 3
    [thresholds]
    lost_commits = 0";

#[test]
fn every_scenario_that_comes_with_it_is_read_and_has_what_the_issue_asks_for() {
    let names = Scenario::all_names().unwrap();
    for name in &names {
        let scenario = Scenario::load(name).unwrap();
        assert_eq!(&scenario.name, name);
        assert_eq!(scenario.thresholds.lost_commits, Some(0), "{name} may lose commits");
        scenario.scaled(5.0).check().unwrap();
    }
    for wanted in [
        "backlog",
        "backup",
        "bulk",
        "burst",
        "failover",
        "idle",
        "s3-5ms",
        "s3-20ms",
        "s3-100ms",
        "s3-errors",
        "steady",
    ] {
        assert!(names.iter().any(|name| name == wanted), "no {wanted} in {names:?}");
    }
}

#[test]
fn keys_have_types_and_events_their_order() {
    let scenario = Scenario::parse("small", SMALL).unwrap();
    assert_eq!(
        scenario.store,
        Store::S3 {
            latency_ms: 5,
            errors_percent: 0
        }
    );
    assert_eq!(scenario.ship_interval(), Duration::from_secs(1));
    assert_eq!(scenario.phases[0].clients, 8);
    assert_eq!(
        scenario.events[0],
        Event::StoreAway {
            at_seconds: 2.0,
            seconds: 3.0
        }
    );
    assert_eq!(scenario.events[1], Event::Backup { at_seconds: 6.0 });
    let long = scenario.scaled(5.0);
    assert_eq!(long.phases[0].seconds, 50.0);
    assert_eq!(
        long.events[0],
        Event::StoreAway {
            at_seconds: 10.0,
            seconds: 15.0
        }
    );
}

#[test]
fn unknown_keys_and_what_cannot_be_are_refused() {
    for (from, to) in [
        ("about", "abut"),
        ("seconds = 10", "seconds = 10\nrate = 1"),
        ("latency_ms = 5", "latency = 5"),
        ("at_seconds = 6", "at_seconds = 6\nmegabytes = 5"),
        ("at_seconds = 6", "at_seconds = 11"),
        ("lost_commits = 0", "lost = 0"),
        // What is not measured cannot be judged.
        ("lost_commits = 0", "lost_commits = 0\ntps_ratio = 0.9"),
        ("lost_commits = 0", ""),
        ("kind = 's3', latency_ms = 5", "kind = 'local'"),
        ("'store_away'", "'store_gone'"),
        ("about", "effect = true\nabout"),
        ("seconds = 10", "seconds = 100000"),
        ("commits_per_second = 100", "commits_per_second = -1"),
        ("commits_per_second = 100", "wal_mb_per_second = 1"),
    ] {
        let text = SMALL.replacen(from, to, 1);
        assert_ne!(text, SMALL);
        assert!(Scenario::parse("small", &text).is_err(), "{text}");
    }
}
