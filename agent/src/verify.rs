//! `wal-agent verify`: is what was stored still there, and still what was written?
//!
//! Structure first: seconds. Then bytes, as many as were asked for: all, or a share that moves on with each run, so that N runs have read
//! everything once. How deep that goes is a matter of the key: with the restore key content is decrypted and compared, with the others
//! stored bytes are compared with what their writers signed.

mod report;

use std::sync::Arc;

use anyhow::Context as _;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use store::StoreError;
use store::inventory::Named;
use store::keys::{Role, SigningKey};
use store::object::ObjectMeta;
use store::records::Proof;
use store::repository::{Repository, Writer};
use store::verify::{Depth, Finding, Severity, Share, object, structure};

use crate::cli::VerifyOptions;
use crate::exit::{self, Failure};
use crate::open::{Context, backup_policy, host_name};
use crate::{output, status};

/// All objects.
pub const EVERYTHING: Share = Share::ALL;
/// Objects that are read at once: one is hashed while another arrives.
const READS_IN_FLIGHT: usize = 3;

/// The key that was here, of those that see most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Restore,
    Maintenance,
    Host,
}

impl Key {
    fn word(self) -> &'static str {
        match self {
            Key::Restore => "restore",
            Key::Maintenance => "maintenance",
            Key::Host => "host",
        }
    }

    fn depth(self) -> Depth {
        match self {
            Key::Restore => Depth::Content,
            Key::Maintenance | Key::Host => Depth::Stored,
        }
    }
}

/// What was read again.
#[derive(Debug)]
pub struct Read {
    share: Share,
    objects: u64,
    bytes: u64,
    /// Objects whose content was compared, and not their stored bytes only.
    content: u64,
    pub findings: Vec<Finding>,
}

/// Runs the command.
pub async fn run(context: &Context, options: &VerifyOptions) -> anyhow::Result<()> {
    let Opened {
        repository,
        key,
        signing,
    } = open(context).await?;
    let structure = structure(&repository, status::watermark(context)).await?;
    let parts = if options.all { Some(1) } else { options.share };
    let read = match parts {
        None => None,
        Some(parts) => {
            let share = Share::one_of(parts, next_place(&repository, key.depth()).await?);
            let read = read(&repository, &structure.inventory.objects, share, options.json).await?;
            // What was found is said in any case.
            if let Err(error) = record(&repository, signing, &read, key.depth()).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot note in the repository what was verified: the next share begins at the same place"
                );
            }
            Some(read)
        }
    };
    report::print(&repository, key, structure, read, options.json).await
}

/// The repository, and who looks at it.
pub struct Opened {
    pub repository: Arc<Repository>,
    key: Key,
    signing: anyhow::Result<SigningKey>,
}

/// With the key that sees most of those that are here.
pub async fn open(context: &Context) -> anyhow::Result<Opened> {
    let config = &context.config;
    let cannot = || format!("cannot open the repository at {}", config.repository.url);
    let (repository, key, signing) = if config.keys.has(Role::Restore) {
        let file = context.opening_key(Role::Restore)?;
        let opened = Repository::open_as_restorer(context.object_store(backup_policy())?, &file).await;
        (Arc::new(opened.with_context(cannot)?), Key::Restore, file.signing())
    } else if config.keys.has(Role::Maintenance) {
        let file = context.opening_key(Role::Maintenance)?;
        let opened = Repository::open_as_keeper(context.object_store(backup_policy())?, &file).await;
        (Arc::new(opened.with_context(cannot)?), Key::Maintenance, file.signing())
    } else {
        let keys = context.host_keys()?;
        let opened = context.repository(backup_policy(), &keys).await?;
        (opened, Key::Host, Ok(keys.signing))
    };
    Ok(Opened {
        repository,
        key,
        signing: signing.map_err(anyhow::Error::from),
    })
}

/// Where the last one who looked at least as deep has stopped.
async fn next_place(repository: &Repository, depth: Depth) -> anyhow::Result<u64> {
    let proofs = repository.proofs().await?;
    let last = proofs
        .iter()
        .rev()
        .find(|proof| proof.backup.is_none() && (proof.content || depth == Depth::Stored));
    Ok(last.map_or(0, |proof| Share::of(proof).end()))
}

pub async fn read(
    repository: &Arc<Repository>,
    objects: &[(Named, ObjectMeta)],
    share: Share,
    quiet: bool,
) -> Result<Read, StoreError> {
    let chosen = objects.iter().filter(|(_, meta)| share.holds(&meta.name));
    let chosen: Vec<(Named, ObjectMeta)> = chosen.cloned().collect();
    let bar = bar(chosen.iter().map(|(_, meta)| meta.size).sum(), quiet);
    let looks = chosen.into_iter().map(|(named, meta)| {
        let repository = Arc::clone(repository);
        // Hashing and decoding keep a processor busy: each object has a task of its own.
        let look = tokio::spawn(async move { object(&repository, named, &meta).await.map(|found| (found, meta.size)) });
        async move { look.await.map_err(|_| StoreError::Stage("verify"))? }
    });
    let mut looks = futures::stream::iter(looks).buffer_unordered(READS_IN_FLIGHT);
    let mut read = Read {
        share,
        objects: 0,
        bytes: 0,
        content: 0,
        findings: Vec::new(),
    };
    while let Some(look) = looks.next().await {
        let (found, bytes) = look?;
        read.objects += 1;
        read.bytes += bytes;
        bar.inc(bytes);
        match found {
            Ok(depth) => read.content += u64::from(depth == Depth::Content),
            Err(finding) => read.findings.push(finding),
        }
    }
    bar.finish_and_clear();
    Ok(read)
}

fn bar(bytes: u64, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "verifying {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left",
    );
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Notes what was read, so that the next share goes on behind it. Only a host can sign.
async fn record(
    repository: &Arc<Repository>,
    signing: anyhow::Result<SigningKey>,
    read: &Read,
    depth: Depth,
) -> anyhow::Result<()> {
    let now_us = output::now_us();
    let damages = read
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Damage);
    let proof = Proof {
        time_us: now_us,
        host: host_name(),
        content: depth == Depth::Content,
        from: read.share.from,
        len: read.share.len,
        objects: read.objects,
        bytes: read.bytes,
        damaged: damages.count() as u64,
        backup: None,
    };
    let writer = Writer::new(Arc::clone(repository), Arc::new(signing?), 0);
    Ok(writer.put_proof(&proof).await?)
}

/// The end of a command that found damage.
fn damaged(findings: usize) -> anyhow::Error {
    Failure {
        code: exit::DAMAGED,
        message: format!("the repository is damaged: {findings} findings"),
        hint: Some(
            "`wal-agent repair` makes up for it where another copy of the repository, or the live cluster, has the bytes: soon, before pages change. \
             Keep it as it is. Backups and times that the findings do not name can be restored. Take a new backup."
                .into(),
        ),
    }
    .into()
}
