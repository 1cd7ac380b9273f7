//! From values to places on an axis, and which values are named there.

/// Decades that a logarithmic axis has at least.
const DECADES_MIN: f64 = 1.0;

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// Equal steps are equally far apart.
    Linear {
        /// One end.
        from: f64,
        /// The other.
        to: f64,
    },
    /// Both ends are powers of ten.
    Log {
        /// One end.
        from: f64,
        /// The other.
        to: f64,
    },
    /// Shares of all: 0, 0.9, 0.99 and so on lie equally far apart, up to so many nines.
    Nines {
        /// How many.
        nines: f64,
    },
}

impl Scale {
    /// Up to a round number at or above `to`.
    #[must_use]
    pub fn linear(from: f64, to: f64) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        let step = round_step((to - from) / 5.0);
        let to = from + ((to - from) / step - 1e-9).ceil() * step;
        Scale::Linear { from, to }
    }

    /// As it is, without a rounded end.
    #[must_use]
    pub fn exactly(from: f64, to: f64) -> Self {
        Scale::Linear {
            from,
            to: to.max(from + 1e-3),
        }
    }

    /// Whole decades around what is there.
    #[must_use]
    pub fn log(smallest: f64, largest: f64) -> Self {
        let from = smallest.max(1e-3).log10().floor();
        let to = largest.max(1e-3).log10().ceil().max(from + DECADES_MIN);
        Scale::Log {
            from: 10f64.powf(from),
            to: 10f64.powf(to),
        }
    }

    /// As many nines as so many values can tell.
    #[must_use]
    pub fn nines(count: u64) -> Self {
        let nines = (count.max(10) as f64).log10();
        Scale::Nines { nines }
    }

    /// 0 at one end, 1 at the other; what lies outside is put at the end.
    #[must_use]
    pub fn place(self, value: f64) -> f64 {
        let place = match self {
            Scale::Linear { from, to } => (value - from) / (to - from),
            Scale::Log { from, to } => (value.max(from).log10() - from.log10()) / (to.log10() - from.log10()),
            Scale::Nines { nines } => -(1.0 - value).max(1e-12).log10() / nines,
        };
        place.clamp(0.0, 1.0)
    }

    /// Round values, about so many.
    #[must_use]
    pub fn ticks(self, about: usize) -> Vec<f64> {
        match self {
            Scale::Linear { from, to } => {
                let step = round_step((to - from) / about as f64);
                let count = ((to - from) / step + 1e-9).floor() as usize;
                (0..=count).map(|n| from + n as f64 * step).collect()
            }
            Scale::Log { from, to } => {
                let count = (to.log10() - from.log10()).round() as i32;
                (0..=count).map(|n| from * 10f64.powi(n)).collect()
            }
            Scale::Nines { nines } => {
                let whole = (0..=nines.floor() as i32).map(|n| 1.0 - 10f64.powi(-n));
                let mut all: Vec<f64> = whole.chain([0.5]).collect();
                all.sort_by(f64::total_cmp);
                all
            }
        }
    }

    /// As it stands at a tick.
    #[must_use]
    pub fn name(self, value: f64) -> String {
        match self {
            Scale::Nines { .. } => {
                let percent = format!("{:.6}", value * 100.0);
                let short = percent.trim_end_matches('0').trim_end_matches('.');
                format!("{short} %")
            }
            _ => number(value),
        }
    }
}

/// 1, 2 or 5 times a power of ten, at or above `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(1e-9).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|times| times * power >= step * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

/// With thousands apart, and no more digits than needed.
#[must_use]
pub fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let part = part.trim_end_matches('0');
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let point = if part.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_ticks_are_round() {
        let scale = Scale::linear(0.0, 1340.0);
        assert_eq!(scale, Scale::Linear { from: 0.0, to: 1500.0 });
        assert_eq!(scale.ticks(5), [0.0, 500.0, 1000.0, 1500.0]);
        assert_eq!(scale.place(750.0), 0.5);
        assert_eq!(Scale::log(0.4, 53.0), Scale::Log { from: 0.1, to: 100.0 });
        assert_eq!(Scale::log(0.4, 53.0).ticks(5).len(), 4);
        assert_eq!(Scale::linear(0.0, 0.0).ticks(5).len(), 6);
    }

    #[test]
    fn each_nine_takes_as_much_room() {
        let scale = Scale::nines(10_000);
        for (share, place) in [(0.0, 0.0), (0.9, 0.25), (0.99, 0.5), (0.999, 0.75), (1.0, 1.0)] {
            assert!((scale.place(share) - place).abs() < 1e-9, "{share}");
        }
        let names: Vec<String> = scale.ticks(10).into_iter().map(|tick| scale.name(tick)).collect();
        assert_eq!(names, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1234567.0, "1,234,567"),
            (0.25, "0.25"),
            (20.0, "20"),
            (2.5, "2.5"),
            (-1500.0, "-1,500"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
