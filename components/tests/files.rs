//! Directories into a repository and back: every kind of entry, exactly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use components::files::{Excludes, Files};
use components::{Component as _, ComponentError};
use stage::Stage;
use store::manifest::Manifest;

use store::testing::bytes_of;

impl Stage {
    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn files(&self, after: Duration) -> Files {
        Files {
            paths: vec![self.data()],
            excludes: Excludes::new(&["*.tmp".to_owned()]).unwrap(),
            one_file_system: false,
            reads_all: false,
            now_us: Stage::clock_after(after),
        }
    }

    /// As if so much time had passed.
    async fn take_after(&self, after: Duration) -> Result<Manifest, ComponentError> {
        self.take(&self.files(after)).await
    }

    /// Where the data lies below a directory that was restored to.
    fn back(&self, to: &Path) -> PathBuf {
        self.below(to, &self.data())
    }
}

/// All that is to be the same, by path.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(root).unwrap().to_owned();
        let kind = metadata.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".into()
        } else if kind.is_fifo() {
            "pipe".into()
        } else {
            let content = fs::read(&path).unwrap();
            let mut value = [0; 100];
            let extended = rustix::fs::lgetxattr(&path, "user.seen", &mut value).map(|length| value[..length].to_vec());
            let is_several = metadata.nlink() > 1;
            format!(
                "{} {:?} {is_several} {:?}",
                content.len(),
                crc32c(&content),
                extended.ok()
            )
        };
        out.insert(
            below,
            format!(
                "{:o} {}:{} {}.{} {what}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec()
            ),
        );
    }
    out
}

fn differences(now: &BTreeMap<PathBuf, String>, then: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = now.keys().chain(then.keys()).collect();
    let differs = paths.into_iter().filter(|path| now.get(*path) != then.get(*path));
    differs
        .map(|path| format!("{}: {:?}, was {:?}", path.display(), now.get(path), then.get(path)))
        .collect()
}

fn crc32c(bytes: &[u8]) -> u64 {
    bytes.iter().fold(14_695_981_039_346_656_037, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
    })
}

fn make(data: &Path) {
    for directory in ["", "a", "a/b", "a-b", "empty", "deep/er/est"] {
        fs::create_dir_all(data.join(directory)).unwrap();
    }
    let write = |name: &str, bytes: &[u8]| fs::write(data.join(name), bytes).unwrap();
    write("a/b/one", &bytes_of(1, 3_000_000));
    write("a-b/two", b"small");
    write("a.txt", b"between");
    write("a/zero", b"");
    write("deep/er/est/x.tmp", b"left out");
    write("private", &bytes_of(2, 70_000));
    fs::set_permissions(data.join("private"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(data.join("empty"), fs::Permissions::from_mode(0o1577)).unwrap();
    symlink("/nowhere/at all", data.join("link")).unwrap();
    symlink("a", data.join("to-directory")).unwrap();
    fs::hard_link(data.join("private"), data.join("a/again")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        data.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 20 << 20).unwrap();
    let _ = rustix::fs::setxattr(data.join("a.txt"), "user.seen", b"yes", rustix::fs::XattrFlags::empty());
    for number in 0..3000 {
        let directory = data.join(format!("many/{:02}", number % 37));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("{number}")),
            bytes_of(number, (number as usize * 7) % 900),
        )
        .unwrap();
    }
}

