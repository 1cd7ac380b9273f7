//! A bundle (gitformat-bundle(5)): a few lines of text, then a pack. The lines are written here, of refs that were read once; the pack is git's.
//!
//! `git bundle create` would read the refs itself, another time, and refuses to make one without a new commit.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;

use super::program::{Git, feed, ran, read_all, start};
use super::refs::{Leads, Refs, lines};
use crate::{ComponentError, Lane};

/// Bytes that are handed over at once.
const PART_BYTES: usize = 256 << 10;
/// Bytes of a complaint that are kept.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;
/// Without delta bases that are not in the bundle a chain would hold every changed file as a whole; `git bundle` does the same.
const PACK: [&str; 6] = [
    "pack-objects",
    "--revs",
    "--stdout",
    "--thin",
    "--delta-base-offset",
    "-q",
];

/// What goes into one.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Commits that must be there already.
    needs: Vec<String>,
    /// Object id and name of what it brings.
    brings: Vec<(String, Vec<u8>)>,
    /// What leads to its objects, and what to those that it leaves out.
    revisions: Vec<u8>,
}

impl Bundle {
    /// Everything behind all refs.
    pub(super) fn of_all(refs: &Refs) -> Self {
        Bundle {
            needs: Vec::new(),
            brings: brings(refs, &BTreeSet::new()),
            revisions: lines(refs.tips().into_iter()),
        }
    }

    /// What is behind the refs, and not behind these objects.
    pub(super) fn behind(refs: &Refs, before: &BTreeSet<String>, needs: Vec<String>) -> Self {
        let mut revisions = lines(refs.tips().into_iter());
        before
            .iter()
            .for_each(|id| revisions.extend_from_slice(format!("^{id}\n").as_bytes()));
        Bundle {
            needs,
            brings: brings(refs, before),
            revisions,
        }
    }

    fn header(&self, format: &str) -> Vec<u8> {
        let mut header = match format {
            "sha1" => b"# v2 git bundle\n".to_vec(),
            format => format!("# v3 git bundle\n@object-format={format}\n").into_bytes(),
        };
        for id in &self.needs {
            header.extend_from_slice(format!("-{id}\n").as_bytes());
        }
        for (id, name) in &self.brings {
            header.extend_from_slice(&[id.as_bytes(), b" ", name, b"\n"].concat());
        }
        header.push(b'\n');
        header
    }

    /// Writes it as git makes it; returns its bytes. Dropped on the way it ends git, and breaks the backup off.
    ///
    /// # Errors
    /// Git failed or was ended, or the backup was.
    pub(super) async fn write(&self, git: &Git, format: &str, mut lane: Lane) -> Result<u64, ComponentError> {
        let mut child = start(git.command(&PACK))?;
        let stdin = child.stdin.take();
        let (mut stdout, stderr) = (child.stdout.take().ok_or(ComponentError::Stopped)?, child.stderr.take());
        lane.send(Bytes::from(self.header(format))).await?;
        let pump = async {
            loop {
                let mut part = BytesMut::with_capacity(PART_BYTES);
                while part.len() < PART_BYTES && stdout.read_buf(&mut part).await.map_err(ran)? > 0 {}
                if part.is_empty() {
                    return Ok::<_, ComponentError>(());
                }
                lane.send(part.freeze()).await?;
            }
        };
        let feeding = async {
            feed(stdin, &self.revisions).await;
            Ok(())
        };
        let ((), (), (complaint, _)) = tokio::try_join!(feeding, pump, read_all(stderr, COMPLAINT_BYTES_MAX))?;
        let status = child.wait().await.map_err(ran)?;
        match status.success() {
            true => Ok(lane.finish()),
            false => Err(git.failed(&PACK, status, &complaint)),
        }
    }
}

/// Refs that lead to objects that were no ref's before.
fn brings(refs: &Refs, before: &BTreeSet<String>) -> Vec<(String, Vec<u8>)> {
    let mut brings = Vec::new();
    for (name, leads) in refs.all() {
        let id = match leads {
            Leads::Object(id) => Some(id),
            // So that a bundle of everything can be cloned as it is.
            Leads::Ref(to) if name == b"HEAD" => refs.object(to),
            Leads::Ref(_) => None,
        };
        if let Some(id) = id.filter(|id| !before.contains(*id)) {
            brings.push((id.clone(), name.to_vec()));
        }
    }
    brings
}
