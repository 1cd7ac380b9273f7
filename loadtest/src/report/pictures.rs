//! Which pictures a scenario gets: what happened over time, and the percentile curves.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::figures::{Figures, Second, ms};
use crate::judge::lag_bound;
use crate::run::{Measured, Role};
use picture::{Axis, Plot, Scale, Series};

const WIDE: f64 = 1040.0;
const HALF: f64 = 520.0;
const HEIGHT: f64 = 280.0;
const CURVE_HEIGHT: f64 = 320.0;
/// Steps of a percentile curve for each halving of what is left.
const STEPS_A_HALVING: u32 = 8;
/// Seconds that are further apart had no commits between them.
const SECOND_GAP: f64 = 1.6;
/// Of samples, seconds.
const SAMPLE_GAP: f64 = 2.6;
const WAL_EVERY_SECONDS: f64 = 1.0;

pub(super) fn draw(html: &mut String, measured: &Measured, figures: &Figures) {
    let wide = [
        lag(measured, figures),
        commits(measured, figures),
        rates(measured),
        wal(measured),
    ];
    for plot in wide {
        figure(html, &plot);
    }
    html.push_str("<div class=\"pair\">\n");
    for plot in [
        memory(measured),
        cpu(measured),
        lag_curve(measured, figures),
        commit_curve(figures),
    ] {
        figure(html, &plot);
    }
    html.push_str("</div>\n");
}

fn figure(html: &mut String, plot: &Plot) {
    html.push_str("<figure>");
    html.push_str(&plot.svg());
    html.push_str("</figure>\n");
}

fn over_time(measured: &Measured, title: &str, label: &str, width: f64, series: Vec<Series>) -> Plot {
    let length = measured.plan.length().as_secs_f64();
    let latest = series.iter().flat_map(|series| &series.points).map(|(x, _)| *x);
    let to = latest.chain([length]).fold(0.0, f64::max);
    let largest = series.iter().flat_map(|series| &series.points).map(|(_, y)| *y);
    let stretches = &measured.plan.stretches;
    let bands = stretches.iter().map(|stretch| {
        let (from, to) = (stretch.begin.as_secs_f64(), stretch.end.as_secs_f64());
        (from, to, stretch.name.clone())
    });
    Plot {
        title: title.to_owned(),
        width,
        height: HEIGHT,
        x: Axis {
            label: "time since the begin (s)".to_owned(),
            scale: Scale::exactly(0.0, to),
        },
        y: Axis {
            label: label.to_owned(),
            scale: Scale::linear(0.0, largest.fold(0.0, f64::max) * 1.05),
        },
        series,
        bands: if stretches.len() > 1 {
            bands.collect()
        } else {
            Vec::new()
        },
        marks: measured
            .marks
            .iter()
            .map(|mark| (mark.at.as_secs_f64(), mark.text.clone()))
            .collect(),
        limits: Vec::new(),
    }
}

fn series(name: &str, colour: u8, points: Vec<(f64, f64)>, gap: f64) -> Series {
    Series {
        name: name.to_owned(),
        colour,
        points,
        gap,
    }
}

fn percentiles(seconds: &[Second]) -> Vec<Series> {
    let points = |of: fn(&Second) -> f64| seconds.iter().map(|second| (second.at_seconds, of(second))).collect();
    vec![
        series("longest", 3, points(|second| second.max_ms), SECOND_GAP),
        series("p99", 2, points(|second| second.p99_ms), SECOND_GAP),
        series("p50", 1, points(|second| second.p50_ms), SECOND_GAP),
    ]
}

fn lag(measured: &Measured, figures: &Figures) -> Plot {
    let title = "Lag: from the moment a commit was due until it was archived, by the second in which it was due";
    let mut plot = over_time(measured, title, "lag (ms)", WIDE, percentiles(&figures.lag_seconds));
    if let Some(times) = measured.scenario.thresholds.lag_p99 {
        let limit = lag_bound(&measured.scenario, figures).as_secs_f64() * 1000.0 * times;
        let top = figures
            .lag_seconds
            .iter()
            .map(|second| second.max_ms)
            .fold(limit * 1.1, f64::max);
        plot.y.scale = Scale::linear(0.0, top);
        plot.limits.push((limit, "limit of p99".to_owned()));
    }
    plot
}

fn commits(measured: &Measured, figures: &Figures) -> Plot {
    let title = "Commit: from the moment it was due until it was acknowledged";
    let seconds = &figures.commit_seconds;
    let mut plot = over_time(measured, title, "commit (ms), logarithmic", WIDE, percentiles(seconds));
    let smallest = seconds.iter().map(|second| second.p50_ms).fold(f64::INFINITY, f64::min);
    let largest = seconds.iter().map(|second| second.max_ms).fold(0.0, f64::max);
    plot.y.scale = Scale::log(smallest.min(largest), largest);
    plot
}

