//! `target/loadtest/report.html`: one file that needs nothing beside it, for people who would rather look than read.

mod pictures;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::figures::{Figures, ms};
use crate::judge::Row;
use crate::run::Measured;
use crate::scenario::Store;
use crate::summary;
use picture::{document, escape, number, short};

/// Different lines that are shown.
const LINES_MAX: usize = 12;
/// Of each.
const LINE_LETTERS: usize = 200;

/// What came of one scenario.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) ended: Ended,
}

/// How it ended.
pub(crate) enum Ended {
    Measured(Box<(Measured, Figures, Vec<Row>)>),
    /// It could not be played to its end.
    Failed(String),
}

impl Outcome {
    pub(crate) fn is_well(&self) -> bool {
        match &self.ended {
            Ended::Measured(all) => all.2.iter().all(Row::is_well),
            Ended::Failed(_) => false,
        }
    }
}

/// Writes it and returns where.
pub(crate) fn write(outcomes: &[Outcome], setting: &str) -> Result<PathBuf> {
    let path = summary::directory()?.join("report.html");
    fs::write(&path, page(outcomes, setting)).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn page(outcomes: &[Outcome], setting: &str) -> String {
    let mut html = format!("<p class=\"soft\">{}</p>\n", escape(setting));
    overview(&mut html, outcomes);
    for outcome in outcomes {
        section(&mut html, outcome);
    }
    document("Seawall load test", &html)
}

fn verdict(is_well: bool) -> &'static str {
    if is_well {
        "<span class=\"verdict good\">pass</span>"
    } else {
        "<span class=\"verdict bad\">fail</span>"
    }
}

