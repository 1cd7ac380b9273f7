//! What those do who only read metadata: the plan of a restore, `prune`, `verify`.

use std::sync::Arc;
use std::time::Duration;

use store::prune::{Looked, Policy, mark_time, plan};
use store::repository::{Maps, Repository, Writer};
use store::retention::Rules;
use store::verify::structure;

use super::place::Failed;

/// Table and extents of the newest backup, in the order and by the calls of a restore into an empty directory; how many extents there are.
///
/// # Errors
/// Anything that fails.
pub async fn maps_of_newest(repository: &Arc<Repository>) -> Result<u64, Failed> {
    let backup = repository.backup_ids().await?.into_iter().max().ok_or("no backup")?;
    let manifest = repository.manifest(backup).await?;
    let table = repository.file_table(&manifest).await?;
    let mut maps = Maps::new(repository);
    let mut extents = 0;
    for at in table.iter().filter_map(|entry| entry.extents) {
        extents += maps.extents(at).await?.content.runs.len() as u64;
    }
    Ok(extents)
}

/// The plan of `prune`.
///
/// # Errors
/// Anything that fails.
pub async fn plan_prune(writer: &Writer, now_us: i64) -> Result<(), Failed> {
    let policy = Policy {
        rules: Rules::default(),
        grace: Duration::from_secs(48 * 3600),
        components: std::collections::BTreeMap::new(),
        is_copy: false,
    };
    let (mark, now_ms) = mark_time(writer, "bench", now_us).await?;
    let looked = Looked::look(writer.repository(), now_ms, policy.times().grace_ms).await?;
    plan(&looked, &policy, "bench", now_us)?;
    writer.repository().store().delete(&mark).await?;
    Ok(())
}

/// `verify` of the structure; findings.
///
/// # Errors
/// Anything that fails.
pub async fn verify_structure(repository: &Repository) -> Result<usize, Failed> {
    Ok(structure(repository, None).await?.findings.len())
}
