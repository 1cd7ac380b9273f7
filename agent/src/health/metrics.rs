//! Every metric, by name: what `/metrics` prints. The names are part of the interface (docs/ALARMS.md).

use prometheus::{Gauge, GaugeVec, Opts, Registry, TextEncoder};

use super::alarm::Kind;
use super::board::Open;
use super::facts::Facts;

/// Seconds of a time, for Prometheus.
fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// Collects the values of one answer.
struct Page {
    registry: Registry,
    cluster: String,
}

impl Page {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("seawall_{name}"), help).const_label("cluster", &self.cluster)
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let gauge = Gauge::with_opts(self.opts(name, help))?;
        gauge.set(value);
        self.registry.register(Box::new(gauge))
    }

    /// What is not known is left out: a figure would be a lie.
    fn known(&self, name: &str, help: &str, value: Option<f64>) -> prometheus::Result<()> {
        value.map_or(Ok(()), |value| self.gauge(name, help, value))
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = prometheus::Counter::with_opts(self.opts(name, help))?;
        counter.inc_by(value as f64);
        self.registry.register(Box::new(counter))
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, f64)>,
    ) -> prometheus::Result<()> {
        let gauges = GaugeVec::new(self.opts(name, help), labels)?;
        for (labels, value) in values {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            gauges.get_metric_with_label_values(&labels)?.set(value);
        }
        self.registry.register(Box::new(gauges))
    }
}

/// The answer to one question of Prometheus, in its text format.
pub fn page(cluster: &str, facts: &Facts, open: &[Open]) -> prometheus::Result<String> {
    let page = Page {
        registry: Registry::new(),
        cluster: cluster.to_owned(),
    };
    stream(&page, facts)?;
    repository(&page, facts)?;
    around(&page, facts)?;
    let is_open = |kind: Kind| open.iter().filter(|open| open.alarm.kind == kind).count();
    page.gauges(
        "alarm",
        "Open alarms of each kind; docs/ALARMS.md has a section for each.",
        &["alarm", "severity"],
        Kind::ALL.iter().map(|kind| {
            let labels = vec![kind.name().to_owned(), kind.severity().word().to_owned()];
            (labels, is_open(*kind) as f64)
        }),
    )?;
    TextEncoder::new().encode_to_string(&page.registry.gather())
}

fn stream(page: &Page, facts: &Facts) -> prometheus::Result<()> {
    let daemon = &facts.daemon;
    let lsn = |text: &str| text.parse::<pg::lsn::Lsn>().map_or(0.0, |lsn| lsn.as_u64() as f64);
    page.gauges(
        "build_info",
        "Which version runs.",
        &["version"],
        [(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)],
    )?;
    page.gauge(
        "start_time_seconds",
        "When the agent started.",
        seconds(facts.started_us),
    )?;
    page.gauge(
        "streaming",
        "1 while WAL is streamed.",
        f64::from(u8::from(daemon.streaming)),
    )?;
    page.known(
        "rpo_seconds",
        "Age of the oldest commit that is not archived, while WAL is streamed.",
        daemon.streaming.then_some(daemon.rpo_ms as f64 / 1e3),
    )?;
    page.gauge(
        "unarchived_bytes",
        "WAL of the server that is not archived.",
        daemon.unarchived_bytes as f64,
    )?;
    let time = |us: i64| (us > 0).then_some(seconds(us));
    page.known(
        "last_commit_timestamp_seconds",
        "Time of the newest transaction that came in.",
        time(daemon.last_commit_us),
    )?;
    page.known(
        "last_contact_timestamp_seconds",
        "When the server said anything last.",
        time(daemon.contact_us),
    )?;
    page.gauges(
        "archive_lag_seconds",
        "From commit to archived, since the agent started.",
        &["percentile"],
        [
            ("50", daemon.lag.p50_us),
            ("99", daemon.lag.p99_us),
            ("100", daemon.lag.max_us),
        ]
        .map(|(percentile, us)| (vec![percentile.to_owned()], us as f64 / 1e6)),
    )?;
    page.counter("commits_total", "Commits whose lag was measured.", daemon.lag.commits)?;
    page.gauge("timeline", "Timeline that is archived.", f64::from(daemon.timeline))?;
    page.gauge(
        "received_lsn_bytes",
        "End of the WAL that came in.",
        lsn(&daemon.received_lsn),
    )?;
    page.gauge(
        "archived_lsn_bytes",
        "End of the WAL that is archived.",
        lsn(&daemon.archived_lsn),
    )?;
    page.gauge("server_lsn_bytes", "End of the server's WAL.", lsn(&daemon.server_lsn))?;
    page.counter(
        "wal_bytes_total",
        "WAL made durable in whole objects.",
        daemon.wal_bytes,
    )?;
    page.counter(
        "wal_stored_bytes_total",
        "Bytes stored for it and for tails.",
        daemon.stored_bytes,
    )?;
    page.counter("wal_objects_total", "WAL objects created.", daemon.objects)?;
    page.counter("wal_tails_total", "Tails created.", daemon.tails)?;
    page.gauge(
        "retained_wal_bytes",
        "WAL that the server keeps for us.",
        daemon.retained_bytes as f64,
    )?;
    page.known(
        "pg_wal_full_seconds",
        "When the disk of pg_wal is full at the present rate.",
        daemon.pg_wal_full_in_s.map(|left| left as f64),
    )?;
    page.gauge(
        "synchronous",
        "1 while commits may wait for us.",
        f64::from(u8::from(daemon.synchronous)),
    )
}

