//! Results: a table for people, `target/bench/<question>.json` for machines, and all of them in `target/bench/summary.json`.

use std::io;
use std::path::PathBuf;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it is held against, measured in the same run.
    pub bound: Option<f64>,
    /// What the bound or the comparison is.
    pub peer: Option<&'static str>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Summary {
    figures: Vec<Figure>,
}

impl Summary {
    /// Adds a figure and prints it.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, bound: Option<(f64, &'static str)>) {
        let figure = Figure {
            name: name.into(),
            value,
            unit,
            bound: bound.map(|(bound, _)| bound),
            peer: bound.map(|(_, peer)| peer),
        };
        match bound {
            Some((bound, peer)) => {
                println!(
                    "{:<44} {:>10.2} {:<9} {:>5.2} of {bound:.2} ({peer})",
                    figure.name,
                    value,
                    unit,
                    value / bound
                );
            }
            None => println!("{:<44} {:>10.2} {unit}", figure.name, value),
        }
        self.figures.push(figure);
    }

    /// Adds a figure that is printed another way.
    pub fn keep(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.keep_beside(name, value, unit, None);
    }

    /// Adds a figure that is printed another way, with what it is held against.
    pub fn keep_beside(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: Option<(f64, &'static str)>,
    ) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
            bound: bound.map(|(bound, _)| bound),
            peer: bound.map(|(_, peer)| peer),
        });
    }

    /// Writes `bench/<question>.json` into the target directory, and into the summary of all questions beside it; says where.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, question: &str) -> io::Result<PathBuf> {
        let directory = directory()?;
        let path = directory.join(format!("{question}.json"));
        let rows: Vec<_> = self.figures.iter().map(row).collect();
        std::fs::write(&path, serde_json::to_vec_pretty(&rows)?)?;
        let all = directory.join("summary.json");
        let before = std::fs::read(&all)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        std::fs::write(
            &all,
            serde_json::to_vec_pretty(&merged(before.unwrap_or_default(), question, rows))?,
        )?;
        Ok(path)
    }
}

/// `target/bench`, which is made.
///
/// # Errors
/// It cannot be made.
pub fn directory() -> io::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let directory = target.join("bench");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The figures of all questions, each by its last run.
fn merged(mut all: Vec<serde_json::Value>, question: &str, rows: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    let prefix = format!("{question}: ");
    all.retain(|row| !row["name"].as_str().is_some_and(|name| name.starts_with(&prefix)));
    all.extend(rows.into_iter().map(|mut row| {
        row["name"] = format!("{prefix}{}", row["name"].as_str().unwrap_or_default()).into();
        row
    }));
    all
}

fn row(figure: &Figure) -> serde_json::Value {
    serde_json::json!({
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "bound": figure.bound,
        "ratio": figure.bound.map(|bound| figure.value / bound),
        "peer": figure.peer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_last_run_of_each_question() {
        let row = |name: &str, value: u64| serde_json::json!({ "name": name, "value": value });
        let all = merged(Vec::new(), "backup", vec![row("full", 1), row("increment", 2)]);
        let all = merged(all, "wal", vec![row("path", 3)]);
        let all = merged(all, "backup", vec![row("full", 4)]);
        assert_eq!(all, [row("wal: path", 3), row("backup: full", 4)]);
    }
}
