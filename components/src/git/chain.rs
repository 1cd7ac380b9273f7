//! What of a repository is in the backup before, and what must be added to it.
//!
//! A chain of bundles holds everything that was behind any ref when its last one was made: the first has all, each further one what was new.
//! With nothing new, none is added, whatever refs were renamed or deleted. It begins anew with a bundle of everything when
//! - the objects that refs led to are not all there any more: history was rewritten and pruned;
//! - it is [`CHAIN_MAX`] bundles long, or what was added is more than the first: it keeps what nothing leads to any more;
//! - a pack with a part of it is damaged, or about to go.

use std::collections::{BTreeSet, HashMap};

use store::file_table::{EntryType, FileEntry};

use super::bundle::Bundle;
use super::find::STORED;
use super::program::Git;
use super::refs::{Leads, Refs, is_object_id, lines};
use crate::{ComponentError, Sink, Stored};

/// Bundles of a chain.
const CHAIN_MAX: usize = 30;

/// One repository, as the backup before has it.
#[derive(Debug, Default)]
struct Chain {
    bundles: Vec<FileEntry>,
    tips: BTreeSet<String>,
}

/// All of the backup before, by the paths of their git directories.
#[derive(Debug, Default)]
pub(super) struct Chains(HashMap<Vec<u8>, Chain>);

/// What is to be done with a repository.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Bundles that are there already, in order.
    pub(super) keep: Vec<FileEntry>,
    /// What comes behind them.
    pub(super) write: Option<Bundle>,
}

impl Chains {
    /// Reads the table of the backup before; where it is damaged there is nothing to build on.
    ///
    /// # Errors
    /// The repository failed.
    pub(super) async fn load(before: Option<Stored>) -> Result<Self, ComponentError> {
        let mut chains = Chains::default();
        let Some(mut before) = before else { return Ok(chains) };
        loop {
            match before.next_piece().await {
                Ok(Some(piece)) => piece.into_iter().for_each(|entry| chains.take(entry)),
                Ok(None) => return Ok(chains),
                Err(ComponentError::Store(error)) if error.damaged_object().is_some() => {
                    tracing::error!(%error, "the backup before cannot be read; all repositories are captured anew");
                    return Ok(Chains::default());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, entry: FileEntry) {
        let between = format!("/{STORED}/");
        let at = entry
            .path
            .windows(between.len())
            .position(|part| part == between.as_bytes());
        let Some((path, name)) = at.and_then(|at| Some((entry.path.get(..at)?, entry.path.get(at + between.len()..)?)))
        else {
            return;
        };
        let chain = self.0.entry(path.to_vec()).or_default();
        match (entry.entry_type, entry.target.as_ref()) {
            (EntryType::File, _) if name.ends_with(b".bundle") => chain.bundles.push(entry),
            (EntryType::Link, Some(target)) => {
                if let Some(Leads::Object(id)) = Leads::parse(target) {
                    chain.tips.insert(id);
                }
            }
            _ => {}
        }
    }

    /// What is to be done, now that the refs are these.
    ///
    /// # Errors
    /// Git failed.
    pub(super) async fn plan(&self, git: &Git, path: &[u8], refs: &Refs, sink: &Sink) -> Result<Plan, ComponentError> {
        let tips = refs.tips();
        if tips.is_empty() {
            return Ok(Plan::default());
        }
        let chain = self.0.get(path).filter(|chain| !chain.bundles.is_empty());
        let anew = |why: Option<&str>| {
            if let Some(why) = why {
                tracing::info!(repository = %git.git_dir().display(), why, "captured as a whole again");
            }
            Plan {
                keep: Vec::new(),
                write: Some(Bundle::of_all(refs)),
            }
        };
        let Some(chain) = chain else { return Ok(anew(None)) };
        if let Some(why) = chain.is_worn(sink) {
            return Ok(anew(Some(why)));
        }
        if tips.iter().all(|id| chain.tips.contains(*id)) {
            return Ok(Plan {
                keep: chain.bundles.clone(),
                write: None,
            });
        }
        let gone = "objects that the bundles before end with are gone";
        if !chain.is_there(git).await? {
            return Ok(anew(Some(gone)));
        }
        let Some(needs) = boundary(git, &tips, &chain.tips).await? else {
            return Ok(anew(Some(gone)));
        };
        Ok(Plan {
            keep: chain.bundles.clone(),
            write: Some(Bundle::behind(refs, &chain.tips, needs)),
        })
    }
}

impl Chain {
    /// Why nothing should be added to it.
    fn is_worn(&self, sink: &Sink) -> Option<&'static str> {
        let (first, more) = self.bundles.split_first()?;
        let added: u64 = more.iter().map(|bundle| bundle.size).sum();
        if self.bundles.len() >= CHAIN_MAX {
            Some("the chain of bundles is long")
        } else if added > first.size {
            Some("what was added is more than the first bundle")
        } else if !self.bundles.iter().all(|bundle| sink.may_keep(bundle)) {
            Some("a pack with a part of the bundles cannot be referred to")
        } else {
            None
        }
    }

    /// Whether all that its refs led to is still in the repository.
    async fn is_there(&self, git: &Git) -> Result<bool, ComponentError> {
        let asked = lines(self.tips.iter().map(String::as_str));
        let said = git.answer(&["cat-file", "--batch-check=%(objectname)"], &asked).await?;
        let found = said.out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let is_known = |line: &[u8]| std::str::from_utf8(line).is_ok_and(is_object_id);
        let mut count = 0;
        for line in found {
            if !is_known(line) {
                return Ok(false);
            }
            count += 1;
        }
        Ok(said.status.success() && count == self.tips.len())
    }
}

/// The commits that the next bundle builds on: parents of what is new that are in the chain. None: what is there is not connected.
async fn boundary(
    git: &Git,
    tips: &BTreeSet<&str>,
    before: &BTreeSet<String>,
) -> Result<Option<Vec<String>>, ComponentError> {
    let mut asked = lines(tips.iter().copied());
    before
        .iter()
        .for_each(|id| asked.extend_from_slice(format!("^{id}\n").as_bytes()));
    let said = git.answer(&["rev-list", "--boundary", "--stdin"], &asked).await?;
    if !said.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&said.out);
    let needs = text.lines().filter_map(|line| line.strip_prefix('-'));
    Ok(Some(needs.map(str::to_owned).collect()))
}