/// Commits a second: due, and acknowledged.
fn rates(measured: &Measured) -> Plot {
    let end = measured
        .commits
        .iter()
        .map(|one| one.acknowledged)
        .max()
        .unwrap_or_default();
    let mut acknowledged = vec![0u32; usize::try_from(end.as_secs() + 1).unwrap_or(1)];
    for one in &measured.commits {
        let second = usize::try_from(one.acknowledged.as_secs()).unwrap_or(0);
        if let Some(count) = acknowledged.get_mut(second) {
            *count += 1;
        }
    }
    // The last second is not a whole one.
    let whole = acknowledged.len().saturating_sub(1).max(1);
    let points = acknowledged.iter().take(whole).enumerate();
    let points = points
        .map(|(second, count)| (second as f64 + 0.5, f64::from(*count)))
        .collect();
    let mut due = Vec::new();
    for stretch in &measured.plan.stretches {
        if let Some(rate) = stretch.rate() {
            due.push((stretch.begin.as_secs_f64(), rate));
            due.push((stretch.end.as_secs_f64(), rate));
        }
    }
    let mut all = vec![series("acknowledged", 1, points, SECOND_GAP)];
    if !due.is_empty() {
        all.insert(0, series("due", 3, due, f64::INFINITY));
    }
    over_time(measured, "Commits", "commits (1/s)", WIDE, all)
}

fn wal(measured: &Measured) -> Plot {
    let mut points = Vec::new();
    let mut last: Option<(f64, u64)> = None;
    let length = measured.plan.length();
    for (at, lsn) in measured.seen.wal.iter().filter(|(at, _)| *at <= length) {
        let at = at.as_secs_f64();
        let Some((before, from)) = last else {
            last = Some((at, *lsn));
            continue;
        };
        if at - before >= WAL_EVERY_SECONDS {
            let rate = lsn.saturating_sub(from) as f64 / 1e6 / (at - before);
            points.push((f64::midpoint(before, at), rate));
            last = Some((at, *lsn));
        }
    }
    over_time(
        measured,
        "WAL that the server wrote",
        "WAL (MB/s)",
        WIDE,
        vec![series("written", 1, points, SAMPLE_GAP)],
    )
}

fn roles(measured: &Measured, of: impl Fn(&Measured, Role) -> Vec<(f64, f64)>) -> Vec<Series> {
    let mut all = vec![series("agent", 1, of(measured, Role::Agent), SAMPLE_GAP)];
    let backup = of(measured, Role::Backup);
    if !backup.is_empty() {
        all.push(series("wal-agent backup", 2, backup, SAMPLE_GAP));
    }
    all
}

fn memory(measured: &Measured) -> Plot {
    let points = |measured: &Measured, role: Role| {
        let samples = measured.samples.iter().filter(|sample| sample.role == role);
        samples
            .map(|sample| (sample.at.as_secs_f64(), sample.rss_kib as f64 / 1024.0))
            .collect()
    };
    let series = roles(measured, points);
    over_time(measured, "Memory", "resident memory (MiB)", HALF, series)
}

fn cpu(measured: &Measured) -> Plot {
    let points = |measured: &Measured, role: Role| {
        let samples: Vec<_> = measured.samples.iter().filter(|sample| sample.role == role).collect();
        let pairs = samples.windows(2).filter_map(|pair| {
            let [before, after] = pair else { return None };
            let seconds = after.at.saturating_sub(before.at).as_secs_f64();
            let is_one = before.pid == after.pid && seconds > 0.2;
            let share = (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0;
            is_one.then(|| (f64::midpoint(before.at.as_secs_f64(), after.at.as_secs_f64()), share))
        });
        pairs.collect()
    };
    let series = roles(measured, points);
    over_time(measured, "CPU, user and system", "CPU (% of a core)", HALF, series)
}

fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = histogram.iter_quantiles(STEPS_A_HALVING);
    steps
        .map(|step| (step.quantile_iterated_to(), ms(step.value_iterated_to())))
        .collect()
}

fn percentile_axis(histogram: &Histogram<u64>) -> Axis {
    Axis {
        label: "percentile".to_owned(),
        scale: Scale::nines(histogram.len()),
    }
}

fn lag_curve(measured: &Measured, figures: &Figures) -> Plot {
    let bound = lag_bound(&measured.scenario, figures);
    let is_long = Duration::from_millis(figures.lag.max() / 1000) > bound * 4;
    let largest = ms(figures.lag.max()).max(bound.as_secs_f64() * 1000.0);
    Plot {
        title: "Lag by percentile".to_owned(),
        width: HALF,
        height: CURVE_HEIGHT,
        x: percentile_axis(&figures.lag),
        y: Axis {
            label: if is_long { "lag (ms), logarithmic" } else { "lag (ms)" }.to_owned(),
            scale: if is_long {
                Scale::log(ms(figures.lag.min()), largest)
            } else {
                Scale::linear(0.0, largest * 1.08)
            },
        },
        series: vec![series("lag", 1, curve(&figures.lag), f64::INFINITY)],
        bands: Vec::new(),
        marks: Vec::new(),
        limits: vec![(bound.as_secs_f64() * 1000.0, "what it is a multiple of".to_owned())],
    }
}

fn commit_curve(figures: &Figures) -> Plot {
    let smallest = figures.commit_from_sent.min().min(figures.commit.min());
    Plot {
        title: "Commit by percentile".to_owned(),
        width: HALF,
        height: CURVE_HEIGHT,
        x: percentile_axis(&figures.commit),
        y: Axis {
            label: "commit (ms), logarithmic".to_owned(),
            scale: Scale::log(ms(smallest), ms(figures.commit.max())),
        },
        series: vec![
            series(
                "from when it was sent",
                3,
                curve(&figures.commit_from_sent),
                f64::INFINITY,
            ),
            series("from when it was due", 1, curve(&figures.commit), f64::INFINITY),
        ],
        bands: Vec::new(),
        marks: Vec::new(),
        limits: Vec::new(),
    }
}
