//! The refs of a repository, `HEAD` among them, and what they amount to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::program::{self, Git};
use crate::ComponentError;

/// Where a ref leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To an object, by its id in hex.
    Object(String),
    /// To another ref, which need not exist.
    Ref(Vec<u8>),
}

impl Leads {
    /// As a link has it: an object id is in hex, a ref begins with `refs/`.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Leads::Object(id) => id.as_bytes(),
            Leads::Ref(name) => name,
        }
    }

    /// None: it is neither.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"refs/") {
            return Some(Leads::Ref(bytes.to_vec()));
        }
        let text = std::str::from_utf8(bytes).ok()?;
        is_object_id(text).then(|| Leads::Object(text.to_owned()))
    }
}

/// Of SHA-1 or SHA-256.
pub(super) fn is_object_id(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    matches!(text.len(), 40 | 64) && text.bytes().all(is_hex)
}

/// All refs and `HEAD`, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refs(BTreeMap<Vec<u8>, Leads>);

impl Refs {
    /// As they are now.
    ///
    /// # Errors
    /// Git failed, or a ref is broken: what it led to would be missing without a word.
    pub(super) async fn read(git: &Git) -> Result<Self, ComponentError> {
        let asked = ["for-each-ref", "--format=%(objectname)%00%(refname)%00%(symref)"];
        let answer = git.answer(&asked, b"").await?;
        let complaint = String::from_utf8_lossy(&answer.complaint);
        if !answer.status.success() || complaint.contains("broken ref") {
            return Err(git.failed(&asked, answer.status, &answer.complaint));
        }
        for line in complaint.lines() {
            tracing::warn!(repository = %git.git_dir().display(), said = %line.escape_debug(), "git passed something over");
        }
        let mut refs = BTreeMap::new();
        for line in answer.out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut fields = line.split(|byte| *byte == 0);
            let (Some(id), Some(name), Some(leads)) = (fields.next(), fields.next(), fields.next()) else {
                return Err(git.refused("has refs that make no sense", "`git for-each-ref` shows them."));
            };
            let leads = if leads.starts_with(b"refs/") { leads } else { id };
            refs.insert(name.to_vec(), leads_of(git, leads)?);
        }
        refs.insert(b"HEAD".to_vec(), head(git).await?);
        let refs = Refs(refs);
        refs.refuse_nested(git)?;
        Ok(refs)
    }

    /// What a restore has made of them: links below a directory.
    ///
    /// # Errors
    /// It cannot be read, or a link is no ref.
    pub(super) fn of_links(stored: &Path) -> Result<Self, ComponentError> {
        let mut refs = BTreeMap::new();
        let mut left = vec![PathBuf::from("HEAD"), PathBuf::from("refs")];
        while let Some(path) = left.pop() {
            let here = stored.join(&path);
            let Ok(found) = fs::symlink_metadata(&here) else {
                continue;
            };
            if found.is_dir() {
                for entry in fs::read_dir(&here).map_err(ComponentError::io("list", &here))? {
                    left.push(path.join(entry.map_err(ComponentError::io("list", &here))?.file_name()));
                }
                continue;
            }
            let target = fs::read_link(&here).map_err(ComponentError::io("read the link", &here))?;
            let leads = Leads::parse(target.as_os_str().as_bytes()).ok_or_else(|| no_ref(&here))?;
            refs.insert(path.into_os_string().into_encoded_bytes(), leads);
        }
        if !refs.contains_key(b"HEAD".as_slice()) {
            return Err(no_ref(&stored.join("HEAD")));
        }
        Ok(Refs(refs))
    }

    /// In the order of their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], &Leads)> {
        self.0.iter().map(|(name, leads)| (name.as_slice(), leads))
    }

    /// The object that a ref leads to, where it is one.
    pub(super) fn object(&self, name: &[u8]) -> Option<&String> {
        match self.0.get(name)? {
            Leads::Object(id) => Some(id),
            Leads::Ref(_) => None,
        }
    }

    /// The objects that they lead to, each once.
    pub(super) fn tips(&self) -> BTreeSet<&str> {
        let objects = self.0.values().filter_map(|leads| match leads {
            Leads::Object(id) => Some(id.as_str()),
            Leads::Ref(_) => None,
        });
        objects.collect()
    }

    /// A name below another cannot be a path; git does not make such either.
    fn refuse_nested(&self, git: &Git) -> Result<(), ComponentError> {
        let above = |name: &[u8]| -> Vec<Vec<u8>> {
            let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            slashes
                .map(|(at, _)| name.get(..at).unwrap_or_default().to_vec())
                .collect()
        };
        let nested = self
            .0
            .keys()
            .flat_map(|name| above(name))
            .find(|name| self.0.contains_key(name));
        match nested {
            None => Ok(()),
            Some(name) => Err(git.refused(
                &format!("has refs below \"{}\", which is a ref itself", name.escape_ascii()),
                "Delete or rename one of them.",
            )),
        }
    }

    /// Lines that tell two states apart.
    fn text(&self, path: &[u8]) -> Vec<u8> {
        let mut text = [b"\0".as_slice(), path, b"\0\n"].concat();
        for (name, leads) in self.all() {
            text.extend_from_slice(&[leads.bytes(), b" ", name, b"\n"].concat());
        }
        text
    }
}

