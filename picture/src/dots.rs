//! One line a row, and on it a dot for each name: how many times as much each took as the one all are held against.

use std::fmt::Write as _;

use crate::scale::number;
use crate::{LETTER, escape, short, text};

/// Title and legend.
const HEAD: f64 = 58.0;
const ROW: f64 = 26.0;
const FOOT: f64 = 46.0;
const MARGIN_RIGHT: f64 = 30.0;
const GAP: f64 = 10.0;
const RADIUS: f64 = 5.5;
/// What the scale names, as far as there are dots.
const TICKS: [f64; 16] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
];

/// A name and its colour: 1 to 6.
#[derive(Debug, Clone)]
pub struct Name {
    /// As the legend has it.
    pub name: String,
    /// Which of the page's colours.
    pub colour: u8,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// For each of the names, in their order; above 0.
    pub times: Vec<Option<f64>>,
}

/// A picture, over a logarithmic scale.
#[derive(Debug, Clone)]
pub struct Dots {
    /// What it shows.
    pub title: String,
    /// What the scale is.
    pub label: String,
    /// What 1 means.
    pub one: String,
    /// In pixels.
    pub width: f64,
    /// Who has dots.
    pub names: Vec<Name>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

impl Dots {
    /// The whole element.
    #[must_use]
    pub fn svg(&self) -> String {
        let longest = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let left = longest as f64 * LETTER + 2.0 * GAP;
        let right = self.width - MARGIN_RIGHT;
        let bottom = HEAD + self.rows.len() as f64 * ROW;
        let (from, to) = self.range();
        let place = |times: f64| left + (times / from).ln() / (to / from).ln() * (right - left);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
            self.width,
            bottom + FOOT,
            escape(&self.title)
        );
        text(&mut svg, GAP, 16.0, "title", "start", &self.title);
        self.legend(&mut svg);
        for tick in TICKS.iter().filter(|tick| **tick >= from && **tick <= to) {
            let x = place(*tick);
            let class = if *tick == 1.0 { "limit" } else { "grid" };
            let _ = writeln!(
                svg,
                "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD:.1}\" y2=\"{:.1}\"/>",
                bottom + 4.0
            );
            text(
                &mut svg,
                x,
                bottom + 18.0,
                "tick",
                "middle",
                &format!("{} ×", number(*tick)),
            );
        }
        text(&mut svg, place(1.0), HEAD - 5.0, "small of-limit", "middle", &self.one);
        for (at, row) in self.rows.iter().enumerate() {
            let y = HEAD + (at as f64 + 0.5) * ROW;
            text(&mut svg, left - GAP, y + 4.0, "small", "end", &row.name);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            for (name, times) in self.names.iter().zip(&row.times) {
                let Some(times) = times else { continue };
                let _ = writeln!(
                    svg,
                    "<circle class=\"f{}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\"><title>{}: {} {} ×</title></circle>",
                    name.colour,
                    place(*times),
                    escape(&row.name),
                    escape(&name.name),
                    short(*times)
                );
            }
        }
        let centre = f64::midpoint(left, right);
        text(&mut svg, centre, bottom + FOOT - 8.0, "label", "middle", &self.label);
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let mut at = GAP;
        for name in &self.names {
            let _ = writeln!(
                svg,
                "<circle class=\"f{}\" cx=\"{:.1}\" cy=\"32\" r=\"{RADIUS}\"/>",
                name.colour,
                at + RADIUS
            );
            text(svg, at + 2.0 * RADIUS + 5.0, 36.0, "small", "start", &name.name);
            at += 2.0 * RADIUS + 5.0 + name.name.chars().count() as f64 * LETTER + 16.0;
        }
    }

    /// From tick to tick, around all dots and 1.
    fn range(&self) -> (f64, f64) {
        let all = || self.rows.iter().flat_map(|row| row.times.iter().flatten().copied());
        let (least, most) = (all().fold(0.9, f64::min), all().fold(1.1, f64::max));
        let from = TICKS.iter().rev().copied().find(|tick| *tick <= least);
        let to = TICKS.iter().copied().find(|tick| *tick >= most);
        (from.unwrap_or(least), to.unwrap_or(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_on_the_line_and_twice_is_to_its_right() {
        let name = |name: &str, colour| Name {
            name: name.to_owned(),
            colour,
        };
        let svg = Dots {
            title: "Time".to_owned(),
            label: "times".to_owned(),
            one: "as long".to_owned(),
            width: 800.0,
            names: vec![name("a", 1), name("b", 2)],
            rows: vec![Row {
                name: "restore".to_owned(),
                times: vec![Some(1.0), Some(2.0)],
            }],
        }
        .svg();
        let number = |line: &str, name: &str| -> f64 {
            let rest = line.split(&format!("{name}=\"")).nth(1).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let line = svg.lines().find(|line| line.contains("class=\"limit\"")).unwrap();
        let dots: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("<title>"))
            .map(|line| number(line, "cx"))
            .collect();
        assert_eq!(dots.len(), 2);
        assert!((dots[0] - number(line, "x1")).abs() < 0.2, "{svg}");
        assert!(dots[1] > dots[0] + 50.0, "{svg}");
        assert!(svg.contains(">restore</text>") && svg.contains(">times</text>"));
    }
}
