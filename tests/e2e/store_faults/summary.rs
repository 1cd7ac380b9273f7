//! What all runs so far have shown, in one file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// What one cycle showed.
#[derive(Debug)]
pub(crate) struct Cycle {
    pub faults: BTreeMap<&'static str, u64>,
    pub requests: u64,
    pub acknowledged: u64,
    pub lost: u64,
    /// How often the agent began to stream.
    pub sessions: u64,
    pub peak_memory_kib: u64,
    pub recovery_max: Duration,
    pub took: Duration,
}

pub(crate) struct Summary;

impl Summary {
    /// Adds a cycle to `target/store-faults/summary.json` and returns what is in it now.
    pub(crate) fn add(cycle: &Cycle) -> Result<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
        let directory = root.join("target/store-faults");
        fs::create_dir_all(&directory)?;
        let path = directory.join("summary.json");
        let mut all: Map<String, Value> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?,
            Err(_) => Map::new(),
        };
        let injected: u64 = cycle.faults.values().sum();
        for (key, count) in [
            ("cycles", 1),
            ("faults_total", injected),
            ("requests", cycle.requests),
            ("acknowledged", cycle.acknowledged),
            ("lost", cycle.lost),
            ("sessions", cycle.sessions),
            ("seconds", cycle.took.as_secs()),
        ] {
            let before = number(&all, key);
            all.insert(key.into(), (before + count).into());
        }
        let recovery_ms = u64::try_from(cycle.recovery_max.as_millis())?;
        for (key, peak) in [
            ("peak_memory_kib", cycle.peak_memory_kib),
            ("recovery_max_ms", recovery_ms),
        ] {
            let before = number(&all, key);
            all.insert(key.into(), before.max(peak).into());
        }
        let mut faults = all
            .remove("faults")
            .and_then(|faults| faults.as_object().cloned())
            .unwrap_or_default();
        for (kind, count) in &cycle.faults {
            let before = number(&faults, kind);
            faults.insert((*kind).to_owned(), (before + count).into());
        }
        all.insert("faults".into(), faults.into());
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(&path, &text)?;
        Ok(text)
    }
}

fn number(map: &Map<String, Value>, key: &str) -> u64 {
    map.get(key).and_then(Value::as_u64).unwrap_or(0)
}
