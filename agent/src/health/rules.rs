//! From facts to what is wrong with them. Pure: no clock, no I/O.

use config::{Cluster, Objectives};

use super::alarm::{Alarm, Kind};
use super::facts::{Facts, Host, Job, Repository, Server};
use crate::output;

/// The disk of `pg_wal` is full so soon that somebody must act now.
const FULL_WITHIN_S: u64 = 3600;
/// Clocks that are further apart spoil targets by time.
pub const CLOCKS_APART_MAX_MS: i64 = 30_000;
/// The server's own finding of a corrupt page is said for so long.
const CHECKSUM_FAILURE_SHOWN_US: i64 = 7 * 86_400_000_000;

/// Everything that is wrong now.
pub fn judge(facts: &Facts, cluster: &Cluster) -> Vec<Alarm> {
    let objectives = &cluster.objectives;
    let mut alarms = Vec::new();
    stream(facts, objectives, &mut alarms);
    repository(&facts.repository, facts, objectives, &mut alarms);
    server(&facts.server, facts.now_us, &mut alarms);
    host(&facts.host, objectives, &mut alarms);
    if let Some(started_us) = facts.host.backup_started_us
        && facts.now_us.saturating_sub(started_us) > us(cluster.backup.duration_max)
    {
        alarms.push(Alarm::new(
            Kind::BackupSlow,
            format!("a backup has been running since {}", output::time_us(started_us)),
            "It fails when it is longer than backup.duration_max. `wal-agent status` shows how far it is and whether it is held back.",
        ));
    }
    for copy in facts.copies.iter().filter(|copy| copy.standing != "whole") {
        let why = copy.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        alarms.push(
            Alarm::new(
                Kind::CopyBehind,
                format!("the place \"{}\" of the repository is {}{why}", copy.name, copy.standing),
                "It is filled by itself once it can be reached; look whether its service, its credentials and its disk are well.",
            )
            .of(&copy.name),
        );
    }
    alarms.extend(facts.jobs.iter().filter_map(job));
    drill(facts, objectives, &mut alarms);
    for channel in &facts.channels {
        if let Some((since_us, error)) = &channel.failing {
            let since = output::time_us(*since_us);
            alarms.push(
                Alarm::new(
                    Kind::NotifyFailing,
                    format!("messages to \"{}\" do not arrive since {since}: {error}", channel.name),
                    "Try its URL and its secret from this host. What is open is sent again once it answers.",
                )
                .of(&channel.name),
            );
        }
    }
    if let Some(error) = &facts.reload_error {
        alarms.push(Alarm::new(
            Kind::ReloadFailed,
            format!("the configuration was not read again, the one before is in force: {error}"),
            "Mend it (`wal-agent check --show-config`) and reload again; a restart would fail.",
        ));
    }
    alarms
}

