//! `wal-agent copy`, and what the daemon says of the copies of the repository.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::StoreError;
use store::copy::{Depth, Filled, fill};
use store::object::ErrorClass;
use store::object::mirrored::Mirrored;
use store::repository::{Repository, describe};

use crate::cli::CopyOptions;
use crate::exit::{DAMAGED, Failure};
use crate::open::{Context, backup_policy, requests};
use crate::output;
use crate::status::state_file;

/// A place as the daemon has seen it last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CopySeen {
    /// Its name.
    pub name: String,
    /// Whole, behind, or not seen yet.
    pub standing: String,
    /// Objects that were filled in.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When everything was compared last, microseconds since 1970.
    pub looked_us: Option<i64>,
    /// Why it could not be filled.
    pub error: Option<String>,
}

fn file(context: &Context) -> PathBuf {
    state_file(context).with_extension("copies.json")
}

/// Notes what was seen, for `status`.
pub fn write(context: &Context, seen: &[CopySeen]) {
    if let Ok(json) = serde_json::to_vec_pretty(seen)
        && let Err(error) = store::durable::atomic_write(&file(context), &json)
    {
        tracing::debug!(%error, "cannot write what was seen of the copies");
    }
}

/// What the daemon has seen last; nothing where there are no copies.
pub fn last_seen(context: &Context) -> Vec<CopySeen> {
    if context.config.copies.is_empty() {
        return Vec::new();
    }
    let bytes = std::fs::read(file(context)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Runs the command: fills the copies that are named, or all of them.
pub async fn run(context: &Context, options: &CopyOptions) -> anyhow::Result<()> {
    let config = &context.config;
    if config.copies.is_empty() {
        return Err(Failure {
            code: crate::exit::USAGE,
            message: "the configuration names no copy of the repository".into(),
            hint: Some("Add a table [copy.NAME] with its url.".into()),
        }
        .into());
    }
    for name in &options.names {
        let mut known = config.clone();
        known.use_copy(name)?;
    }
    let keys = context.host_keys()?;
    let repository = context.repository(backup_policy(), &keys).await?;
    let mut all = Vec::new();
    let mut is_whole = true;
    let is_asked = |name: &String| options.names.is_empty() || options.names.contains(name);
    for (name, place) in config.copies.iter().filter(|(name, _)| is_asked(name)) {
        refuse_vanished(context, name, place, options.anew).await?;
        let store = config::open::create_object_store(place, requests(backup_policy()))?;
        let bar = bar(name, options.json);
        let filled = fill(&repository, &store, Depth::Needed, |bytes| bar.inc(bytes)).await;
        bar.finish_and_clear();
        let filled = filled?;
        is_whole &= filled.is_complete();
        if !options.json {
            say(name, &filled);
        }
        all.push(json!({
            "copy": name,
            "url": place.url.to_string(),
            "objects": filled.objects,
            "bytes": filled.bytes,
            "backups": filled.backups,
            "conflicts": filled.conflicts.iter().map(|(name, why)| json!({ "object": name.as_str(), "reason": why })).collect::<Vec<_>>(),
            "left_out": filled.left_out.iter().map(|(name, why)| json!({ "object": name.as_str(), "reason": why })).collect::<Vec<_>>(),
            "waiting": filled.waiting.iter().map(|(backup, why)| json!({ "backup": backup.to_string(), "reason": why })).collect::<Vec<_>>(),
        }));
    }
    if options.json {
        output::print_json(&json!({ "copies": all }))?;
    }
    if is_whole {
        return Ok(());
    }
    Err(Failure {
        code: DAMAGED,
        message: "not everything could be copied".into(),
        hint: Some("See above; `wal-agent verify` looks at the repository itself.".into()),
    }
    .into())
}

/// A place that was filled and is gone is more often not mounted than lost: what was made in its stead would lie on another disk.
async fn refuse_vanished(
    context: &Context,
    name: &str,
    place: &config::Repository,
    is_meant: bool,
) -> anyhow::Result<()> {
    let was_filled = last_seen(context)
        .iter()
        .any(|seen| seen.name == name && seen.looked_us.is_some());
    if is_meant || !was_filled {
        return Ok(());
    }
    let is_there = match config::open::object_store(place, requests(backup_policy())) {
        Ok(store) => !matches!(describe(store.as_ref()).await, Err(StoreError::NoRepository { .. })),
        Err(error) if error.class() == ErrorClass::Misconfigured => false,
        Err(error) => return Err(error.into()),
    };
    if is_there {
        return Ok(());
    }
    Err(Failure::refused(
        format!(
            "the copy \"{name}\" was whole before, and is not there now ({})",
            place.url
        ),
        "Mount its file system. If it is lost for good, `wal-agent copy --anew` makes another one there.",
    )
    .into())
}

fn say(name: &str, filled: &Filled) {
    println!(
        "{name}: {} objects copied ({}), {} backups that it did not have",
        filled.objects,
        output::bytes(filled.bytes),
        filled.backups
    );
    for (object, why) in filled.left_out.iter().chain(&filled.conflicts) {
        println!("  not copied: {object}: {why}");
    }
    for (backup, why) in &filled.waiting {
        println!("  waits: backup {backup}: {why}");
    }
}

fn bar(name: &str, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_prefix(name.to_owned());
    let style = ProgressStyle::with_template("{spinner} copying to {prefix}: {bytes}, {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// The packs of a backup went to all places at once; here the copies get what makes it a backup. What fails is filled by the daemon.
pub async fn fill_all(places: Option<&Arc<Mirrored>>, repository: &Repository) {
    let Some(places) = places else { return };
    let source = places.source();
    let from = repository.over(Arc::clone(source.store()));
    for copy in places.places().iter().filter(|copy| !Arc::ptr_eq(copy, source)) {
        match Box::pin(fill(&from, copy.store(), Depth::Missing, |_| ())).await {
            Ok(filled) => tracing::debug!(copy = %copy.name, objects = filled.objects, "the copy has the backup"),
            Err(error) => {
                let error = crate::exit::describe(&error.into());
                tracing::warn!(copy = %copy.name, %error, "a copy does not have the backup yet; it is filled later");
            }
        }
    }
}

/// Waits a little for what is on its way to copies that nobody waits for otherwise.
pub async fn settle(places: Option<&Arc<Mirrored>>, at_most: Duration) {
    if let Some(places) = places
        && tokio::time::timeout(at_most, places.settled()).await.is_err()
    {
        tracing::warn!("a copy of the repository did not get everything in time; it is filled later");
    }
}