fn no_ref(path: &Path) -> ComponentError {
    ComponentError::refused(
        format!("\"{}\" is no ref of a repository that was captured", path.display()),
        "Restore it again, into an empty directory.",
    )
}

fn leads_of(git: &Git, bytes: &[u8]) -> Result<Leads, ComponentError> {
    Leads::parse(bytes).ok_or_else(|| git.refused("has refs that lead nowhere", "`git for-each-ref` shows them."))
}

async fn head(git: &Git) -> Result<Leads, ComponentError> {
    let symbolic = git.answer(&["symbolic-ref", "-q", "HEAD"], b"").await?;
    let out = match symbolic.status.success() {
        true => symbolic.out,
        false => git.ask(&["rev-parse", "--verify", "-q", "HEAD"], b"").await?,
    };
    leads_of(git, out.strip_suffix(b"\n").unwrap_or(&out))
}

/// Only the newest stash is a ref; those before it are in a log of this repository alone.
pub(super) async fn warn_of_stashes(git: &Git, refs: &Refs) -> Result<(), ComponentError> {
    if !refs.0.contains_key(b"refs/stash".as_slice()) {
        return Ok(());
    }
    let counted = git
        .answer(&["rev-list", "--walk-reflogs", "--count", "refs/stash"], b"")
        .await?;
    let count: u64 = String::from_utf8_lossy(&counted.out).trim().parse().unwrap_or(1);
    if count > 1 {
        tracing::warn!(
            repository = %git.git_dir().display(),
            stashes = count - 1,
            "older stashes are not captured: they are in no ref"
        );
    }
    Ok(())
}

/// What repositories amount to.
#[derive(Debug, Default)]
pub(super) struct Totals {
    repositories: u64,
    refs: u64,
    commits: u64,
    text: Vec<u8>,
}

impl Totals {
    /// With one more, in the order of paths.
    ///
    /// # Errors
    /// Git failed.
    pub(super) async fn add(&mut self, git: &Git, path: &[u8], refs: &Refs) -> Result<(), ComponentError> {
        self.repositories += 1;
        self.refs += refs.0.len() as u64 - 1;
        self.text.extend_from_slice(&refs.text(path));
        let tips = lines(refs.tips().into_iter());
        if !tips.is_empty() {
            let counted = git.ask(&["rev-list", "--count", "--stdin"], &tips).await?;
            self.commits += String::from_utf8_lossy(&counted).trim().parse().unwrap_or(0);
        }
        Ok(())
    }

    /// By name. Git has digests: one of its own says whether all refs are the same.
    ///
    /// # Errors
    /// Git failed.
    pub(super) async fn facts(&self) -> Result<BTreeMap<String, String>, ComponentError> {
        let arguments = ["hash-object", "--stdin"].map(Into::into);
        let digest = program::ask(&arguments, &self.text).await?;
        let digest = String::from_utf8_lossy(&digest).trim().to_owned();
        let counts = [
            ("repositories", self.repositories.to_string()),
            ("refs", self.refs.to_string()),
            ("commits", self.commits.to_string()),
            ("refs_digest", digest),
        ];
        Ok(counts.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

/// Object ids for a standard input.
pub(super) fn lines<'l>(ids: impl Iterator<Item = &'l str>) -> Vec<u8> {
    ids.flat_map(|id| [id.as_bytes(), b"\n"].concat()).collect()
}

/// As a path.
pub(super) fn shown(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
