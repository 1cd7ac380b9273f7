//! Configuration files: small, read every time, with a history; and no secret among them that was not named.
//!
//! What looks like a secret (`looks`) is left out, by its name without being read, or by its content; how many there were, and which, is in the
//! facts. What `secrets` names is taken: sealed to a recipient of its own, as `<path>.sealed`, so that the restore key does not open it. A secret
//! that has not changed, by the rule of `files::before`, is referred to as it was sealed before; otherwise each backup would seal it anew, and
//! a history would see it change all the time.
//!
//! A file is opened without following a link, read once as a whole, judged, and handed over: what was judged is what is stored.

mod looks;
mod open;
mod read;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use store::chunk::Grain;
use store::file_table::{EntryType, FileEntry};
use store::keys::identity::{OVERHEAD_BYTES, SecretsRecipient};
use store::pipeline::{Clock, FileJob, Listed};
use zeroize::Zeroizing;

use crate::files::{self, Excludes, Files, Walk, WalkOptions};
use crate::{Captured, Component, ComponentError, Lanes, Look, Sink, Standing};
use looks::Looks;
pub use open::{open_content, open_secrets, recipient, refuse_other_identity};

/// What the path of a sealed secret ends with.
pub const SEALED: &[u8] = b".sealed";
/// Facts that a restore is held against.
const COUNTED: [&str; 5] = ["files", "directories", "links", "others", "files_writable_by_all"];
/// Names of files that were left out that the facts have.
const NAMED_MAX: usize = 50;

/// Configuration files.
#[derive(Clone)]
pub struct Config {
    /// What is captured: absolute paths.
    pub paths: Vec<PathBuf>,
    /// What of it is not.
    pub excludes: Excludes,
    /// Secrets that are taken: patterns of paths in the backup.
    pub secrets: Excludes,
    /// To whom they are sealed; none: whatever `secrets` has is left out.
    pub recipient: Option<SecretsRecipient>,
    /// The time.
    pub now_us: Clock,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

/// What became of the files.
#[derive(Debug, Default)]
struct Tally {
    files: u64,
    writable_by_all: u64,
    sealed: u64,
    kept: Vec<Listed>,
    left_out: Vec<Vec<u8>>,
}

#[async_trait]
impl Component for Config {
    fn kind(&self) -> &'static str {
        "config"
    }

    async fn look(&self) -> Result<Look, ComponentError> {
        self.files().look().await
    }

    async fn capture(&self, sink: &mut Sink) -> Result<Captured, ComponentError> {
        let sealed = self.sealed_before(sink).await?;
        let (jobs, entries, standing) = self.list().await?;
        let usable = |entry: &FileEntry| sink.may_keep(entry);
        let sealed: HashMap<Vec<u8>, FileEntry> = sealed.into_iter().filter(|(_, entry)| usable(entry)).collect();
        let mut facts = counts(&entries);
        let tally = sink.hand(|lanes| self.hand(jobs, sealed, lanes)).await?;
        let entries = entries.into_iter().map(Listed::Entry).chain(tally.kept);
        drop(sink.copy(entries.map(Ok)).await?);
        for path in &tally.left_out {
            tracing::info!(path = %path.escape_ascii(), "left out: it looks like a secret, and is not named in \"secrets\"");
        }
        tracing::info!(
            files = tally.files,
            sealed = tally.sealed,
            left_out = tally.left_out.len(),
            "captured the configuration"
        );
        let names: Vec<String> = tally
            .left_out
            .iter()
            .take(NAMED_MAX)
            .map(|path| path.escape_ascii().to_string())
            .collect();
        facts.extend([
            ("files".into(), tally.files.to_string()),
            ("files_writable_by_all".into(), tally.writable_by_all.to_string()),
            ("sealed".into(), tally.sealed.to_string()),
            ("left_out".into(), tally.left_out.len().to_string()),
        ]);
        if !names.is_empty() {
            facts.insert("left_out_paths".into(), names.join(", "));
        }
        facts.extend(self.recipient.map(|to| ("recipient".into(), to.to_string())));
        Ok(Captured {
            version: String::new(),
            facts,
            as_of_us: None,
            standing,
        })
    }

    async fn compare(
        &self,
        captured: &BTreeMap<String, String>,
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError> {
        compare(captured, restored).await
    }
}

impl Config {
    fn files(&self) -> Files {
        Files {
            paths: self.paths.clone(),
            excludes: self.excludes.clone(),
            one_file_system: false,
            reads_all: true,
            now_us: self.now_us.clone(),
        }
    }

    /// Files, and what is none.
    async fn list(&self) -> Result<(Vec<FileJob>, Vec<FileEntry>, Vec<Standing>), ComponentError> {
        let options = WalkOptions {
            excludes: self.excludes.clone(),
            one_file_system: false,
            now_ns: (self.now_us)().saturating_mul(1000),
        };
        let files = self.files();
        let listing = tokio::task::spawn_blocking(move || {
            let (mut jobs, mut entries) = (Vec::new(), Vec::new());
            let mut walk = Walk::new(files.roots()?, options, None);
            for listed in &mut walk {
                match listed? {
                    Listed::File(job) | Listed::Same(job, _) | Listed::Kept(job, _) => jobs.push(job),
                    Listed::Entry(entry) => entries.push(entry),
                }
            }
            Ok::<_, ComponentError>((jobs, entries, walk.standing().to_vec()))
        });
        listing.await.map_err(|_| ComponentError::Stopped)?
    }

