//! What `repair` says.

use serde_json::json;
use store::object::ObjectName;
use store::verify::Finding;

use super::{Broken, not_all};
use crate::cli::RepairOptions;
use crate::output;

/// How an object was made up for.
#[derive(Debug)]
pub(super) struct Mended {
    /// Where its bytes are from.
    pub(super) from: String,
    /// Where they lie now; none when it was only asked what would be done.
    pub(super) lies_at: Option<ObjectName>,
    /// Of a pack that was made anew: chunks that are in it, and chunks that it had.
    pub(super) chunks: Option<(u32, u32)>,
    /// Nothing of it is missing now, as far as the keys at hand can tell.
    pub(super) is_whole: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Repaired {
    lines: Vec<(String, String, Option<Mended>)>,
}

impl Mended {
    fn text(&self) -> String {
        let what = match &self.lies_at {
            None => "would be brought back",
            Some(_) => "brought back",
        };
        let part = match self.chunks {
            Some((held, chunks)) if held < chunks && self.is_whole => {
                format!(", {held} of {chunks} chunks; the others can be read where they were")
            }
            Some((held, chunks)) if held < chunks => format!(", {held} of {chunks} chunks"),
            _ => String::new(),
        };
        let at = self
            .lies_at
            .as_ref()
            .map_or(String::new(), |name| format!(", as {name}"));
        format!("{what} from {}{part}{at}", self.from)
    }
}

impl Repaired {
    pub(super) fn add(&mut self, broken: &Broken, mended: Option<Mended>) {
        self.lines
            .push((broken.name.to_string(), broken.reason.clone(), mended));
    }

    /// Nothing was dealt with.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many objects lie in the repository now that did not.
    pub(super) fn brought_back(&self) -> usize {
        let stored = |mended: &Option<Mended>| mended.as_ref().is_some_and(|mended| mended.lies_at.is_some());
        self.lines.iter().filter(|(_, _, mended)| stored(mended)).count()
    }

    /// True when an object was dealt with.
    pub(super) fn has(&self, object: &str) -> bool {
        self.lines.iter().any(|(known, _, _)| known == object)
    }

    /// Prints it, and what was found of other objects; an error where something is left.
    pub(super) fn print(&self, follows: &[Finding], options: &RepairOptions) -> anyhow::Result<()> {
        let is_whole = |mended: &Option<Mended>| mended.as_ref().is_some_and(|mended| mended.is_whole);
        let left = self.lines.iter().filter(|(_, _, mended)| !is_whole(mended)).count();
        // What would follow is not known before it is done; where nothing is done it follows from nothing.
        let left = match options.dry_run && !self.lines.is_empty() {
            true => left,
            false => left + follows.len(),
        };
        if options.json {
            self.print_json(follows, options.dry_run, left)?;
        } else {
            self.print_text(follows, options.dry_run);
        }
        match left {
            0 => Ok(()),
            left => Err(not_all(left)),
        }
    }

    fn print_text(&self, follows: &[Finding], dry_run: bool) {
        if self.lines.is_empty() && follows.is_empty() {
            println!("Nothing is damaged that is not made up for.");
        }
        for (object, reason, mended) in &self.lines {
            println!("{object}: {reason}");
            match mended {
                Some(mended) => println!("  {}", mended.text()),
                None => {
                    println!("  cannot be made up for: it is whole in no other place, and cannot be made anew here")
                }
            }
        }
        for finding in follows {
            println!("{}: {}", finding.object, finding.reason);
            match dry_run {
                true => println!("  may follow from the above"),
                false => println!("  is left"),
            }
        }
        if dry_run {
            println!("Nothing was changed.");
        }
    }

    fn print_json(&self, follows: &[Finding], dry_run: bool, left: usize) -> anyhow::Result<()> {
        let objects = self.lines.iter().map(|(object, reason, mended)| {
            let chunks = mended.as_ref().and_then(|mended| mended.chunks);
            json!({
                "object": object,
                "reason": reason,
                "from": mended.as_ref().map(|mended| &mended.from),
                "as": mended.as_ref().and_then(|mended| mended.lies_at.as_ref()).map(ToString::to_string),
                "is_whole": mended.as_ref().is_some_and(|mended| mended.is_whole),
                "chunks": chunks.map(|(held, _)| held),
                "chunks_of": chunks.map(|(_, chunks)| chunks),
            })
        });
        let follows = follows
            .iter()
            .map(|finding| json!({ "object": finding.object, "reason": finding.reason }));
        output::print_json(&json!({
            "dry_run": dry_run,
            "objects": objects.collect::<Vec<_>>(),
            "follows": follows.collect::<Vec<_>>(),
            "left": left,
        }))
    }
}
