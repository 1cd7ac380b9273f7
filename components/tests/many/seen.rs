//! A walk that knows nothing of the product's: what there is to be seen of a tree, by path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Blocks that a sparse file may have more than it had: the file system's own, and where the last one begins.
const BLOCKS_MORE: u64 = 64;

/// All of an entry that is to come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size: u64,
    device: u64,
    content: u64,
    target: PathBuf,
    extended: BTreeMap<OsString, Vec<u8>>,
    /// All names of the same file, where there are several.
    names: Vec<PathBuf>,
    /// A file with holes has them still.
    is_sparse: bool,
}

pub fn see(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut names: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() && metadata.nlink() > 1 {
            let below = path.strip_prefix(root).unwrap().to_owned();
            names.entry(metadata.ino()).or_default().push(below);
        }
        all.insert(path.strip_prefix(root).unwrap().to_owned(), entry(&path, &metadata));
    }
    for mut same in names.into_values() {
        same.sort();
        for name in &same {
            all.get_mut(name).unwrap().names.clone_from(&same);
        }
    }
    all
}

fn entry(path: &Path, metadata: &Metadata) -> Entry {
    let kind = metadata.file_type();
    let mut entry = Entry {
        kind: match () {
            () if kind.is_dir() => "directory",
            () if kind.is_symlink() => "link",
            () if kind.is_fifo() => "pipe",
            () if kind.is_socket() => "socket",
            () if kind.is_char_device() => "device",
            () => "file",
        },
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        ..Entry::default()
    };
    match entry.kind {
        "link" => entry.target = fs::read_link(path).unwrap(),
        "device" => entry.device = metadata.rdev(),
        "file" => {
            entry.size = metadata.size();
            entry.content = content(path);
            let full = metadata.size().div_ceil(512);
            entry.is_sparse = metadata.blocks() + BLOCKS_MORE < full;
        }
        _ => {}
    }
    if matches!(entry.kind, "file" | "directory") {
        entry.extended = extended(path);
    }
    entry
}

fn content(path: &Path) -> u64 {
    let (mut file, mut sum, mut buffer) = (File::open(path).unwrap(), DefaultHasher::new(), [0; 65_536]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return sum.finish(),
            length => sum.write(&buffer[..length]),
        }
    }
}

fn extended(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut list = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    let names = list[..length].split(|byte| *byte == 0);
    let of_users = names.filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        let (name, mut value) = (OsStr::from_bytes(name), [0; 4096]);
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        (name.to_owned(), value[..length].to_vec())
    };
    of_users.map(value).collect()
}

/// Paths whose entries are not the same; some are told whole.
pub fn differences(then: &BTreeMap<PathBuf, Entry>, now: &BTreeMap<PathBuf, Entry>) -> Vec<String> {
    let paths: BTreeSet<_> = then.keys().chain(now.keys()).collect();
    let differs = paths.into_iter().filter(|path| then.get(*path) != now.get(*path));
    let words = |path: &PathBuf| format!("{path:?}: was {:?}, is {:?}", then.get(path), now.get(path));
    let all: Vec<String> = differs.map(words).collect();
    for one in all.iter().take(if all.len() < 100 { 5 } else { 0 }) {
        eprintln!("{one}");
    }
    all
}