    /// Secrets that the backup before has sealed to the same recipient, by their paths.
    async fn sealed_before(&self, sink: &mut Sink) -> Result<HashMap<Vec<u8>, FileEntry>, ComponentError> {
        let mut sealed = HashMap::new();
        let (Some(mut before), Some(recipient)) = (sink.take_before(), self.recipient) else {
            return Ok(sealed);
        };
        let facts = before.manifest().component.as_ref().map(|component| &component.facts);
        if facts.and_then(|facts| facts.get("recipient")) != Some(&recipient.to_string()) {
            return Ok(sealed);
        }
        loop {
            let piece = match before.next_piece().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(sealed),
                Err(ComponentError::Store(error)) if error.damaged_object().is_some() => {
                    tracing::error!(%error, "a part of the backup before cannot be read; the secrets in it are sealed anew");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let secrets = piece.into_iter().filter(|entry| entry.path.ends_with(SEALED));
            sealed.extend(secrets.map(|entry| (entry.path.to_vec(), entry)));
        }
    }

    async fn hand(
        &self,
        jobs: Vec<FileJob>,
        sealed: HashMap<Vec<u8>, FileEntry>,
        lanes: Lanes,
    ) -> Result<Tally, ComponentError> {
        let (looks, mut tally) = (Looks::new()?, Tally::default());
        let paths: HashSet<Vec<u8>> = jobs.iter().map(|job| job.path.clone()).collect();
        for mut job in jobs {
            if let Some(attributes) = &mut job.attributes {
                // Of several names one may be a secret: each stands for itself.
                attributes.same_as = None;
            }
            let path = Path::new(OsStr::from_bytes(&job.path)).to_owned();
            let is_named = named(&self.secrets, &path);
            if (is_named && self.recipient.is_none()) || (!is_named && looks.by_name(&path)) {
                tally.left_out.push(job.path);
                continue;
            }
            if is_named && paths.contains(&[job.path.as_slice(), SEALED].concat()) {
                // Two files of one name: one of them would be lost.
                return Err(ComponentError::refused(
                    format!(
                        "secret \"/{}\" would be stored under the name of the file \"/{}.sealed\" beside it",
                        job.path.escape_ascii(),
                        job.path.escape_ascii()
                    ),
                    "Rename that file, or leave it out with \"exclude\".",
                ));
            }
            if is_named && let Some(kept) = keep(&job, &sealed) {
                tally.count(&job);
                tally.sealed += 1;
                tally.kept.push(kept);
                continue;
            }
            let Some((mut job, content)) = read::whole(job).await? else {
                continue;
            };
            let content = match self.recipient.filter(|_| is_named) {
                Some(recipient) => {
                    job.path.extend_from_slice(SEALED);
                    tally.sealed += 1;
                    Bytes::from(recipient.seal(&Zeroizing::new(content))?)
                }
                None if Looks::by_content(&content) => {
                    tally.left_out.push(job.path);
                    continue;
                }
                None => {
                    // Read every time: what would tell that it need not be would only make the table another.
                    job.attributes.iter_mut().for_each(|attributes| attributes.stamp = None);
                    Bytes::from(content)
                }
            };
            tally.count(&job);
            job.size = content.len() as u64;
            let mut lane = lanes.open_file(job, Grain::Usual).await?;
            if !content.is_empty() {
                lane.send(content).await?;
            }
            lane.finish();
        }
        for pattern in self.secrets.unmatched(&paths)? {
            tracing::warn!(%pattern, "no file is what this pattern of \"secrets\" names");
        }
        Ok(tally)
    }
}

impl Tally {
    fn count(&mut self, job: &FileJob) {
        self.files += 1;
        self.writable_by_all += u64::from(job.mode & 0o002 != 0);
    }
}

/// True where a pattern has the path, or a directory above it.
fn named(secrets: &Excludes, path: &Path) -> bool {
    secrets.has_or_above(path)
}

/// A secret that is what it was when it was sealed.
fn keep(job: &FileJob, sealed: &HashMap<Vec<u8>, FileEntry>) -> Option<Listed> {
    let path = [job.path.as_slice(), SEALED].concat();
    let entry = sealed.get(&path)?;
    let size = job.size.checked_add(OVERHEAD_BYTES)?;
    let mut attributes = job.attributes.clone()?;
    let (stored, read_ns) = files::same_as(entry, size, &attributes)?;
    attributes.stamp.iter_mut().for_each(|stamp| stamp.read_ns = read_ns);
    let job = FileJob {
        path,
        size,
        attributes: Some(attributes),
        ..job.clone()
    };
    Some(Listed::Kept(job, stored))
}

fn counts(entries: &[FileEntry]) -> BTreeMap<String, String> {
    let count = |kind| {
        entries
            .iter()
            .filter(|entry| entry.entry_type == kind)
            .count()
            .to_string()
    };
    let counts = [
        ("directories", EntryType::Directory),
        ("links", EntryType::Link),
        ("others", EntryType::Other),
    ];
    counts.map(|(name, kind)| (name.to_owned(), count(kind))).into()
}

/// What differs from the counts of a capture. A secret is one file, sealed or opened.
pub(crate) async fn compare(
    captured: &BTreeMap<String, String>,
    restored: &Path,
) -> Result<Vec<String>, ComponentError> {
    let counted: BTreeMap<_, _> = captured
        .iter()
        .filter(|(name, _)| COUNTED.contains(&name.as_str()))
        .map(|(name, count)| (name.clone(), count.clone()))
        .collect();
    files::compare(&counted, 0, restored).await
}

/// The path of a secret, from the path of what was sealed of it.
pub(crate) fn opened(path: &[u8]) -> Option<&[u8]> {
    path.strip_suffix(SEALED)
        .filter(|path| !path.is_empty() && !path.ends_with(b"/"))
}