fn us(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn stream(facts: &Facts, objectives: &Objectives, alarms: &mut Vec<Alarm>) {
    let daemon = &facts.daemon;
    if !daemon.streaming {
        let why = daemon.error.as_deref().unwrap_or("not connected yet");
        alarms.push(Alarm::new(
            Kind::NotStreaming,
            format!("no WAL is streamed: {}", why),
            "What is committed from now on is lost with the host. The text above says what must be mended; the agent tries again by itself.",
        ));
    }
    // Without a stream nobody knows, unless WAL waits that came in before; that there is none is an alarm of its own.
    if (daemon.streaming || facts.behind_ms > 0)
        && daemon.rpo_ms > u64::try_from(objectives.rpo.as_millis()).unwrap_or(u64::MAX)
    {
        alarms.push(Alarm::new(
            Kind::RpoBroken,
            format!(
                "the oldest commit that is not archived is {} s old; {} s were promised",
                daemon.rpo_ms / 1000,
                objectives.rpo.as_secs()
            ),
            "Uploads wait or are too slow: see whether the repository answers, and how fast (`wal-agent check`).",
        ));
    }
    let retained = output::bytes(daemon.retained_bytes);
    let hint = "The repository is away or too slow. Free disk space, or raise the limits in [cluster.<name>.wal] if it is meant.";
    match facts.retained_level {
        0 => {}
        1 => alarms.push(Alarm::new(
            Kind::WalRetained,
            format!("the server keeps {retained} of WAL for us"),
            hint,
        )),
        _ => alarms.push(Alarm::new(
            Kind::WalRetainedMuch,
            format!("the server keeps {retained} of WAL for us"),
            hint,
        )),
    }
    if let Some(left_s) = daemon.pg_wal_full_in_s.filter(|left| *left < FULL_WITHIN_S) {
        alarms.push(Alarm::new(
            Kind::WalDiskFilling,
            format!("the disk of pg_wal is full in {left_s} s at the present rate: the server stops then"),
            "Free space there, or bring the repository back. `wal-agent drop-slots` lets WAL go as the last resort: what was not archived is lost then.",
        ));
    }
    if daemon.degraded {
        alarms.push(Alarm::new(
            Kind::Degraded,
            "the repository is away, and commits no longer wait for it",
            "They wait again by themselves once the archive has caught up.",
        ));
    }
    if daemon.remote_apply {
        alarms.push(Alarm::new(
            Kind::RemoteApply,
            "synchronous_commit is remote_apply while commits wait for us: they wait for ever",
            "Set synchronous_commit to 'on', or take us out of synchronous_standby_names.",
        ));
    }
}

fn repository(seen: &Repository, facts: &Facts, objectives: &Objectives, alarms: &mut Vec<Alarm>) {
    if let Some(error) = &seen.error {
        let (kind, hint) = match seen.is_damaged {
            true => (
                Kind::RepositoryDamaged,
                "`wal-agent verify` names everything that is damaged, `wal-agent repair` makes up for it where it can.",
            ),
            false => (
                Kind::RepositoryUnreachable,
                "Look at the service, the network and the credentials. WAL waits on the server meanwhile.",
            ),
        };
        alarms.push(Alarm::new(kind, error.clone(), hint));
    }
    if seen.is_trust_in_doubt {
        alarms.push(Alarm::new(
            Kind::TrustInDoubt,
            "something at keys/ of the repository cannot be read or is not signed by the root key",
            "`wal-agent verify` names it. Remove what was planted; bring back what is damaged from a copy.",
        ));
    }
    if seen.looked_us == 0 {
        return;
    }
    for hole in &seen.holes {
        alarms.push(
            Alarm::new(
                Kind::WalHole,
                format!("WAL is missing: {hole}"),
                "What happened there cannot be restored. Take a backup (`wal-agent backup`) unless one is being taken.",
            )
            .of(hole),
        );
    }
    match &seen.newest {
        None if seen.is_of_other_lineage => alarms.push(Alarm::new(
            Kind::BackupOfOtherHistory,
            "all backups are of histories that the server has left: what it does now cannot be restored",
            "Run `wal-agent backup` now.",
        )),
        None => alarms.push(Alarm::new(
            Kind::NoBackup,
            "there is no backup: nothing can be restored",
            "Run `wal-agent backup`.",
        )),
        Some(newest) => {
            let age_us = facts.now_us.saturating_sub(newest.finished_us);
            if age_us < -CLOCKS_APART_MAX_MS * 1000 {
                let text = format!(
                    "the newest backup is from the future: {}",
                    output::time_us(newest.finished_us)
                );
                let hint = "The clock of the host was wrong then, or is now: ages and schedules go by it.";
                alarms.push(Alarm::new(Kind::ClockApart, text, hint).of("backup"));
            }
            if age_us > us(objectives.backup_age) {
                alarms.push(Alarm::new(
                    Kind::BackupOld,
                    format!(
                        "the newest backup is from {}, {} h ago",
                        output::time_us(newest.finished_us),
                        age_us / 3_600_000_000
                    ),
                    "See why none was taken since: [cluster.<name>.schedule], the timer, or backup_failed.",
                ));
            }
            if newest.corrupt_pages > 0 {
                alarms.push(Alarm::new(
                    Kind::CorruptPages,
                    format!("{} pages are corrupt in the database itself, as backup {} found", newest.corrupt_pages, newest.id),
                    "`wal-agent list --json` and the log of the backup name them. Restore them from an older backup beside this server, and look at the disk.",
                ));
            }
        }
    }
    components(seen, facts, alarms);
    if seen.damaged_objects > 0 {
        alarms.push(Alarm::new(
            Kind::VerifyDamage,
            format!("{} stored objects are damaged", seen.damaged_objects),
            "`wal-agent verify --all` names them, `wal-agent repair` makes up for them: soon, before pages of the live cluster change. Then `wal-agent verify --all` again.",
        ));
    }
    if seen.backups > 0 {
        let since = seen.verified_us.unwrap_or(facts.started_us);
        if facts.now_us.saturating_sub(since) > us(objectives.verify_age) {
            alarms.push(Alarm::new(
                Kind::VerifyOld,
                format!("nothing that is stored was compared since {}", output::time_us(since)),
                "Set `verify` in [cluster.<name>.schedule], or run `wal-agent verify --share 30` from a timer.",
            ));
        }
        let since = seen.proven_us.unwrap_or(facts.started_us);
        if objectives
            .drill_age
            .is_some_and(|age| facts.now_us.saturating_sub(since) > us(age))
        {
            alarms.push(Alarm::new(
                Kind::DrillOld,
                format!("no restore was proven since {}", output::time_us(since)),
                "Run `wal-agent drill` where the restore key is, or set `drill` in [cluster.<name>.schedule].",
            ));
        }
    }
}

fn server(seen: &Server, now_us: i64, alarms: &mut Vec<Alarm>) {
    if let Some(error) = &seen.error {
        alarms.push(Alarm::new(
            Kind::ServerSilent,
            format!("the server cannot be asked: {error}"),
            "Its connections may be used up, or the role may not connect to dbname any more.",
        ));
    }
    if let Some(since) = &seen.archiver_failing_since {
        alarms.push(Alarm::new(
            Kind::ArchiverFailing,
            format!("archive_command fails since {since}"),
            "The server's log has what `wal-agent archive-push` said.",
        ));
    }
    if seen.slot_is_there == Some(false) {
        alarms.push(Alarm::new(
            Kind::SlotMissing,
            "our replication slot is not there: the server removes WAL that is not archived yet",
            "The agent makes it again with the next connection. Find out who dropped it.",
        ));
    }
    match seen.slot_wal_status.as_deref() {
        Some("lost") => alarms.push(Alarm::new(
            Kind::SlotLost,
            "the server has given our slot up: WAL was removed before it was archived",
            "max_slot_wal_keep_size or a timeout did it. The agent makes the slot again, declares what is lost, and takes a backup.",
        )),
        Some("unreserved") => alarms.push(Alarm::new(
            Kind::SlotLost,
            "the server is about to give our slot up: the next checkpoint removes WAL that is not archived",
            "Raise max_slot_wal_keep_size, now.",
        )),
        _ => {}
    }
    for (problem, hint, is_error) in &seen.findings {
        let kind = match is_error {
            true => Kind::ServerSetting,
            false => Kind::ServerSettingUnwise,
        };
        alarms.push(Alarm::new(kind, problem.clone(), hint.clone()).of(problem));
    }
    for slot in &seen.idle_slots {
        alarms.push(
            Alarm::new(
                Kind::IdleSlot,
                format!("nobody streams from slot {slot}, and it holds WAL back"),
                "`wal-agent drop-slots` shows and drops what is left of an agent that is gone.",
            )
            .of(slot),
        );
    }
    if let Some((count, last_us)) = seen.checksum_failures
        && now_us.saturating_sub(last_us) < CHECKSUM_FAILURE_SHOWN_US
    {
        alarms.push(Alarm::new(
            Kind::ChecksumFailures,
            format!("the server has met {count} corrupt pages, the last at {}", output::time_us(last_us)),
            "See its log and pg_stat_database. Restore the pages from a backup beside this server, and look at the disk.",
        ));
    }
    if seen.clock_apart_ms.abs() > CLOCKS_APART_MAX_MS {
        alarms.push(Alarm::new(
            Kind::ClockApart,
            format!("the server's clock and ours are {} s apart", seen.clock_apart_ms / 1000),
            "Set them by NTP: a restore to a time goes by the server's clock, ages by ours.",
        ));
    }
}

/// Those whose newest backup may have an age.
fn components(seen: &Repository, facts: &Facts, alarms: &mut Vec<Alarm>) {
    for (name, age_max) in &facts.component_ages {
        let newest_us = seen.components.get(name).copied();
        let since_us = newest_us.unwrap_or(facts.started_us);
        if facts.now_us.saturating_sub(since_us) <= us(*age_max) {
            continue;
        }
        let newest = match newest_us {
            Some(us) => format!(
                "the newest backup of component \"{name}\" is from {}",
                output::time_us(us)
            ),
            None => format!("there is no backup of component \"{name}\""),
        };
        let hint = format!(
            "`wal-agent backup {name}` takes one; see why its schedule has taken none: backup_failed, or the log."
        );
        alarms.push(Alarm::new(Kind::BackupOld, newest, hint).of(name));
    }
}

fn host(seen: &Host, objectives: &Objectives, alarms: &mut Vec<Alarm>) {
    for disk in &seen.disks {
        let used = disk.used_percent();
        let kind = if used >= objectives.disk_page {
            Kind::DiskFull
        } else if used >= objectives.disk_warn {
            Kind::DiskHigh
        } else {
            continue;
        };
        alarms.push(
            Alarm::new(
                kind,
                format!(
                    "the disk of {} is {used:.0} % full, {} are left",
                    disk.what,
                    output::bytes(disk.free_bytes)
                ),
                "Make room, or raise disk_warn and disk_page in [cluster.<name>.objectives].",
            )
            .of(&disk.what),
        );
    }
    if let Some(error) = &seen.key_error {
        alarms.push(Alarm::new(
            Kind::KeyUnreadable,
            format!("the host key cannot be read: {error}"),
            "The agent goes on with what it has read, and would not start again. Bring it back from a copy, or make a new one: `wal-agent key rotate host`.",
        ));
    }
    if let Some(error) = &seen.state_error {
        alarms.push(Alarm::new(
            Kind::StateUnwritable,
            format!("the state cannot be written: {error}"),
            "`status` knows less, and what ran on schedule is forgotten by a restart. Make state_directory writable for the agent.",
        ));
    }
}

fn drill(facts: &Facts, objectives: &Objectives, alarms: &mut Vec<Alarm>) {
    let is_told = alarms.iter().any(|alarm| alarm.kind == Kind::DrillFailed);
    if let Some(failed) = facts.host.drill.as_ref().filter(|drill| !drill.passed && !is_told) {
        let error = failed.error.as_deref().unwrap_or("for no known reason");
        alarms.push(Alarm::new(
            Kind::DrillFailed,
            format!("the drill of {} failed: {error}", output::time_us(failed.began_us)),
            "`wal-agent drill --keep` leaves what it restored to be looked at; `wal-agent verify --all` names what is damaged.",
        ));
    }
    if let (Some(rto), Some(estimate_s)) = (objectives.rto, facts.rto_s())
        && estimate_s > rto.as_secs_f64()
    {
        alarms.push(Alarm::new(
            Kind::RtoBroken,
            format!("a restore to now would take about {estimate_s:.0} s; {} s were promised", rto.as_secs()),
            "Take backups more often, so that there is less WAL to replay, or use a faster machine; the last drill says which phase is slow.",
        ));
    }
}

fn job(job: &Job) -> Option<Alarm> {
    // As the command is typed: "backup cache", "backup --group app".
    let component = job
        .name
        .strip_prefix("backup ")
        .map(|name| name.trim_start_matches('-'));
    let kind = match job.name.as_str() {
        "backup" => Kind::BackupFailed,
        _ if component.is_some() => Kind::BackupFailed,
        "prune" => Kind::PruneFailed,
        "drill" => Kind::DrillFailed,
        _ => Kind::VerifyFailed,
    };
    let failed = job.ended_us.is_some() && job.succeeded_us != job.ended_us;
    // Damage that a look found is an alarm of its own, and the look did what it should.
    let found_damage = kind == Kind::VerifyFailed && job.exit_code == Some(i32::from(crate::exit::DAMAGED));
    (failed && !found_damage).then(|| {
        let when = output::time_us(job.ended_us.unwrap_or_default());
        let why = job
            .error
            .clone()
            .unwrap_or_else(|| "it was ended by a signal".to_owned());
        let alarm = Alarm::new(
            kind,
            format!("`{}` on schedule failed at {when}: {why}", job.name),
            format!(
                "Run `wal-agent {}` by hand once that is mended; the schedule tries again a quarter of an hour later.",
                job.name
            ),
        );
        match component {
            Some(name) => alarm.of(name),
            None => alarm,
        }
    })
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;
