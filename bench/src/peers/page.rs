//! `target/bench/peers.html`: what the board has, as pictures with a table under each. Pure functions from figures to text.

use std::fmt::Write as _;

use picture::bars::{Bar, Bars};
use picture::dots::{Dots, Name, Row};
use picture::{document, escape, short};

use crate::peers::board::{Board, COLUMNS, Column, Figures, Line, Section};
use crate::peers::ours::Ours;

/// Three pictures side by side.
const THIRD: f64 = 344.0;
const WIDE: f64 = 1032.0;
/// Columns that have an overview.
const OVERVIEWS: [(usize, &str, &str); 3] = [
    (
        0,
        "Time: how many times as long as Seawall",
        "time, as a multiple of Seawall's (logarithmic)",
    ),
    (
        1,
        "CPU: how many times as much as Seawall",
        "CPU, as a multiple of Seawall's (logarithmic)",
    ),
    (
        2,
        "Memory: how many times as much as Seawall",
        "peak memory, as a multiple of Seawall's (logarithmic)",
    ),
];

/// What stands above and below the sections.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Cores, processor, memory.
    pub machine: String,
    /// When it was.
    pub date: String,
    /// How much of what, and how often.
    pub sizes: String,
    /// Of every program.
    pub versions: Vec<String>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
}

/// The whole page.
#[must_use]
pub fn page(board: &Board, setting: &Setting) -> String {
    let mut body = String::new();
    let _ = writeln!(
        body,
        "<p>{}</p>\n<p class=\"soft\">{} · {}</p>\n<p class=\"soft\">{}</p>",
        escape(&setting.sizes),
        escape(&setting.machine),
        escape(&setting.date),
        escape(&setting.versions.join(" · "))
    );
    body.push_str(
        "<p>Less is better in every picture. To the right of the dashed line another program took more than Seawall, to the left less.</p>\n",
    );
    for (column, title, label) in OVERVIEWS {
        if let Some(column) = COLUMNS.get(column) {
            figure(&mut body, &overview(board, *column, title, label).svg());
        }
    }
    let mut group = "";
    for section in &board.sections {
        if section.group != group {
            if !group.is_empty() {
                body.push_str("</section>\n");
            }
            group = &section.group;
            let _ = writeln!(body, "<section>\n<h2>{}</h2>", escape(group));
        }
        one(&mut body, section);
    }
    if !group.is_empty() {
        body.push_str("</section>\n");
    }
    left_out(&mut body, setting);
    document("Seawall beside other programs", &body)
}

fn figure(body: &mut String, svg: &str) {
    let _ = writeln!(body, "<figure>{svg}</figure>");
}

/// A colour a program, the same all over the page.
fn colour(program: &str) -> u8 {
    let of = |start: &str| program.starts_with(start);
    match () {
        () if of(Ours::NAME) => 1,
        () if of("pgBackRest") => 2,
        () if of("Barman") => 4,
        () if of("pg_") => 5,
        () if of("WAL-") => 6,
        () => 3,
    }
}

/// One dot a program, whichever way it went; its fastest way where it has several.
fn overview(board: &Board, (_, _, of): Column, title: &str, label: &str) -> Dots {
    let families = [
        ("pgBackRest", "pgBackRest"),
        ("Barman", "Barman"),
        ("pg_", "pg_basebackup, pg_receivewal"),
        ("WAL-", "WAL-G, WAL-RUS"),
    ];
    let is_there = |start: &str| {
        let mut lines = board.sections.iter().flat_map(|section| &section.lines);
        lines.any(|line| line.program.starts_with(start) && line.figures.is_ok())
    };
    let families: Vec<_> = families.into_iter().filter(|(start, _)| is_there(start)).collect();
    let row = |section: &Section| {
        let least = |start: &str| {
            let lines = section.lines.iter().filter(|line| line.program.starts_with(start));
            lines.filter_map(|line| section.times(line, of)).min_by(f64::total_cmp)
        };
        Row {
            name: format!("{}: {}", section.group, section.title),
            times: families.iter().map(|(start, _)| least(start)).collect(),
        }
    };
    Dots {
        title: title.to_owned(),
        label: label.to_owned(),
        one: "as Seawall".to_owned(),
        width: WIDE,
        names: families
            .iter()
            .map(|(start, name)| Name {
                name: (*name).to_owned(),
                colour: colour(start),
            })
            .collect(),
        rows: board.sections.iter().map(row).collect(),
    }
}

