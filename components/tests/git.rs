//! Real repositories into a repository and back: every ref, every object; little where little is new; and nothing where something is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "git/odd.rs"]
mod odd;
#[path = "git/repository.rs"]
mod repository;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use components::Component as _;
use components::files::Excludes;
use components::git::{Git, build};
use repository::{git, import, look, make};
use stage::Stage;
use store::manifest::Manifest;

fn of(paths: &[&Path]) -> Git {
    Git {
        repositories: paths.iter().map(|path| (*path).to_owned()).collect(),
        excludes: Excludes::new(&["left-out/".to_owned()]).unwrap(),
        now_us: Stage::clock(),
    }
}

/// Restored, compared with what was captured, built, and compared again; where the repository is.
async fn back(stage: &Stage, manifest: &Manifest, source: &Path, name: &str) -> PathBuf {
    let to = stage.path(name);
    stage.restore(manifest, &to, false).await.unwrap();
    let facts = &manifest.component.as_ref().unwrap().facts;
    let compare = async || of(&[source]).compare(facts, &to).await.unwrap();
    assert_eq!(compare().await, Vec::<String>::new(), "{name}");
    let built = build(&to, true).await.unwrap();
    assert_eq!(compare().await, Vec::<String>::new(), "{name}");
    assert!(!built.is_empty() && built.iter().all(|one| !one.path.join(".seawall-git").exists()));
    stage.below(&to, source)
}

fn facts(manifest: &Manifest, name: &str) -> String {
    manifest.component.as_ref().unwrap().facts[name].clone()
}

/// Names of the bundles.
async fn bundles(stage: &Stage, manifest: &Manifest) -> Vec<String> {
    let (mut stored, mut all) = (stage.stored(manifest), Vec::new());
    while let Some(piece) = stored.next_piece().await.unwrap() {
        let paths = piece
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
        all.extend(paths.filter(|path| path.ends_with(".bundle")));
    }
    all.iter()
        .map(|path| path.rsplit('/').next().unwrap().to_owned())
        .collect()
}

