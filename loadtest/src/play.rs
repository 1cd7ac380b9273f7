//! Scenarios one after another, each in a directory of its own, and what came of them.

use std::fs;

use anyhow::Result;
use serde_json::{Value, json};
use tests::Scratch;

use crate::arguments::Wanted;
use crate::figures::Figures;
use crate::report::{Ended, Outcome};
use crate::scenario::Scenario;
use crate::{judge, report, run, runtime, summary};

/// Returns whether all thresholds were kept. Report and summary are written after each scenario, so that a long run can be looked at.
pub(crate) fn play(wanted: &Wanted) -> Result<bool> {
    let names = if wanted.names.is_empty() {
        Scenario::all_names()?
    } else {
        wanted.names.clone()
    };
    // All at once, before the first one is played.
    let mut scenarios = Vec::new();
    for name in &names {
        let scenario = Scenario::load(name)?.scaled(wanted.scale);
        scenario.check()?;
        scenarios.push(scenario);
    }
    let setting = setting(wanted.scale);
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        println!("{}: {}", scenario.name, scenario.about);
        let outcome = play_one(scenario)?;
        match &outcome.ended {
            Ended::Measured(all) => summary::print(&outcome.name, &all.2),
            Ended::Failed(error) => eprintln!("{} could not be played to its end: {error}", outcome.name),
        }
        outcomes.push(outcome);
        report::write(&outcomes, &setting)?;
        summary::write(&all_rows(&outcomes))?;
    }
    let broken: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_well())
        .map(|outcome| outcome.name.as_str())
        .collect();
    let directory = summary::directory()?;
    println!("\n{}", directory.join("report.html").display());
    println!("{}", directory.join("summary.json").display());
    if !broken.is_empty() {
        eprintln!("broken: {}", broken.join(", "));
    }
    Ok(broken.is_empty())
}

fn play_one(scenario: Scenario) -> Result<Outcome> {
    let (name, about) = (scenario.name.clone(), scenario.about.clone());
    let scratch = Scratch::create()?;
    let measured = runtime()?.block_on(run::run(&scratch, scenario));
    let ended = match measured {
        Ok(measured) => {
            let figures = Figures::of(&measured)?;
            let rows = judge::rows(
                &measured.scenario,
                &figures,
                measured.requests.as_ref(),
                measured.not_restored,
            );
            Ended::Measured(Box::new((measured, figures, rows)))
        }
        Err(error) => {
            eprintln!("{}", scratch.log_tails());
            Ended::Failed(format!("{error:#}"))
        }
    };
    Ok(Outcome { name, about, ended })
}

/// A scenario that could not be played has one figure, which is above its bound.
fn all_rows(outcomes: &[Outcome]) -> Value {
    let mut all = Vec::new();
    for outcome in outcomes {
        match &outcome.ended {
            Ended::Measured(measured) => all.extend(measured.2.iter().map(|row| summary::row(&outcome.name, row))),
            Ended::Failed(error) => all.push(json!({
                "name": format!("{}: could not be played", outcome.name),
                "value": 1, "unit": "failures", "bound": 0, "ratio": null, "peer": error,
            })),
        }
    }
    Value::Array(all)
}

/// What the figures depend on.
fn setting(scale: f64) -> String {
    let build = if cfg!(debug_assertions) {
        "development build"
    } else {
        "release build"
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!("{build} · {cores} cores · load of the machine before it began: {load} · phases × {scale} · PostgreSQL 15")
}