#[tokio::test]
async fn directories_come_back_exactly_and_unchanged_files_are_not_read_again() {
    let stage = Stage::new().await;
    let data = stage.data();
    make(&data);
    let mut first = look(&data);
    let hour = Duration::from_secs(3600);
    let one = stage.take_after(hour).await.unwrap();
    assert_eq!(one.totals.files, 3000 + 7);

    // Changed: content of one, mode of one, one gone, one new; same size and time for the one that is hardest to see.
    let changed = data.join("many/05/5");
    let before = fs::metadata(&changed).unwrap();
    fs::write(&changed, bytes_of(99, before.len() as usize)).unwrap();
    fs::File::options()
        .write(true)
        .open(&changed)
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
    fs::set_permissions(data.join("a/zero"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(data.join("many/06/6")).unwrap();
    fs::write(data.join("new"), bytes_of(77, 10_000)).unwrap();
    let mut second = look(&data);
    let two = stage.take_after(2 * hour).await.unwrap();
    assert!(two.totals.new_stored_bytes < 60_000, "{}", two.totals.new_stored_bytes);
    assert_eq!(two.parent, Some(one.backup));

    for seen in [&mut first, &mut second] {
        seen.remove(Path::new("deep/er/est/x.tmp"));
    }
    for (manifest, seen, name) in [(&one, &first, "one"), (&two, &second, "two")] {
        let to = stage.directory.path().join(name);
        let restored = stage.restore_part(manifest, &to, false, &[]).await.unwrap();
        assert_eq!(restored.replaced + restored.same, 0);
        assert_eq!(
            differences(&look(&stage.back(&to)), seen),
            Vec::<String>::new(),
            "{name}"
        );
        let sparse = fs::metadata(stage.back(&to).join("sparse")).unwrap();
        assert!(sparse.blocks() * 512 < 1 << 20);
        let again = (
            fs::metadata(stage.back(&to).join("private")),
            fs::metadata(stage.back(&to).join("a/again")),
        );
        assert_eq!(again.0.unwrap().ino(), again.1.unwrap().ino());
        let facts = &manifest.component.as_ref().unwrap().facts;
        let compare = async || stage.files(hour).compare(facts, &to).await.unwrap();
        assert_eq!(compare().await, Vec::<String>::new());
        fs::write(stage.back(&to).join("more"), b"").unwrap();
        let differs = compare().await;
        assert!(
            differs.len() == 2 && differs.iter().any(|line| line.starts_with("files:")),
            "{differs:?}"
        );
        fs::remove_file(stage.back(&to).join("more")).unwrap();
    }

    // Over the first the second: only what differs is replaced, and what is not in the backup stays.
    let to = stage.directory.path().join("one");
    fs::write(stage.back(&to).join("mine"), b"stays").unwrap();
    assert!(matches!(
        stage.restore_part(&two, &to, false, &[]).await,
        Err(ComponentError::Refused { .. })
    ));
    let restored = stage.restore_part(&two, &to, true, &[]).await.unwrap();
    assert_eq!((restored.replaced, restored.bytes), (1, before.len() + 10_000));
    let now = look(&stage.back(&to));
    assert!(
        second
            .iter()
            .all(|(path, what)| path.as_os_str().is_empty() || now.get(path) == Some(what))
    );
    assert!(now.contains_key(Path::new("mine")) && now.contains_key(Path::new("many/06/6")));

    // A part.
    let part = stage.directory.path().join("part");
    let prefix = data.strip_prefix("/").unwrap().display().to_string();
    let only = [format!("{prefix}/a"), format!("{prefix}/many/05/5")];
    let only: Vec<&str> = only.iter().map(String::as_str).collect();
    stage.restore_part(&two, &part, false, &only).await.unwrap();
    let found = look(&stage.back(&part));
    assert!(
        found.contains_key(Path::new("a/b/one"))
            && found.contains_key(Path::new("a/again"))
            && !found.contains_key(Path::new("a-b"))
    );
    assert_eq!(found[Path::new("many/05/5")], second[Path::new("many/05/5")]);
    let nothing = stage
        .restore_part(&two, &stage.directory.path().join("none"), false, &["not/there"])
        .await;
    assert!(matches!(nothing, Err(ComponentError::Refused { .. })));
}

#[tokio::test]
async fn what_cannot_be_read_fails_and_what_is_replaced_by_a_link_is_not_followed() {
    let stage = Stage::new().await;
    let data = stage.data();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("f"), b"content").unwrap();
    let missing = Files {
        paths: vec![data.join("not there")],
        ..stage.files(Duration::ZERO)
    };
    assert!(missing.look().await.is_err());
    let nested = Files {
        paths: vec![data.clone(), data.join("f")],
        ..stage.files(Duration::ZERO)
    };
    assert!(matches!(nested.look().await, Err(ComponentError::Refused { .. })));
    assert!(stage.host.component_manifests().await.unwrap().is_empty());
    let taken = stage.take_after(Duration::ZERO).await.unwrap();
    assert_eq!(stage.host.component_manifests().await.unwrap(), [taken]);
    assert!(stage.host.manifests().await.unwrap().is_empty());
}