async fn changed_twice(format: &str) {
    let stage = Stage::new().await;
    let source = stage.path("app.git");
    make(&source, &[&format!("--object-format={format}")]);
    let before = look(&source);
    let first = stage.take(&of(&[&source])).await.unwrap();
    assert_eq!(facts(&first, "commits"), "1001", "1,000 and a note");

    // New commits, a branch gone, another forced elsewhere, a tag, a note; and a ref that is only another name.
    import(&source, "refs/heads/main", 1000..1005, 600);
    git(&source, &["branch", "-D", "old"]);
    let alone = git(&source, &["commit-tree", "-m", "from nothing", "main^{tree}"]);
    git(&source, &["branch", "-f", "forced", &alone]);
    git(&source, &["tag", "-a", "-m", "two", "v2", "main"]);
    git(&source, &["notes", "add", "-m", "another note", "main"]);
    git(&source, &["update-ref", "refs/heads/again", "main~600"]);
    let after = look(&source);
    let second = stage.take(&of(&[&source])).await.unwrap();
    let (one, two) = (first.totals.new_stored_bytes, second.totals.new_stored_bytes);
    println!("{format}: {one} bytes stored at first, {two} for 5 commits, a tag and a note");
    assert!(two * 20 < one && two < 60_000, "{two} of {one}");
    assert_eq!(bundles(&stage, &second).await, ["000001.bundle", "000002.bundle"]);

    // Only refs change: nothing is written but the table, and a deleted branch is gone.
    git(&source, &["branch", "-m", "again", "once-more"]);
    git(&source, &["branch", "-D", "forced"]);
    git(&source, &["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    let last = look(&source);
    let third = stage.take(&of(&[&source])).await.unwrap();
    let three = third.totals.new_stored_bytes;
    println!("{format}: {three} for other refs alone");
    assert!(three < 10_000, "{three}");
    assert_eq!(bundles(&stage, &third).await.len(), 2);

    for (manifest, seen, name) in [
        (&first, &before, "one"),
        (&second, &after, "two"),
        (&third, &last, "three"),
    ] {
        let restored = back(&stage, manifest, &source, name).await;
        assert!(look(&restored) == *seen, "{name}");
        assert_eq!(git(&restored, &["rev-parse", "--show-object-format"]), format);
        // It is a repository like any other.
        let clone = stage.path(&format!("{name}.clone"));
        let clone = clone.to_str().unwrap();
        git(
            Path::new("/"),
            &["clone", "--quiet", "--branch=main", restored.to_str().unwrap(), clone],
        );
        let head = |path: &Path| git(path, &["rev-parse", "main"]);
        assert_eq!(head(Path::new(clone)), head(&restored));
    }
    assert!(before != after && after != last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_comes_back_exactly_and_only_what_is_new_is_stored() {
    changed_twice("sha1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_with_sha256() {
    changed_twice("sha256").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rewritten_and_pruned_is_captured_as_a_whole_again() {
    let stage = Stage::new().await;
    let source = stage.path("app.git");
    make(&source, &[]);
    stage.take(&of(&[&source])).await.unwrap();
    let tip = git(&source, &["rev-parse", "main"]);
    for name in [
        "refs/heads/main",
        "refs/tags/v1",
        "refs/tags/v1-of-tag",
        "refs/notes/commits",
    ] {
        git(&source, &["update-ref", "-d", name]);
    }
    import(&source, "refs/heads/main", 0..3, 900);
    git(&source, &["-c", "gc.pruneExpire=now", "gc", "--quiet", "--prune=now"]);
    let gone = std::process::Command::new("git")
        .arg("-C")
        .arg(&source)
        .args(["cat-file", "-e", &tip])
        .output();
    assert!(!gone.unwrap().status.success(), "pruned");
    let seen = look(&source);
    let taken = stage.take(&of(&[&source])).await.unwrap();
    assert_eq!(bundles(&stage, &taken).await, ["000001.bundle"]);
    assert!(look(&back(&stage, &taken, &source, "to").await) == seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_ends_when_it_is_long_or_has_more_behind_the_first_than_in_it() {
    let stage = Stage::new().await;
    let (many, much) = (stage.path("many.git"), stage.path("much.git"));
    for path in [&many, &much] {
        git(Path::new("/"), &["init", "--quiet", "--bare", path.to_str().unwrap()]);
        import(path, "refs/heads/main", 0..1, 30_000);
    }
    let mut lengths = (Vec::new(), Vec::new());
    for number in 1..33 {
        import(&many, "refs/heads/main", number..number + 1, 10);
        lengths
            .0
            .push(bundles(&stage, &stage.take(&of(&[&many])).await.unwrap()).await.len());
    }
    assert_eq!(lengths.0, (1..=30).chain([1, 2]).collect::<Vec<_>>());
    for number in 1..5 {
        import(&much, "refs/heads/main", number..number + 1, 29_000);
        lengths
            .1
            .push(bundles(&stage, &stage.take(&of(&[&much])).await.unwrap()).await.len());
    }
    // 59 kB, then 29 more, 58, 87: more than the first.
    assert_eq!(lengths.1, [1, 2, 3, 4]);
    import(&much, "refs/heads/main", 5..6, 10);
    let anew = stage.take(&of(&[&much])).await.unwrap();
    assert_eq!(bundles(&stage, &anew).await.len(), 1);
    let seen = look(&much);
    assert!(look(&back(&stage, &anew, &much, "to").await) == seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_found_and_nothing_is_written_over() {
    let stage = Stage::new().await;
    let source = stage.path("app.git");
    make(&source, &[]);
    let first = stage.take(&of(&[&source])).await.unwrap();
    import(&source, "refs/heads/main", 1000..1002, 600);
    let second = stage.take(&of(&[&source])).await.unwrap();
    let facts = &second.component.as_ref().unwrap().facts;

    // One bundle is missing.
    let to = stage.path("missing");
    stage.restore(&second, &to, false).await.unwrap();
    let place = stage.below(&to, &source);
    fs::remove_file(place.join(".seawall-git/000001.bundle")).unwrap();
    assert!(build(&to, true).await.is_err());
    assert!(!place.join("HEAD").exists());
    // Again over it: now it is whole, though something was left of the first try.
    stage.restore(&second, &to, true).await.unwrap();
    build(&to, true).await.unwrap();

    // A ref that is another, an object that is gone.
    git(&place, &["update-ref", "refs/heads/main", "main~1"]);
    let differs = of(&[]).compare(facts, &to).await.unwrap();
    assert!(
        differs.iter().any(|line| line.starts_with("refs_digest:")),
        "{differs:?}"
    );
    git(&place, &["repack", "-a", "-d", "-q"]);
    let pack = fs::read_dir(place.join("objects/pack"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for file in pack {
        fs::remove_file(file).unwrap();
    }
    assert!(!of(&[]).compare(facts, &to).await.unwrap().is_empty());

    // A repository that stands there stays.
    let refused = stage.restore(&first, &to, false).await.unwrap_err().to_string();
    assert!(refused.contains("not empty"), "{refused}");
    stage.restore(&first, &to, true).await.unwrap();
    let refused = build(&to, true).await.unwrap_err().to_string();
    assert!(refused.contains("is a repository already"), "{refused}");
}
