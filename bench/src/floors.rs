//! Figures of a run against the least that is let through (`bench/floor.toml`).

use std::collections::BTreeMap;

use serde::Deserialize;

/// How a ratio may be.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// More is better.
    pub at_least: Option<f64>,
    /// Less is better.
    pub at_most: Option<f64>,
}

/// By question, then by the name of the figure.
pub type Floors = BTreeMap<String, BTreeMap<String, Floor>>;

/// A figure that was measured.
#[derive(Debug, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
    /// Held against something of the same run.
    pub ratio: Option<f64>,
    /// What that is.
    pub peer: Option<String>,
}

/// What is below its floor, or was not measured at all, with the command that shows it.
#[must_use]
pub fn broken(question: &str, floors: &BTreeMap<String, Floor>, measured: &[Measured]) -> Vec<String> {
    let command = format!("make bench ARGS=\"--bench {question}\"");
    let judge = |(name, floor): (&String, &Floor)| {
        let Some(figure) = measured.iter().find(|figure| figure.name == *name) else {
            return Some(format!("{question}: \"{name}\" was not measured ({command})"));
        };
        let ratio = figure.ratio.filter(|ratio| ratio.is_finite());
        let Some(ratio) = ratio else {
            return Some(format!("{question}: \"{name}\" is held against nothing ({command})"));
        };
        let is_low = floor.at_least.is_some_and(|least| ratio < least);
        let is_high = floor.at_most.is_some_and(|most| ratio > most);
        let (word, limit) = match (is_low, is_high) {
            (true, _) => ("less", floor.at_least),
            (_, true) => ("more", floor.at_most),
            _ => return None,
        };
        Some(format!(
            "{question}: \"{name}\" is {:.2} {}, {ratio:.2} of {}: {word} than {} ({command})",
            figure.value,
            figure.unit,
            figure.peer.as_deref().unwrap_or("its bound"),
            limit.unwrap_or(f64::NAN),
        ))
    };
    floors.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, ratio: Option<f64>) -> Measured {
        Measured {
            name: name.into(),
            value: 100.0,
            unit: "MB/s".into(),
            ratio,
            peer: Some("bound".into()),
        }
    }

    #[test]
    fn a_figure_below_its_floor_is_named_with_the_command() {
        let floors: BTreeMap<String, Floor> =
            toml::from_str("\"fast\" = { at_least = 0.6 }\n\"lean\" = { at_most = 1.5 }").unwrap();
        let of = |fast, lean| broken("backup", &floors, &[measured("fast", fast), measured("lean", lean)]);
        assert!(of(Some(0.61), Some(1.49)).is_empty());
        let slow = of(Some(0.59), Some(1.0));
        assert_eq!(slow.len(), 1);
        assert!(
            slow[0].contains("\"fast\" is 100.00 MB/s, 0.59 of bound: less than 0.6")
                && slow[0].contains("--bench backup")
        );
        assert!(of(Some(1.0), Some(1.6))[0].contains("more than 1.5"));
        assert_eq!(of(None, Some(f64::NAN)).len(), 2);
        assert_eq!(broken("backup", &floors, &[]).len(), 2);
    }

    #[test]
    fn the_floors_of_the_project_can_be_read_and_say_something() {
        let floors: Floors = toml::from_str(include_str!("../floor.toml")).unwrap();
        let all = floors.values().flat_map(BTreeMap::values);
        assert!(all.clone().count() > 5);
        assert!(
            all.clone()
                .all(|floor| floor.at_least.is_some() != floor.at_most.is_some())
        );
    }
}
