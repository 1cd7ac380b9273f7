//! `target/loadtest/summary.json`: a list of figures, in the shape of the bench's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::judge::Row;

/// One figure: what it is held against is `bound`, where that comes from `peer`.
pub(crate) fn row(scenario: &str, row: &Row) -> Value {
    json!({
        "name": format!("{scenario}: {}", row.name),
        "value": row.value,
        "unit": row.unit,
        "bound": row.limit.as_ref().map(|limit| limit.bound),
        "ratio": row.ratio(),
        "peer": row.limit.as_ref().map(|limit| {
            let how = if limit.is_least { "at least" } else { "at most" };
            format!("{how}: {}", limit.from)
        }),
    })
}

/// Where results are, made if it is not there.
pub(crate) fn directory() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package has no parent directory")?;
    let directory = root.join("target/loadtest");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Writes it and returns where.
pub(crate) fn write(summary: &Value) -> Result<PathBuf> {
    let text = serde_json::to_string_pretty(summary)? + "\n";
    let path = directory()?.join("summary.json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// A table for people.
pub(crate) fn print(scenario: &str, rows: &[Row]) {
    println!("\n{scenario}");
    for row in rows {
        let verdict = match &row.limit {
            None => String::new(),
            Some(limit) => {
                let how = if limit.is_least { ">=" } else { "<=" };
                let word = if row.is_well() { "ok" } else { "BROKEN" };
                format!("{how} {:<10.2} {word:<7} {}", limit.bound, limit.from)
            }
        };
        let digits = if row.is_count() { 0 } else { 2 };
        let line = format!(
            "  {:<46} {:>11.digits$} {:<12} {verdict}",
            row.name, row.value, row.unit
        );
        println!("{}", line.trim_end());
    }
}