fn one(body: &mut String, section: &Section) {
    let _ = writeln!(
        body,
        "<h3>{}</h3>\n<p class=\"soft\">{}</p>\n<div class=\"three\">",
        escape(&capital(&section.title)),
        escape(&section.about)
    );
    for (name, unit, of) in COLUMNS {
        picture(body, section, name, unit, of);
    }
    for (at, name) in phases(section).iter().enumerate() {
        picture(body, section, name, "s", |figures| {
            figures.phases.get(at).map(|phase| phase.1)
        });
    }
    body.push_str("</div>\n");
    table(body, section);
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Names of the parts, where more than one program has some: of one alone there is nothing to compare.
fn phases(section: &Section) -> Vec<String> {
    let has_some = |line: &&Line| line.figures.as_ref().is_ok_and(|figures| !figures.phases.is_empty());
    if section.lines.iter().filter(has_some).count() < 2 {
        return Vec::new();
    }
    let of = |line: &Line| line.figures.as_ref().ok().map(|figures| figures.phases.clone());
    let longest = section
        .lines
        .iter()
        .filter_map(of)
        .max_by_key(Vec::len)
        .unwrap_or_default();
    longest.into_iter().map(|(name, _)| name).collect()
}

fn picture(body: &mut String, section: &Section, name: &str, unit: &str, of: impl Fn(&Figures) -> Option<f64>) {
    let bar = |line: &Line| Bar {
        name: line.program.clone(),
        colour: colour(&line.program),
        value: line.figures.as_ref().ok().and_then(&of),
    };
    let bars: Vec<Bar> = section.lines.iter().map(bar).collect();
    if bars.iter().any(|bar| bar.value.is_some()) {
        let picture = Bars {
            title: capital(name),
            label: format!("{name} ({unit})"),
            width: THIRD,
            bars,
        };
        figure(body, &picture.svg());
    }
}

fn table(body: &mut String, section: &Section) {
    body.push_str("<div class=\"scroll\"><table>\n<tr><th>program</th>");
    for (name, unit, _) in COLUMNS {
        let _ = write!(body, "<th class=\"n\">{name}<br>{unit}</th>");
    }
    body.push_str("<th class=\"n\">shortest, longest<br>s</th><th class=\"n\">time<br>of Seawall's</th></tr>\n");
    for line in &section.lines {
        let class = if line.is_ours() { " class=\"ours\"" } else { "" };
        let _ = write!(body, "<tr{class}><td>{}</td>", escape(&line.program));
        match &line.figures {
            Err(why) => {
                let _ = write!(
                    body,
                    "<td class=\"u\" colspan=\"{}\">n/a: {}</td>",
                    COLUMNS.len() + 2,
                    escape(why)
                );
            }
            Ok(figures) => {
                for (_, _, of) in COLUMNS {
                    let _ = write!(
                        body,
                        "<td class=\"n\">{}</td>",
                        of(figures).map_or_else(String::new, short)
                    );
                }
                let (least, most) = figures.wall_range_s;
                let times = section.times(line, |figures| Some(figures.wall_s));
                let _ = write!(
                    body,
                    "<td class=\"n\">{} – {}</td><td class=\"n\">{}</td>",
                    short(least),
                    short(most),
                    times.map_or_else(String::new, short)
                );
            }
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table></div>\n");
}

fn left_out(body: &mut String, setting: &Setting) {
    body.push_str("<section>\n<h2>What was not measured, and what must be known</h2>\n<ul>\n");
    for text in &setting.left_out {
        let _ = writeln!(body, "<li>{}</li>", escape(text));
    }
    body.push_str("</ul>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::board::example;

    #[test]
    fn the_page_stands_alone_and_has_a_picture_and_a_cell_for_every_figure() {
        let setting = Setting {
            machine: "2 cores".to_owned(),
            date: "2026-11-28".to_owned(),
            sizes: "2 GB".to_owned(),
            versions: vec!["one 1".to_owned(), "two 2".to_owned()],
            left_out: vec!["WAL-G: <none> was given".to_owned()],
        };
        let html = page(&example(), &setting);
        for wanted in [
            "one 1 · two 2",
            "WAL-G: &lt;none&gt; was given",
            "Each into an empty &lt;repository&gt;.",
            ">time (s)</text>",
            ">CPU (s)</text>",
            ">peak memory (MiB)</text>",
            ">stored (MB)</text>",
            ">first &lt;part&gt; (s)</text>",
            "n/a: needs PostgreSQL 17",
            "<tr class=\"ours\"><td>Seawall</td>",
        ] {
            assert!(html.contains(wanted), "no {wanted}");
        }
        for foreign in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!html.contains(foreign), "{foreign} in the page");
        }
        for tag in ["svg", "section", "table", "div", "figure"] {
            let (begun, ended) = (format!("<{tag}"), format!("</{tag}>"));
            assert_eq!(html.matches(&begun).count(), html.matches(&ended).count(), "{tag}");
        }
        // What stores nothing has no picture of it: three overviews, five and three columns, and a part each.
        assert_eq!(html.matches("<svg").count(), 3 + 6 + 4);
        assert!(!html.contains("NaN"));
    }
}
