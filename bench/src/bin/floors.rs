//! Judges the figures in `target/bench` by `bench/floor.toml`: `floors backup wal_backlog`. Ends with 1 where one is below its floor.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::floors::{Floors, Measured, broken};

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Failed> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let floors: Floors = toml::from_str(&std::fs::read_to_string(here.join("floor.toml"))?)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| here.join("../target"), PathBuf::from);
    let (mut judged, mut all) = (0, Vec::new());
    for question in std::env::args().skip(1) {
        let floors = floors
            .get(&question)
            .ok_or_else(|| format!("bench/floor.toml says nothing of {question}"))?;
        let path = target.join(format!("bench/{question}.json"));
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let measured: Vec<Measured> = serde_json::from_slice(&text)?;
        judged += floors.len();
        all.extend(broken(&question, floors, &measured));
    }
    for line in &all {
        eprintln!("floors: {line}");
    }
    if !all.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    println!("floors: {judged} figures are where they must be");
    Ok(ExitCode::SUCCESS)
}
