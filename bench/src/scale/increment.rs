//! An increment, the way of any backup but for reading: what is not there cannot be read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use store::file_table::{EntryClass, EntryType, FileEntry};
use store::id::{BackupId, PageDigest};
use store::limits::PAGE_BYTES;
use store::pipeline::{
    BelieveAll, FileJob, Foreseen, Listed, Outcome, Pipeline, PipelineInputs, Progress, commit, earlier,
};
use store::records::Intent;
use store::session::Purpose;

use super::place::{Failed, Place};
use super::synthetic::{FILE_PAGES, manifest_of, path_of, sample};
use crate::dataset::Random;

/// Of this many pages one has changed, at random: 1 %.
pub const CHANGED_OF: u64 = 100;
const UPLOADS_IN_FLIGHT: usize = 4;

/// Takes one, the `number`th (from 1 on) of so many files.
///
/// # Errors
/// Anything that fails.
pub async fn take(
    place: &Place,
    writer: &Arc<store::repository::Writer>,
    files: u32,
    number: u64,
    now_us: i64,
) -> Result<Outcome, Failed> {
    let repository = writer.repository();
    let mut id = [1; 10];
    id[9] = u8::try_from(number)? + 1;
    let backup = BackupId::from_parts(u64::try_from(now_us / 1000)? + number, id);
    let intent = Intent {
        backup,
        host: "bench".into(),
        begun_us: now_us,
    };
    commit::put_intent(writer, &intent).await?;
    let earlier = earlier::load(repository, None).await?;
    if earlier.backup().is_none() {
        return Err("there is nothing to compare with".into());
    }
    let inputs = PipelineInputs {
        pace: Arc::default(),
        backup,
        writer: Arc::clone(writer),
        session: repository.begin_session(place.lineage(), Purpose::Backup)?,
        lineage: place.lineage(),
        parent: earlier.parent,
        index: earlier.index,
        filter: earlier.filter,
        check: Arc::new(BelieveAll),
        jobs: 2,
        uploads_in_flight: UPLOADS_IN_FLIGHT,
        milestones_every: Duration::from_secs(120),
        progress: Arc::new(Progress::default()),
        now_us: Arc::new(move || now_us),
    };
    let mut pipeline = Pipeline::start(inputs)?;
    let foreseen = Foreseen {
        digest_of: Box::new(move |file, page, before| digest_of(number, file, page, before)),
        sample: sample(),
    };
    pipeline.copy_foreseen(listing(files), foreseen).await?;
    let outcome = pipeline.finish().await?;
    let manifest = manifest_of(
        place,
        backup,
        now_us,
        outcome.file_table.clone(),
        outcome.packs.clone(),
        files,
    );
    commit::put_manifest(writer, &manifest).await?;
    Ok(outcome)
}

fn listing(files: u32) -> impl Iterator<Item = Result<Listed, store::StoreError>> + Send + 'static {
    let directory = |path: &str| Listed::Entry(FileEntry::bare(path.into(), EntryType::Directory, 0o700));
    let directories = ["base", "base/5"].map(directory);
    let jobs = (0..files).map(|file| {
        Listed::File(FileJob {
            path: path_of(file),
            on_disk: PathBuf::new(),
            mode: 0o600,
            size: u64::from(FILE_PAGES) * PAGE_BYTES as u64,
            class: EntryClass::Relation,
            first_block: 0,
            is_judged: true,
            may_vanish: true,
            attributes: None,
        })
    });
    directories.into_iter().chain(jobs).map(Ok)
}

/// As before, or another where the page has changed.
fn digest_of(number: u64, file: u64, page: u32, before: Option<&PageDigest>) -> PageDigest {
    let seed = number << 56 ^ file << 32 ^ u64::from(page);
    let drawn = Random(seed).number();
    match before {
        Some(before) if !drawn.is_multiple_of(CHANGED_OF) => *before,
        _ => PageDigest((u128::from(drawn) << 64 | u128::from(seed)).to_le_bytes()),
    }
}
