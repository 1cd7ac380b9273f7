//! A plot as SVG text: lines over a scale, with a label and a unit on each axis. Colours come from the page, so that it can be dark.

use std::fmt::Write as _;

use crate::scale::Scale;
use crate::{LETTER, escape, text};

const MARGIN_LEFT: f64 = 76.0;
const MARGIN_RIGHT: f64 = 26.0;
const MARGIN_BOTTOM: f64 = 46.0;
/// Title and legend.
const HEAD: f64 = 46.0;
/// Of names above the plot.
const ROW: f64 = 15.0;
/// With fewer points each one is drawn.
const DOTS_BELOW: usize = 40;

/// One axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it is, with its unit.
    pub label: String,
    /// From values to places.
    pub scale: Scale,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    /// As the legend has it.
    pub name: String,
    /// Which of the page's colours: 1 to 4.
    pub colour: u8,
    /// Along and up.
    pub points: Vec<(f64, f64)>,
    /// Points that are further apart are not joined.
    pub gap: f64,
}

/// A picture.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// In pixels.
    pub width: f64,
    /// In pixels, without the rows of names.
    pub height: f64,
    /// Along.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// The lines, the last one on top.
    pub series: Vec<Series>,
    /// From, to and name of what lasts.
    pub bands: Vec<(f64, f64, String)>,
    /// Moments with names.
    pub marks: Vec<(f64, String)>,
    /// Horizontal lines with names.
    pub limits: Vec<(f64, String)>,
}

