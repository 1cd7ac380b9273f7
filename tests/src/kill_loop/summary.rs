//! The figures, in a file that runs add to. Written after every cycle, so that a run that is cut off has counted what it did.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use store::crash::CrashPoint;

use super::plan::{CyclePlan, Kind, Mode, Reach, Trigger, Victim, reach};

/// What one cycle adds.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub acknowledged: u64,
    pub acknowledged_synchronous: u64,
    pub lost: u64,
    pub too_old: u64,
    pub confirmed_ahead: u64,
    pub objects: u64,
    pub compared_bytes: u64,
    pub divergent_bytes: u64,
    pub warned: u64,
    /// Of asynchronous mode.
    pub unarchived: Duration,
    pub bound: Duration,
    pub put: Duration,
    pub took: Duration,
    /// The armed point ended the agent.
    pub hit: bool,
    /// What was lost, for the message.
    pub detail: String,
}

/// Sums over all runs.
#[derive(Debug, Clone)]
pub struct Summary(Value);

impl Default for Summary {
    fn default() -> Self {
        let zeros =
            |names: Vec<&str>| Value::Object(names.into_iter().map(|name| (name.to_owned(), 0.into())).collect());
        let points = |wanted: fn(Reach) -> bool| {
            let points = CrashPoint::ALL.into_iter().filter(|point| wanted(reach(*point)));
            points.map(CrashPoint::name).collect::<Vec<_>>()
        };
        Self(json!({
            "cycles": 0,
            "acknowledged": 0,
            "acknowledged_synchronous": 0,
            "lost": 0,
            "lost_too_old": 0,
            "divergent_bytes": 0,
            "confirmed_ahead_bytes": 0,
            "seed": 0,
            "seeds": [],
            "compared_bytes": 0,
            "compared_objects": 0,
            "commits_with_warning": 0,
            "max_unarchived_ms": 0,
            "bound_ms": 0,
            "max_put_ms": 0,
            "cycle_ms": { "sum": 0, "max": 0, "average": 0 },
            "host_losses": 0,
            "restores": 0,
            "rows_compared": 0,
            "hits": zeros(points(|reach| reach != Reach::Never)),
            "misses": zeros(points(|reach| reach != Reach::Never)),
            "not_reachable": points(|reach| reach == Reach::Never),
            "by_victim": zeros(Victim::ALL.map(Victim::name).to_vec()),
            "by_mode": zeros(Mode::ALL.map(Mode::name).to_vec()),
            "failures": [],
        }))
    }
}

