//! What `check` says, area by area.

use pg::preflight::{Finding, Severity};
use serde_json::{Value, json};

use crate::output;

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Area {
    name: String,
    /// What it is like, in words.
    good: String,
    findings: Vec<Finding>,
}

impl Area {
    pub(super) fn good(name: &str, good: String) -> Self {
        Area {
            name: name.to_owned(),
            good,
            findings: Vec::new(),
        }
    }

    pub(super) fn with(mut self, findings: impl IntoIterator<Item = Finding>) -> Self {
        self.findings.extend(findings);
        self
    }

    pub(super) fn find(&mut self, severity: Severity, problem: String, hint: impl Into<String>) {
        self.findings.push(Finding {
            severity,
            problem,
            detail: String::new(),
            hint: hint.into(),
        });
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    }
}

/// Says each area as soon as it was looked at; as JSON all of them in the end.
#[derive(Debug)]
pub(super) struct Report {
    as_json: bool,
    areas: Vec<Area>,
}

impl Report {
    pub(super) fn new(as_json: bool) -> Self {
        Report {
            as_json,
            areas: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, area: Area) {
        if !self.as_json {
            println!("{:12} {}", area.name, area.good);
            for finding in &area.findings {
                let word = word(finding.severity).to_uppercase();
                println!("{:12} {word}: {}", "", finding.problem);
                println!("{:12} HINT: {}", "", finding.hint);
            }
        }
        self.areas.push(area);
    }

    /// The end of one that could not be finished: what was found is printed all the same.
    pub(super) fn fail(self, failed: anyhow::Result<()>) -> anyhow::Result<()> {
        let error = failed.as_ref().err().map(|error| format!("{error:#}"));
        match (self.end(json!({ "error": error })), failed) {
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
            (Ok(()), Ok(())) => Ok(()),
        }
    }

    /// The end: JSON, and an error where something must be mended.
    pub(super) fn end(self, figures: Value) -> anyhow::Result<()> {
        let of = |area: &Area, finding: &Finding| {
            json!({
                "area": area.name,
                "severity": word(finding.severity),
                "problem": finding.problem,
                "hint": finding.hint,
            })
        };
        let all = || {
            self.areas
                .iter()
                .flat_map(|area| area.findings.iter().map(move |finding| (area, finding)))
        };
        if self.as_json {
            let mut json = figures;
            json["findings"] = all().map(|(area, finding)| of(area, finding)).collect();
            let areas = self.areas.iter();
            json["areas"] = areas
                .map(|area| json!({ "area": area.name, "state": area.good }))
                .collect();
            output::print_json(&json)?;
        }
        match all().filter(|(_, finding)| finding.severity == Severity::Error).count() {
            0 => Ok(()),
            errors => Err(super::refused(errors)),
        }
    }
}