fn repository(page: &Page, facts: &Facts) -> prometheus::Result<()> {
    let seen = &facts.repository;
    let time = |us: Option<i64>| us.map(seconds);
    page.gauge(
        "repository_reachable",
        "1 when the last look at the repository succeeded.",
        f64::from(u8::from(seen.error.is_none() && seen.looked_us > 0)),
    )?;
    if seen.looked_us > 0 {
        page.gauge("backups", "Complete backups in the repository.", seen.backups as f64)?;
        page.gauge(
            "wal_holes",
            "Missing stretches of WAL that no backup makes up for.",
            seen.holes.len() as f64,
        )?;
        page.gauge(
            "damaged_objects",
            "Stored objects found damaged.",
            seen.damaged_objects as f64,
        )?;
    }
    let newest = seen.newest.as_ref();
    page.known(
        "last_backup_timestamp_seconds",
        "When the newest backup was finished.",
        time(newest.map(|it| it.finished_us)),
    )?;
    page.known(
        "last_backup_duration_seconds",
        "How long it took.",
        newest.map(|it| it.seconds),
    )?;
    page.known(
        "last_backup_bytes",
        "Bytes of its files.",
        newest.map(|it| it.logical_bytes as f64),
    )?;
    page.known(
        "last_backup_stored_bytes",
        "Bytes that it added.",
        newest.map(|it| it.new_stored_bytes as f64),
    )?;
    page.known(
        "last_backup_corrupt_pages",
        "Pages that are corrupt in the database.",
        newest.map(|it| it.corrupt_pages as f64),
    )?;
    page.known(
        "last_verify_timestamp_seconds",
        "When stored bytes were compared last.",
        time(seen.verified_us),
    )?;
    page.known(
        "last_proof_timestamp_seconds",
        "When a restore was proven last.",
        time(seen.proven_us),
    )?;
    page.known(
        "rto_estimate_seconds",
        "How long a restore to now would take, by the rates of the last drill.",
        facts.rto_s(),
    )?;
    let drill = facts.host.drill.as_ref();
    page.known(
        "last_drill_timestamp_seconds",
        "When the last drill began.",
        time(drill.map(|it| it.began_us)),
    )?;
    page.known(
        "last_drill_passed",
        "1 when everything that it restored was right.",
        drill.map(|it| f64::from(u8::from(it.passed))),
    )?;
    page.known(
        "last_drill_rto_seconds",
        "How long it took.",
        drill.and_then(|it| it.rto_ms).map(|ms| ms as f64 / 1e3),
    )?;
    page.gauges(
        "copy_whole",
        "1 for each place of the repository that lacks nothing.",
        &["place"],
        facts.copies.iter().map(|copy| {
            let whole = f64::from(u8::from(copy.standing == "whole"));
            (vec![copy.name.clone()], whole)
        }),
    )
}

fn around(page: &Page, facts: &Facts) -> prometheus::Result<()> {
    let disks = || facts.host.disks.iter();
    page.gauges(
        "disk_free_bytes",
        "Bytes left where WAL, repository and state lie.",
        &["disk"],
        disks().map(|disk| (vec![disk.what.clone()], disk.free_bytes as f64)),
    )?;
    page.gauges(
        "disk_used_ratio",
        "How full these disks are.",
        &["disk"],
        disks().map(|disk| (vec![disk.what.clone()], disk.used_percent() / 100.0)),
    )?;
    page.gauge(
        "server_reachable",
        "1 when the last look at the server succeeded.",
        f64::from(u8::from(facts.server.error.is_none() && facts.server.looked_us > 0)),
    )?;
    let jobs = |of: fn(&super::facts::Job) -> Option<i64>| {
        let known = facts
            .jobs
            .iter()
            .filter_map(move |job| Some((job.name.clone(), of(job)?)));
        known.map(|(name, us)| (vec![name], seconds(us)))
    };
    page.gauges(
        "job_start_timestamp_seconds",
        "When it began last.",
        &["job"],
        jobs(|job| job.started_us),
    )?;
    page.gauges(
        "job_success_timestamp_seconds",
        "When it ended well last.",
        &["job"],
        jobs(|job| job.succeeded_us),
    )?;
    page.gauges(
        "job_due_timestamp_seconds",
        "When it is due next.",
        &["job"],
        jobs(|job| job.due_us),
    )?;
    page.gauges(
        "component_backup_timestamp_seconds",
        "When the newest backup of a component was finished.",
        &["component"],
        facts
            .repository
            .components
            .iter()
            .map(|(name, us)| (vec![name.clone()], seconds(*us))),
    )?;
    page.gauges(
        "notify_failing",
        "1 while messages do not arrive there.",
        &["channel"],
        facts.channels.iter().map(|channel| {
            let failing = f64::from(u8::from(channel.failing.is_some()));
            (vec![channel.name.clone()], failing)
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_asks_for_metrics_that_exist() {
        let known = include_str!("metrics.rs");
        let dashboard = include_str!("../../../monitoring/grafana-dashboard.json");
        let mut asked = 0;
        for part in dashboard.split("seawall_").skip(1) {
            let end = part.find(|c: char| c != '_' && !c.is_ascii_lowercase()).unwrap();
            assert!(
                known.contains(&format!("\"{}\"", &part[..end])),
                "seawall_{}",
                &part[..end]
            );
            asked += 1;
        }
        assert!(asked > 12);
    }

    #[test]
    fn a_page_has_every_kind_of_alarm_and_leaves_out_what_is_not_known() {
        let text = page("main", &Facts::default(), &[]).unwrap();
        for kind in Kind::ALL {
            assert!(text.contains(&format!("alarm=\"{}\"", kind.name())), "{text}");
        }
        assert!(text.contains("seawall_streaming{cluster=\"main\"} 0"), "{text}");
        assert!(!text.contains("last_backup_timestamp"), "{text}");
    }
}
