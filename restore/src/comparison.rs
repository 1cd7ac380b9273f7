//! What a restore finds in a target that is not empty, and what it will do about it. Pure, printable, serialisable.

use std::fmt;

use serde::Serialize;

use crate::plan::bytes_text;
use crate::sweep::Swept;
use crate::work::Work;

/// Names that are shown to people.
const SHOWN: usize = 20;

/// The comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Comparison {
    /// Bytes of pages that are what the backup has there.
    pub(crate) held_bytes: u64,
    /// Bytes that will be written.
    pub(crate) to_write_bytes: u64,
    /// Files that are there and will be written over, in part or as a whole.
    pub(crate) overwritten: Vec<String>,
    /// What is not in the backup and will be removed.
    pub(crate) removed: Vec<String>,
    /// What is not in the backup and stays, because it is nobody's that we know.
    pub(crate) left: Vec<String>,
}

impl Comparison {
    /// Of what is to be done and what a sweep would do.
    pub(crate) fn new(work: &Work, swept: Swept) -> Self {
        let mut overwritten = swept.overwritten;
        overwritten.extend(work.partly_held().map(|place| place.show()));
        overwritten.sort();
        Comparison {
            held_bytes: work.held_bytes,
            to_write_bytes: work.bytes,
            overwritten,
            removed: swept.removed,
            left: swept.left,
        }
    }
}

fn names(f: &mut fmt::Formatter<'_>, what: &str, names: &[String]) -> fmt::Result {
    write!(f, "\n{what:<10} {}", names.len())?;
    for name in names.iter().take(SHOWN) {
        write!(f, "\n           {}", name.escape_debug())?;
    }
    if names.len() > SHOWN {
        write!(f, "\n           … (all of them with --json)")?;
    }
    Ok(())
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "there      {} are right already, {} to write",
            bytes_text(self.held_bytes),
            bytes_text(self.to_write_bytes)
        )?;
        names(f, "overwritten", &self.overwritten)?;
        names(f, "removed", &self.removed)?;
        names(f, "left", &self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_cut_for_people_only() {
        let comparison = Comparison {
            held_bytes: 8192,
            to_write_bytes: 0,
            overwritten: Vec::new(),
            removed: (0..25).map(|number| format!("base/5/{number}")).collect(),
            left: vec!["my\nfile".into()],
        };
        let text = comparison.to_string();
        assert!(text.contains("removed    25\n           base/5/0"), "{text}");
        assert!(text.contains("…") && !text.contains("base/5/20"), "{text}");
        assert!(text.contains("my\\nfile"), "{text}");
        assert_eq!(serde_json::to_value(&comparison).unwrap()["removed"][24], "base/5/24");
    }
}
