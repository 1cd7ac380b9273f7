//! Pages with pictures, for people who would rather look than read: what `bench` and `loadtest` share.
//!
//! Everything is a pure function from figures to text. A page needs nothing beside it, neither files nor scripts nor a network, and
//! its colours follow what the reader prefers, light or dark.

pub mod bars;
pub mod dots;
pub mod plot;
pub mod scale;

use std::fmt::Write as _;

pub use plot::{Axis, Plot, Series};
pub use scale::{Scale, number};

const STYLE: &str = include_str!("style.css");
/// What a letter of the small print takes, on average.
const LETTER: f64 = 6.1;

/// A whole page around `body`.
#[must_use]
pub fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// As text of HTML and SVG.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Three digits are enough to look at; whole numbers, most of which are counts, have no more.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => number(value.round()),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, content: &str) {
    let content = escape(content);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_beside_it() {
        let page = document("A <page>", "<p>text</p>\n");
        assert!(page.contains("<h1>A &lt;page&gt;</h1>\n<p>text</p>"), "{page}");
        for foreign in ["http://", "https://", "<script", "<link", "src=", "url("] {
            assert!(!page.contains(foreign), "{foreign} in the page");
        }
    }

    #[test]
    fn three_digits_are_shown() {
        for (value, text) in [
            (0.0, "0"),
            (1234.5, "1,235"),
            (12.34, "12.3"),
            (0.123, "0.12"),
            (5.0, "5"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
