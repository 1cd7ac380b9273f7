//! Configuration files into a repository and back: what changed, when, and how; and no secret that was not named, or that the restore key opens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod stage;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use components::Component as _;
use components::config::{Config, open_secrets};
use components::difference::{Difference, differences, history};
use components::files::Excludes;
use components::restore::RestoreOptions;
use stage::Stage;
use store::keys::OpeningKey;
use store::keys::identity::SecretsRecipient;
use store::manifest::Manifest;

const PASSWORD: &[u8] = b"correct horse battery staple";
const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n";

/// As if so much time had passed.
fn of(paths: &[&Path], secrets: &[&str], recipient: Option<&OpeningKey>, after: Duration) -> Config {
    let now = Stage::clock();
    Config {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        excludes: Excludes::new(&["*.bak".to_owned()]).unwrap(),
        secrets: Excludes::new(&secrets.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap(),
        recipient: recipient.map(SecretsRecipient::of),
        now_us: Arc::new(move || now() + i64::try_from(after.as_micros()).unwrap()),
    }
}

fn make(etc: &Path) {
    fs::create_dir_all(etc.join("conf.d")).unwrap();
    fs::create_dir_all(etc.join("private")).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(etc.join(name), content).unwrap();
    write("app.conf", b"listen = 80\nworkers = 4\nname = app\n");
    write("conf.d/10-log.conf", b"level = info\n");
    write("binary.db", &[0, 1, 2, 3]);
    write("old.bak", b"left out by a pattern");
    write("DB_Password.txt", PASSWORD);
    write("server.key", KEY);
    write("site.pem", KEY);
    write("ca.pem", b"-----BEGIN CERTIFICATE-----\nMIIB\n");
    write("private/inner.conf", b"x");
    write(".pgpass", b"h:5432:*:u:p");
    fs::set_permissions(etc.join("DB_Password.txt"), fs::Permissions::from_mode(0o640)).unwrap();
}

fn fact(manifest: &Manifest, name: &str) -> String {
    manifest.component.as_ref().unwrap().facts[name].clone()
}

/// Paths of the backup, below its root.
async fn paths(stage: &Stage, manifest: &Manifest, etc: &Path) -> Vec<String> {
    let (mut stored, mut all) = (stage.stored(manifest), Vec::new());
    let prefix = format!("{}/", etc.strip_prefix("/").unwrap().display());
    while let Some(piece) = stored.next_piece().await.unwrap() {
        let paths = piece
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
        all.extend(paths.filter_map(|path| path.strip_prefix(&prefix).map(str::to_owned)));
    }
    all
}

/// `etc/app` and what lies in it, as they are in the backup.
fn below(etc: &Path, name: &str) -> Vec<u8> {
    etc.strip_prefix("/")
        .unwrap()
        .join(name)
        .into_os_string()
        .into_encoded_bytes()
}

fn of_path<'d>(all: &'d [Difference], path: &[u8]) -> &'d Difference {
    all.iter().find(|one| one.path == path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_shown_and_when() {
    let stage = Stage::new().await;
    let etc = stage.path("etc");
    make(&etc);
    let config = || of(&[&etc], &[], None, Duration::ZERO);
    let first = stage.take(&config()).await.unwrap();
    let same = stage.take(&config()).await.unwrap();
    assert!(same.totals.new_stored_bytes < 5_000, "{}", same.totals.new_stored_bytes);

    fs::write(etc.join("app.conf"), b"listen = 80\nworkers = 8\nname = app\n").unwrap();
    fs::set_permissions(etc.join("app.conf"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(etc.join("binary.db"), [0, 1, 2, 4]).unwrap();
    fs::remove_file(etc.join("conf.d/10-log.conf")).unwrap();
    fs::write(etc.join("conf.d/20-new.conf"), b"new = yes\n").unwrap();
    symlink("app.conf", etc.join("link")).unwrap();
    let second = stage.take(&config()).await.unwrap();
    fs::write(etc.join("app.conf"), b"listen = 80\nworkers = 4\nname = app\n").unwrap();
    fs::remove_file(etc.join("link")).unwrap();
    symlink("binary.db", etc.join("link")).unwrap();
    let third = stage.take(&config()).await.unwrap();

    let all = [&first, &same, &second, &third].map(|manifest| stage.stored(manifest));
    assert_eq!(differences(&all[0], &all[1]).await.unwrap(), []);
    let found = differences(&all[0], &all[2]).await.unwrap();
    let changed = of_path(&found, &below(&etc, "app.conf"));
    assert_eq!(changed.words, ["changed", "mode 0600, was 0644"]);
    let path = below(&etc, "app.conf").escape_ascii().to_string();
    let expected =
        format!("--- a/{path}\n+++ b/{path}\n@@ -1,3 +1,3 @@\n listen = 80\n-workers = 4\n+workers = 8\n name = app\n");
    assert_eq!(changed.text.as_deref(), Some(expected.as_str()));
    let binary = of_path(&found, &below(&etc, "binary.db"));
    assert_eq!(
        (binary.words.as_slice(), &binary.text),
        (["changed".to_owned()].as_slice(), &None)
    );
    let removed = of_path(&found, &below(&etc, "conf.d/10-log.conf"));
    assert_eq!(removed.words, ["removed"]);
    assert!(removed.text.as_ref().unwrap().ends_with("-level = info\n"));
    let added = of_path(&found, &below(&etc, "conf.d/20-new.conf"));
    assert!(added.words == ["added"] && added.text.as_ref().unwrap().contains("--- /dev/null\n"));
    assert_eq!(found.len(), 5, "{found:?}");
    // Any two, in any direction.
    let back = differences(&all[2], &all[0]).await.unwrap();
    assert!(
        of_path(&back, &below(&etc, "app.conf"))
            .text
            .as_ref()
            .unwrap()
            .contains("-workers = 8\n+workers = 4\n")
    );
    let led = differences(&all[2], &all[3]).await.unwrap();
    assert_eq!(
        of_path(&led, &below(&etc, "link")).words,
        ["leads to \"binary.db\", led to \"app.conf\""]
    );

    let events = async |name: &str| {
        let events = history(&all, &below(&etc, name)).await.unwrap();
        events
            .into_iter()
            .map(|event| (event.backup, event.words.join(", ")))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        events("app.conf").await,
        [
            (first.backup, "added".to_owned()),
            (second.backup, "changed, mode 0600, was 0644".to_owned()),
            (third.backup, "changed".to_owned())
        ]
    );
    let gone = events("conf.d/10-log.conf").await;
    assert_eq!(
        gone,
        [
            (first.backup, "added".to_owned()),
            (second.backup, "removed".to_owned())
        ]
    );
    assert_eq!(events("nothing").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_left_out_and_those_that_are_named_open_with_their_identity_alone() {
    let stage = Stage::new().await;
    let etc = stage.path("etc");
    make(&etc);
    let plain = stage.take(&of(&[&etc], &[], None, Duration::ZERO)).await.unwrap();
    let taken = [
        "app.conf",
        "binary.db",
        "ca.pem",
        "conf.d",
        "conf.d/10-log.conf",
        "private",
    ];
    assert_eq!(paths(&stage, &plain, &etc).await, taken);
    assert_eq!(fact(&plain, "left_out"), "5");
    let names = fact(&plain, "left_out_paths");
    assert!(
        names.contains("DB_Password.txt") && names.contains("site.pem"),
        "{names}"
    );

    let (identity, other) = (OpeningKey::generate().unwrap(), OpeningKey::generate().unwrap());
    let password = format!("{}/DB_Password.txt", etc.display());
    let secrets = [password.as_str(), "site.pem", "private/"];
    let hour = Duration::from_secs(3600);
    let config = |after: u32, to| of(&[&etc], &secrets, Some(to), hour * after);
    let one = stage.take(&config(1, &identity)).await.unwrap();
    let sealed = ["DB_Password.txt.sealed", "private/inner.conf.sealed", "site.pem.sealed"];
    let found = paths(&stage, &one, &etc).await;
    assert!(
        sealed.iter().all(|name| found.contains(&(*name).to_owned())),
        "{found:?}"
    );
    assert_eq!(
        (found.len(), fact(&one, "left_out"), fact(&one, "sealed")),
        (9, "2".into(), "3".into())
    );

    // The restore key brings back what is sealed, and nothing of what is in it.
    let to = stage.path("to");
    stage.restore(&one, &to, false).await.unwrap();
    let restored = stage.below(&to, &etc);
    let facts = &one.component.as_ref().unwrap().facts;
    let compare = async || config(1, &identity).compare(facts, &to).await.unwrap();
    assert_eq!(compare().await, Vec::<String>::new());
    let content = fs::read(restored.join(sealed[0])).unwrap();
    assert!(!content.windows(8).any(|part| PASSWORD.windows(8).any(|of| of == part)));
    assert!(!restored.join("DB_Password.txt").exists());
    let options = RestoreOptions {
        to: to.clone(),
        ..RestoreOptions::default()
    };
    let refused = open_secrets(&stage.stored(&one), &options, &other)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("does not open with this identity"), "{refused}");
    assert!(restored.join(sealed[0]).exists() && !restored.join("DB_Password.txt").exists());
    assert_eq!(open_secrets(&stage.stored(&one), &options, &identity).await.unwrap(), 3);
    assert_eq!(fs::read(restored.join("DB_Password.txt")).unwrap(), PASSWORD);
    assert_eq!(fs::read(restored.join("site.pem")).unwrap(), KEY);
    let mode = fs::metadata(restored.join("DB_Password.txt")).unwrap().mode();
    assert_eq!((mode & 0o7777, restored.join(sealed[0]).exists()), (0o640, false));
    assert_eq!(compare().await, Vec::<String>::new());

    // Unchanged it is what was sealed before; changed, or for somebody else, it is sealed anew.
    let two = stage.take(&config(2, &identity)).await.unwrap();
    let unchanged = differences(&stage.stored(&one), &stage.stored(&two)).await.unwrap();
    assert_eq!(unchanged, []);
    fs::write(etc.join("DB_Password.txt"), b"another").unwrap();
    let three = stage.take(&config(3, &identity)).await.unwrap();
    let changed = differences(&stage.stored(&two), &stage.stored(&three)).await.unwrap();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(
        (changed[0].words.as_slice(), &changed[0].text),
        (["changed".to_owned()].as_slice(), &None)
    );
    let four = stage.take(&config(4, &other)).await.unwrap();
    assert_eq!(
        differences(&stage.stored(&three), &stage.stored(&four))
            .await
            .unwrap()
            .len(),
        3
    );
    let all = [&plain, &one, &two, &three].map(|manifest| stage.stored(manifest));
    let events = history(&all, &below(&etc, "DB_Password.txt")).await.unwrap();
    let words: Vec<_> = events
        .iter()
        .map(|event| (event.backup, event.words.join(", ")))
        .collect();
    assert_eq!(
        words,
        [(one.backup, "added".to_owned()), (three.backup, "changed".to_owned())]
    );
    let to = stage.path("four");
    stage.restore(&four, &to, false).await.unwrap();
    let options = RestoreOptions {
        to: to.clone(),
        ..options
    };
    open_secrets(&stage.stored(&four), &options, &other).await.unwrap();
    assert_eq!(
        fs::read(stage.below(&to, &etc).join("DB_Password.txt")).unwrap(),
        b"another"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_somebody_plants_are_links_and_names_do_no_harm() {
    let stage = Stage::new().await;
    let (etc, outside) = (stage.path("etc"), stage.path("outside"));
    make(&etc);
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("shadow"), b"root:x").unwrap();
    fs::write(outside.join("f"), b"not ours").unwrap();
    symlink(outside.join("f"), etc.join("f.conf")).unwrap();
    symlink(outside.join("shadow"), etc.join("named.password")).unwrap();
    symlink(&outside, etc.join("dir.d")).unwrap();
    // A second name of a secret, under which nobody would take it for one.
    fs::hard_link(etc.join("site.pem"), etc.join("innocent.txt")).unwrap();
    for name in ["a\nb\u{1b}[31m", "-rf", "%s {} $(x)", "x.sealed"] {
        fs::write(etc.join(name), b"hostile\n").unwrap();
    }
    let identity = OpeningKey::generate().unwrap();
    let config = of(&[&etc], &["named.password"], Some(&identity), Duration::ZERO);
    let taken = stage.take(&config).await.unwrap();
    let found = paths(&stage, &taken, &etc).await;
    assert!(
        !found
            .iter()
            .any(|path| path.starts_with("dir.d/") || path.contains("innocent")),
        "{found:?}"
    );
    assert_eq!(
        (fact(&taken, "links"), fact(&taken, "sealed")),
        ("3".into(), "0".into())
    );

    let to = stage.path("to");
    stage.restore(&taken, &to, false).await.unwrap();
    let options = RestoreOptions {
        to: to.clone(),
        ..RestoreOptions::default()
    };
    // A file that only has such a name stays what it is.
    assert_eq!(
        open_secrets(&stage.stored(&taken), &options, &identity).await.unwrap(),
        0
    );
    let restored = stage.below(&to, &etc);
    assert_eq!(fs::read(restored.join("x.sealed")).unwrap(), b"hostile\n");
    assert_eq!(
        fs::read_link(restored.join("named.password")).unwrap(),
        outside.join("shadow")
    );
    let read = |name: &str| fs::read(restored.join(name)).unwrap();
    assert_eq!(read("a\nb\u{1b}[31m"), b"hostile\n");
    let none = stage.stored(&stage.take(&of(&[&outside], &[], None, Duration::ZERO)).await.unwrap());
    let all = differences(&none, &stage.stored(&taken)).await.unwrap();
    let text = of_path(&all, &below(&etc, "a\nb\u{1b}[31m")).text.clone().unwrap();
    assert!(text.contains(r"a\nb\x1b[31m") && text.lines().count() == 4, "{text}");

    // What is too long for a configuration file, and what cannot be found.
    fs::File::create(etc.join("long")).unwrap().set_len(33 << 20).unwrap();
    let refused = stage.take(&config).await.unwrap_err().to_string();
    assert!(refused.contains("too long for a configuration file"), "{refused}");
    let missing = of(&[&PathBuf::from("/nowhere/at/all")], &[], None, Duration::ZERO);
    assert!(missing.look().await.is_err());
}