impl Plot {
    /// The whole element.
    #[must_use]
    pub fn svg(&self) -> String {
        let names = self.name_rows();
        let rows = names.iter().map(|(row, ..)| row + 1).max().unwrap_or(0);
        let frame = Frame {
            left: MARGIN_LEFT,
            top: HEAD + rows as f64 * ROW,
            right: self.width - MARGIN_RIGHT,
            bottom: self.height - MARGIN_BOTTOM + rows as f64 * ROW,
        };
        let height = frame.bottom + MARGIN_BOTTOM;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"{}\">\n",
            self.width,
            escape(&self.title)
        );
        self.head(&mut svg);
        self.draw_bands(&mut svg, &frame);
        self.axes(&mut svg, &frame, height);
        self.draw_limits(&mut svg, &frame);
        for series in &self.series {
            self.line(&mut svg, &frame, series);
        }
        self.draw_marks(&mut svg, &frame, &names);
        svg.push_str("</svg>\n");
        svg
    }

    fn x(&self, frame: &Frame, value: f64) -> f64 {
        frame.left + self.x.scale.place(value) * (frame.right - frame.left)
    }

    fn y(&self, frame: &Frame, value: f64) -> f64 {
        frame.bottom - self.y.scale.place(value) * (frame.bottom - frame.top)
    }

    fn head(&self, svg: &mut String) {
        text(svg, MARGIN_LEFT, 16.0, "title", "start", &self.title);
        let mut at = MARGIN_LEFT;
        for series in &self.series {
            let _ = writeln!(
                svg,
                "<line class=\"c{}\" x1=\"{at:.1}\" x2=\"{:.1}\" y1=\"31\" y2=\"31\"/>",
                series.colour,
                at + 16.0
            );
            text(svg, at + 21.0, 35.0, "small", "start", &series.name);
            at += 21.0 + series.name.chars().count() as f64 * LETTER + 18.0;
        }
    }

    fn axes(&self, svg: &mut String, frame: &Frame, height: f64) {
        for tick in self.y.scale.ticks(5) {
            let y = self.y(frame, tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                frame.left, frame.right
            );
            text(svg, frame.left - 8.0, y + 4.0, "tick", "end", &self.y.scale.name(tick));
        }
        for tick in self.x.scale.ticks(10) {
            let x = self.x(frame, tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                frame.top,
                frame.bottom + 4.0
            );
            text(svg, x, frame.bottom + 18.0, "tick", "middle", &self.x.scale.name(tick));
        }
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{:.1} {:.1}V{:.1}H{:.1}\"/>",
            frame.left, frame.top, frame.bottom, frame.right
        );
        let middle = f64::midpoint(frame.left, frame.right);
        text(svg, middle, height - 8.0, "label", "middle", &self.x.label);
        let middle = f64::midpoint(frame.top, frame.bottom);
        let _ = writeln!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(15 {middle:.1}) rotate(-90)\">{}</text>",
            escape(&self.y.label)
        );
    }

    fn line(&self, svg: &mut String, frame: &Frame, series: &Series) {
        let mut path = String::new();
        let mut last = None;
        for (x, y) in &series.points {
            let joins = last.is_some_and(|last| x - last <= series.gap);
            let pen = if joins { 'L' } else { 'M' };
            let _ = write!(path, "{pen}{:.1} {:.1}", self.x(frame, *x), self.y(frame, *y));
            last = Some(*x);
        }
        if path.is_empty() {
            return;
        }
        let _ = writeln!(svg, "<path class=\"c{}\" d=\"{path}\"/>", series.colour);
        if series.points.len() < DOTS_BELOW {
            for (x, y) in &series.points {
                let (x, y) = (self.x(frame, *x), self.y(frame, *y));
                let _ = writeln!(
                    svg,
                    "<circle class=\"f{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\"/>",
                    series.colour
                );
            }
        }
    }

    fn draw_bands(&self, svg: &mut String, frame: &Frame) {
        for (number, (from, to, _)) in self.bands.iter().enumerate() {
            let (from, to) = (self.x(frame, *from), self.x(frame, *to));
            let _ = writeln!(
                svg,
                "<rect class=\"band{}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                number % 2,
                frame.top,
                (to - from).max(0.0),
                frame.bottom - frame.top
            );
        }
    }

    fn draw_limits(&self, svg: &mut String, frame: &Frame) {
        for (value, name) in &self.limits {
            let y = self.y(frame, *value);
            let _ = writeln!(
                svg,
                "<line class=\"limit\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                frame.left, frame.right
            );
            text(svg, frame.right - 4.0, y - 5.0, "small of-limit", "end", name);
        }
    }

    fn draw_marks(&self, svg: &mut String, frame: &Frame, names: &[(usize, f64, bool, String)]) {
        let rows = names.iter().filter(|(_, _, is_mark, _)| *is_mark).map(|(row, ..)| *row);
        for ((at, _), row) in self.marks.iter().zip(rows) {
            let x = self.x(frame, *at);
            // From its own name on, so that it crosses no other.
            let _ = writeln!(
                svg,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                HEAD + row as f64 * ROW,
                frame.bottom
            );
        }
        for (row, x, is_mark, name) in names {
            let class = if *is_mark { "small of-mark" } else { "small of-band" };
            text(svg, *x, HEAD + (*row as f64 + 1.0) * ROW - 4.0, class, "start", name);
        }
    }

    /// Names above the plot, each in the first row in which there is room: row, place, whether it is a mark's.
    fn name_rows(&self) -> Vec<(usize, f64, bool, String)> {
        let across = Frame {
            left: MARGIN_LEFT,
            right: self.width - MARGIN_RIGHT,
            top: 0.0,
            bottom: 0.0,
        };
        let marks = self
            .marks
            .iter()
            .map(|(at, name)| (self.x(&across, *at) + 4.0, true, name));
        let bands = self
            .bands
            .iter()
            .map(|(from, _, name)| (self.x(&across, *from) + 4.0, false, name));
        let mut ends: Vec<f64> = Vec::new();
        let mut placed = Vec::new();
        for (wanted, is_mark, name) in bands.chain(marks) {
            let width = name.chars().count() as f64 * LETTER;
            let begin = wanted.min(across.right - width);
            let row = ends.iter().position(|end| *end + 8.0 <= begin).unwrap_or(ends.len());
            if row == ends.len() {
                ends.push(0.0);
            }
            if let Some(end) = ends.get_mut(row) {
                *end = begin + width;
            }
            placed.push((row, begin, is_mark, name.clone()));
        }
        placed
    }
}

/// Where the lines are.
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

#[cfg(test)]
mod tests;
