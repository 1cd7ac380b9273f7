//! Horizontal bars, one a name, with a scale and its unit below: who took how much.

use std::fmt::Write as _;

use crate::scale::Scale;
use crate::{LETTER, escape, short, text};

/// Title.
const HEAD: f64 = 30.0;
/// One bar with its room.
const ROW: f64 = 24.0;
const BAR: f64 = 15.0;
/// Ticks and the label of the scale.
const FOOT: f64 = 44.0;
/// Room for the figure behind the longest bar.
const MARGIN_RIGHT: f64 = 50.0;
const GAP: f64 = 8.0;

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose it is.
    pub name: String,
    /// Which of the page's colours: 1 to 6.
    pub colour: u8,
    /// Its length; nothing is drawn where there is no figure, and that is written.
    pub value: Option<f64>,
}

/// A picture.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// What the scale is, with its unit.
    pub label: String,
    /// In pixels.
    pub width: f64,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// The whole element.
    #[must_use]
    pub fn svg(&self) -> String {
        let longest = self.bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
        let left = longest as f64 * LETTER + 2.0 * GAP;
        let right = self.width - MARGIN_RIGHT;
        let bottom = HEAD + self.bars.len() as f64 * ROW;
        let largest = self.bars.iter().filter_map(|bar| bar.value).fold(0.0, f64::max);
        let scale = Scale::linear(0.0, largest);
        let place = |value: f64| left + scale.place(value) * (right - left);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
            self.width,
            bottom + FOOT,
            escape(&self.title)
        );
        text(&mut svg, GAP, 16.0, "title", "start", &self.title);
        for tick in scale.ticks(4) {
            let x = place(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD:.1}\" y2=\"{:.1}\"/>",
                bottom + 4.0
            );
            text(&mut svg, x, bottom + 18.0, "tick", "middle", &scale.name(tick));
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let top = HEAD + row as f64 * ROW + (ROW - BAR) / 2.0;
            let middle = top + BAR / 2.0 + 4.0;
            text(&mut svg, left - GAP, middle, "small", "end", &bar.name);
            let Some(value) = bar.value else {
                text(&mut svg, left + 4.0, middle, "tick", "start", "n/a");
                continue;
            };
            let _ = writeln!(
                svg,
                "<rect class=\"f{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
                bar.colour,
                (place(value) - left).max(1.0)
            );
            text(&mut svg, place(value) + 5.0, middle, "value", "start", &short(value));
        }
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{left:.1} {HEAD:.1}V{bottom:.1}H{right:.1}\"/>"
        );
        let centre = f64::midpoint(left, right);
        text(&mut svg, centre, bottom + FOOT - 8.0, "label", "middle", &self.label);
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, colour: u8, value: Option<f64>) -> Bar {
        Bar {
            name: name.to_owned(),
            colour,
            value,
        }
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_have_a_unit() {
        let picture = Bars {
            title: "Full <backup>".to_owned(),
            label: "wall (s)".to_owned(),
            width: 500.0,
            bars: vec![bar("a", 1, Some(2.5)), bar("b", 2, Some(5.0)), bar("longer", 3, None)],
        };
        let svg = picture.svg();
        for wanted in [
            "Full &lt;backup&gt;",
            ">wall (s)</text>",
            ">2.50</text>",
            ">5</text>",
            ">n/a</text>",
        ] {
            assert!(svg.contains(wanted), "no {wanted} in\n{svg}");
        }
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect"))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 2.0).abs() < 0.01, "{widths:?}");
    }

    #[test]
    fn nothing_measured_is_no_accident() {
        let picture = Bars {
            title: String::new(),
            label: String::new(),
            width: 300.0,
            bars: vec![bar("a", 1, None)],
        };
        assert!(!picture.svg().contains("NaN"));
    }
}