impl Summary {
    /// What runs before have left; nothing when there is no such file.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let read: Value = serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
                let mut summary = Self::default();
                if let (Value::Object(all), Value::Object(read)) = (&mut summary.0, read) {
                    all.extend(read);
                }
                Ok(summary)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Written aside and renamed: a run that is cut off leaves the old file or the new one.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let aside = path.with_extension(format!("{}", std::process::id()));
        fs::write(&aside, serde_json::to_string_pretty(&self.0)? + "\n")?;
        fs::rename(&aside, path).with_context(|| format!("write {}", path.display()))
    }

    pub fn json(&self) -> &Value {
        &self.0
    }

    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    /// A run with this seed begins on this version of PostgreSQL.
    pub fn begin(&mut self, seed: u64, major: u32) {
        self.0["seed"] = seed.into();
        if let Some(seeds) = self.0["seeds"].as_array_mut() {
            seeds.push(json!({ "seed": seed, "major": major, "cycles": 0 }));
        }
    }

    pub fn add(&mut self, plan: &CyclePlan, outcome: &Outcome) {
        self.count("cycles", 1);
        if let Some(last) = self.0["seeds"].as_array_mut().and_then(|seeds| seeds.last_mut()) {
            add(&mut last["cycles"], 1);
        }
        for (key, more) in [
            ("acknowledged", outcome.acknowledged),
            ("acknowledged_synchronous", outcome.acknowledged_synchronous),
            ("lost", outcome.lost),
            ("lost_too_old", outcome.too_old),
            ("divergent_bytes", outcome.divergent_bytes),
            ("confirmed_ahead_bytes", outcome.confirmed_ahead),
            ("compared_bytes", outcome.compared_bytes),
            ("compared_objects", outcome.objects),
            ("commits_with_warning", outcome.warned),
            ("host_losses", u64::from(plan.kind == Kind::HostLoss)),
        ] {
            self.count(key, more);
        }
        for (key, value) in [
            ("max_unarchived_ms", outcome.unarchived),
            ("bound_ms", outcome.bound),
            ("max_put_ms", outcome.put),
        ] {
            raise(&mut self.0[key], milliseconds(value));
        }
        let cycles = self.number("cycles");
        let took = &mut self.0["cycle_ms"];
        add(&mut took["sum"], milliseconds(outcome.took));
        raise(&mut took["max"], milliseconds(outcome.took));
        took["average"] = (took["sum"].as_u64().unwrap_or_default() / cycles).into();
        if let Trigger::Point(point, _) = plan.trigger {
            let kind = if outcome.hit { "hits" } else { "misses" };
            add(&mut self.0[kind][point.name()], 1);
        }
        add(&mut self.0["by_victim"][plan.victim.name()], 1);
        add(&mut self.0["by_mode"][plan.mode.name()], 1);
    }

    /// A restore was compared; `lost` rows were promised and are not there.
    pub fn add_restore(&mut self, rows: u64, lost: u64) {
        self.count("restores", 1);
        self.count("rows_compared", rows);
        self.count("lost", lost);
    }

    pub fn add_failure(&mut self, seed: u64, cycle: u64, what: &str) {
        if let Some(failures) = self.0["failures"].as_array_mut() {
            failures.push(json!({ "seed": seed, "cycle": cycle, "what": what }));
        }
    }

    /// One line for whoever watches.
    pub fn line(&self) -> String {
        format!(
            "{} cycles, {} acknowledged, {} lost, {} divergent bytes, at most {} ms unarchived, {} ms a cycle",
            self.number("cycles"),
            self.number("acknowledged"),
            self.number("lost") + self.number("lost_too_old"),
            self.number("divergent_bytes"),
            self.number("max_unarchived_ms"),
            self.0["cycle_ms"]["average"]
        )
    }

    fn count(&mut self, key: &str, more: u64) {
        add(&mut self.0[key], more);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn add(value: &mut Value, more: u64) {
    *value = (value.as_u64().unwrap_or_default() + more).into();
}

fn raise(value: &mut Value, to: u64) {
    *value = value.as_u64().unwrap_or_default().max(to).into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill_loop::plan::Plan;
    use crate::scratch::Scratch;

    fn outcome(acknowledged: u64, unarchived_ms: u64) -> Outcome {
        Outcome {
            acknowledged,
            unarchived: Duration::from_millis(unarchived_ms),
            took: Duration::from_millis(1000),
            hit: true,
            ..Outcome::default()
        }
    }

    #[test]
    fn runs_add_up_in_the_file() {
        let scratch = Scratch::create().unwrap();
        let path = scratch.join("kill-loop/summary.json");
        for (seed, unarchived_ms) in [(5, 300), (6, 200)] {
            let mut summary = Summary::load(&path).unwrap();
            summary.begin(seed, 15);
            for cycle in 0..20 {
                summary.add(&Plan::new(seed).cycle(cycle), &outcome(10, unarchived_ms));
            }
            summary.save(&path).unwrap();
        }
        let summary = Summary::load(&path).unwrap();
        let json = summary.json();
        assert_eq!((summary.number("cycles"), summary.number("acknowledged")), (40, 400));
        assert_eq!((summary.number("seed"), summary.number("max_unarchived_ms")), (6, 300));
        assert_eq!(json["seeds"][0], json!({ "seed": 5, "major": 15, "cycles": 20 }));
        assert_eq!(json["cycle_ms"]["average"], 1000);
        assert_eq!(json["hits"]["before-link"], 2);
        assert_eq!(json["hits"]["after-history"], 0);
        assert_eq!(json["not_reachable"], json!(["after-lineage", "after-hole"]));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_new_beginning() {
        let scratch = Scratch::create().unwrap();
        let path = scratch.write("summary.json", "{").unwrap();
        assert!(Summary::load(&path).is_err());
        assert!(Summary::load(&scratch.join("none.json")).is_ok());
    }
}