fn overview(html: &mut String, outcomes: &[Outcome]) {
    html.push_str(
        "<div class=\"scroll\"><table>\n<tr><th>scenario</th><th>verdict</th><th class=\"n\">commits/s</th>\
         <th class=\"n\">WAL<br>MB/s</th><th class=\"n\">lag p50<br>ms</th><th class=\"n\">lag p99<br>ms</th>\
         <th class=\"n\">PUT p99<br>ms</th><th class=\"n\">commit p99<br>ms</th><th class=\"n\">agent CPU<br>% of a core</th>\
         <th class=\"n\">agent peak<br>MiB</th><th class=\"n\">lost<br>commits</th></tr>\n",
    );
    for outcome in outcomes {
        let name = escape(&outcome.name);
        let _ = write!(
            html,
            "<tr><td><a href=\"#{name}\">{name}</a></td><td>{}</td>",
            verdict(outcome.is_well())
        );
        if let Ended::Measured(all) = &outcome.ended {
            let (measured, figures, _) = all.as_ref();
            for value in [
                figures.tps,
                figures.wal_mb_per_second,
                ms(figures.lag.value_at_quantile(0.5)),
                ms(figures.lag.value_at_quantile(0.99)),
                figures.put_p99.as_secs_f64() * 1000.0,
                ms(figures.commit.value_at_quantile(0.99)),
                figures.agent_cpu_share * 100.0,
                figures.agent_rss_peak_mib,
                figures.not_archived.max(measured.not_restored) as f64,
            ] {
                let _ = write!(html, "<td class=\"n\">{}</td>", short(value));
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

fn section(html: &mut String, outcome: &Outcome) {
    let name = escape(&outcome.name);
    let _ = writeln!(
        html,
        "<section id=\"{name}\">\n<h2>{name} {}</h2>\n<p>{}</p>",
        verdict(outcome.is_well()),
        escape(&outcome.about)
    );
    match &outcome.ended {
        Ended::Failed(error) => {
            let _ = writeln!(html, "<pre>{}</pre>", escape(error));
        }
        Ended::Measured(all) => {
            let (measured, figures, rows) = all.as_ref();
            let _ = writeln!(html, "<p class=\"soft\">{}</p>", escape(&setting(measured)));
            table(html, rows);
            pictures::draw(html, measured, figures);
            said(html, measured);
        }
    }
    html.push_str("</section>\n");
}

/// One line about how it was run.
fn setting(measured: &Measured) -> String {
    let store = match measured.scenario.store {
        Store::Local => "repository in a directory".to_owned(),
        Store::S3 {
            latency_ms,
            errors_percent,
        } => {
            let mut text = "repository on S3".to_owned();
            if latency_ms > 0 {
                let _ = write!(text, ", {latency_ms} ms away");
            }
            if errors_percent > 0 {
                let _ = write!(text, ", {errors_percent} % errors");
            }
            text
        }
    };
    let mut text = format!(
        "{store} · ship interval {:?} · {:.0} s · {} commits acknowledged · restored in {:.1} s",
        measured.scenario.ship_interval(),
        measured.plan.length().as_secs_f64(),
        number(measured.commits.len() as f64),
        measured.restored_in.as_secs_f64()
    );
    for backup in &measured.backups {
        let _ = write!(text, " · backup took {:.1} s", backup.as_secs_f64());
    }
    text
}

fn table(html: &mut String, rows: &[Row]) {
    html.push_str(
        "<div class=\"scroll\"><table>\n<tr><th>what</th><th class=\"n\">measured</th><th></th><th class=\"n\">limit</th>\
         <th class=\"n\">of limit</th><th>the limit is</th><th>verdict</th></tr>\n",
    );
    for row in rows {
        let (class, limit, from, word) = match &row.limit {
            None => (" class=\"free\"", String::new(), String::new(), ""),
            Some(limit) => {
                let sign = if limit.is_least { "≥" } else { "≤" };
                let bound = format!("{sign} {}", short(limit.bound));
                ("", bound, limit.from.clone(), verdict(row.is_well()))
            }
        };
        let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let unit = if row.unit == "ratio" { "" } else { row.unit };
        let _ = writeln!(
            html,
            "<tr{class}><td>{}</td><td class=\"n\">{}</td><td class=\"u\">{}</td><td class=\"n\">{limit}</td>\
             <td class=\"n\">{ratio}</td><td>{}</td><td>{word}</td></tr>",
            escape(row.name),
            if row.is_count() {
                number(row.value)
            } else {
                short(row.value)
            },
            escape(unit),
            escape(&from)
        );
    }
    html.push_str("</table></div>\n");
}

/// What our programs warned of, and what an idle one asked the store for.
fn said(html: &mut String, measured: &Measured) {
    // Without the time.
    let without_time = |line: &String| {
        line.split_once(' ')
            .map_or(line.as_str(), |(_, rest)| rest)
            .trim()
            .to_owned()
    };
    let warnings = measured.warnings.iter().map(without_time);
    lines(html, "Warnings of agent and backup", warnings);
    if let Some(requests) = &measured.requests {
        lines(
            html,
            "Requests while nothing was committed",
            requests.idle.iter().cloned(),
        );
    }
}

/// Each text once, with how often it came.
fn lines(html: &mut String, title: &str, all: impl Iterator<Item = String>) {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for line in all {
        let text: String = line.chars().take(LINE_LETTERS).collect();
        match counted.iter_mut().find(|(seen, _)| *seen == text) {
            Some((_, count)) => *count += 1,
            None => counted.push((text, 1)),
        }
    }
    if counted.is_empty() {
        return;
    }
    let _ = write!(html, "<h3>{title}</h3>\n<pre>");
    for (text, count) in counted.iter().take(LINES_MAX) {
        let _ = writeln!(html, "{count:>4} × {}", escape(text));
    }
    if counted.len() > LINES_MAX {
        let _ = writeln!(html, "     and {} more", counted.len() - LINES_MAX);
    }
    html.push_str("</pre>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge;
    use crate::run::example;

    #[test]
    fn the_page_stands_alone_and_says_what_is_broken() {
        let measured = example();
        let figures = Figures::of(&measured).unwrap();
        let rows = judge::rows(
            &measured.scenario,
            &figures,
            measured.requests.as_ref(),
            measured.not_restored,
        );
        let outcomes = [
            Outcome {
                name: "example".to_owned(),
                about: "An <example>.".to_owned(),
                ended: Ended::Measured(Box::new((measured, figures, rows))),
            },
            Outcome {
                name: "other".to_owned(),
                about: "Another.".to_owned(),
                ended: Ended::Failed("no server".to_owned()),
            },
        ];
        assert!(!outcomes[0].is_well() && !outcomes[1].is_well());
        let html = page(&outcomes, "a machine");
        for wanted in [
            "An &lt;example&gt;.",
            "no server",
            "class=\"verdict bad\"",
            "class=\"verdict good\"",
            ">time since the begin (s)</text>",
            ">lag (ms)</text>",
            ">percentile</text>",
            ">resident memory (MiB)</text>",
            ">CPU (% of a core)</text>",
            ">WAL (MB/s)</text>",
            ">store away</text>",
        ] {
            assert!(html.contains(wanted), "no {wanted}");
        }
        for foreign in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!html.contains(foreign), "{foreign} in the page");
        }
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    }
}
