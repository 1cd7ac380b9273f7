//! Directory trees: are two the same, and does a byte string occur in one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What a tree holds under one relative path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    File { len: u64 },
    Link { target: PathBuf },
    Other,
}

/// All regular files below `root`, sorted. Links are not followed.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = entries(root)?;
    let is_file = |(_, (entry, _)): &(&PathBuf, &(Entry, u32))| matches!(entry, Entry::File { .. });
    Ok(entries
        .iter()
        .filter(is_file)
        .map(|(path, _)| root.join(path))
        .collect())
}

fn entries(root: &Path) -> Result<BTreeMap<PathBuf, (Entry, u32)>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let listing = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        for item in listing {
            let path = item?.path();
            let meta = fs::symlink_metadata(&path)?;
            let entry = if meta.is_dir() {
                open.push(path.clone());
                Entry::Directory
            } else if meta.is_file() {
                Entry::File { len: meta.len() }
            } else if meta.is_symlink() {
                let target = fs::read_link(&path)?;
                Entry::Link { target }
            } else {
                Entry::Other
            };
            let relative = path.strip_prefix(root)?.to_owned();
            found.insert(relative, (entry, meta.mode() & 0o7777));
        }
    }
    Ok(found)
}

/// The differences of two trees, one line each: kind, permissions and content. `ignore` names paths
/// relative to the roots; what is below them is ignored too.
pub fn differences(left: &Path, right: &Path, ignore: &[&str]) -> Result<Vec<String>> {
    let (in_left, in_right) = (entries(left)?, entries(right)?);
    let ignored = |path: &Path| ignore.iter().any(|prefix| path.starts_with(prefix));
    let mut lines = Vec::new();
    for (path, entry) in in_left.iter().filter(|(path, _)| !ignored(path)) {
        match in_right.get(path) {
            None => lines.push(format!("only left: {}", path.display())),
            Some(other) if other != entry => {
                lines.push(format!("{}: {entry:?} and {other:?}", path.display()));
            }
            Some((Entry::File { .. }, _)) => {
                if let Some(at) = first_difference(&left.join(path), &right.join(path))? {
                    lines.push(format!("{}: content differs at {at}", path.display()));
                }
            }
            Some(_) => {}
        }
    }
    for path in in_right.keys().filter(|path| !ignored(path)) {
        if !in_left.contains_key(path) {
            lines.push(format!("only right: {}", path.display()));
        }
    }
    Ok(lines)
}

/// Fails with the differences, if there are any.
pub fn assert_same(left: &Path, right: &Path, ignore: &[&str]) -> Result<()> {
    let lines = differences(left, right, ignore)?;
    ensure!(
        lines.is_empty(),
        "{} and {} differ:\n{}",
        left.display(),
        right.display(),
        lines.join("\n")
    );
    Ok(())
}

fn first_difference(left: &Path, right: &Path) -> Result<Option<u64>> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        for (file, block) in [(&mut left, &mut a), (&mut right, &mut b)] {
            block.clear();
            file.take(1 << 16).read_to_end(block)?;
        }
        if a != b {
            let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            return Ok(Some(at + same as u64));
        }
        if a.is_empty() {
            return Ok(None);
        }
        at += a.len() as u64;
    }
}

/// The files below `root` that contain `needle`, in their content or in their path.
pub fn find_bytes(root: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    ensure!(!needle.is_empty(), "an empty needle is everywhere");
    let mut found = Vec::new();
    for path in files(root)? {
        let relative = path.strip_prefix(root)?;
        if contains(relative.as_os_str().as_encoded_bytes(), needle) || file_contains(&path, needle)? {
            found.push(path);
        }
    }
    Ok(found)
}

fn file_contains(path: &Path, needle: &[u8]) -> Result<bool> {
    let mut file = File::open(path)?;
    // The end of one block is kept before the next, so that a needle across both is found.
    let mut window = Vec::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut block)?;
        if len == 0 {
            return Ok(false);
        }
        window.extend_from_slice(&block[..len]);
        if contains(&window, needle) {
            return Ok(true);
        }
        let keep = window.len().min(needle.len() - 1);
        window.drain(..window.len() - keep);
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn equal_trees_have_no_differences_and_each_kind_of_change_is_one() {
        let scratch = Scratch::create().unwrap();
        for side in ["a", "b"] {
            scratch.write(format!("{side}/x/same"), "1").unwrap();
            scratch.write(format!("{side}/changed"), "11").unwrap();
        }
        let (a, b) = (scratch.join("a"), scratch.join("b"));
        assert_same(&a, &b, &[]).unwrap();
        scratch.write("b/changed", "12").unwrap();
        scratch.write("b/more", "").unwrap();
        scratch.write("a/x/less", "").unwrap();
        let lines = differences(&a, &b, &[]).unwrap();
        assert_eq!(
            lines,
            ["changed: content differs at 1", "only left: x/less", "only right: more"]
        );
        assert_same(&a, &b, &["changed", "more", "x"]).unwrap();
    }

    #[test]
    fn a_needle_across_two_blocks_is_found() {
        let scratch = Scratch::create().unwrap();
        let mut content = vec![b'n'; (1 << 20) - 3];
        content.extend_from_slice(b"needle in a haystack");
        scratch.write("dir/hay", &content).unwrap();
        scratch.write("dir/other", b"need le").unwrap();
        let root = scratch.path();
        assert_eq!(find_bytes(root, b"needle in").unwrap(), [scratch.join("dir/hay")]);
        assert_eq!(find_bytes(root, b"other").unwrap(), [scratch.join("dir/other")]);
        assert!(find_bytes(root, b"needles").unwrap().is_empty());
    }
}
