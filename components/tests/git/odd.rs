//! Repositories that are not as usual; what cannot be captured whole; git that is killed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use components::git::build;
use components::{Component as _, ComponentError};
use store::pipeline::{Pace, PaceLimits};

use super::repository::{fed, git, import, look, make};
use super::{Stage, back, bundles, facts, of};

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_found_below_directories_and_each_comes_back() {
    let stage = Stage::new().await;
    let srv = stage.path("srv");
    let work = srv.join("work tree\nand 'more'");
    fs::create_dir_all(&work).unwrap();
    git(&work, &["init", "--quiet", "--initial-branch=main"]);
    fs::write(work.join("a"), b"one").unwrap();
    git(&work, &["add", "a"]);
    git(&work, &["commit", "--quiet", "-m", "one"]);
    // A stash, a detached HEAD with a commit that no branch has, a submodule, a further work tree, an alternate, an empty one.
    fs::write(work.join("a"), b"two").unwrap();
    git(&work, &["stash", "--quiet"]);
    let (empty, borrower, inner) = (
        srv.join("-empty.git"),
        srv.join("deep/er/borrower.git"),
        srv.join("inner.git"),
    );
    git(
        &srv,
        &["init", "--quiet", "--bare", "--initial-branch=trunk", "./-empty.git"],
    );
    git(&srv, &["init", "--quiet", "--bare", "inner.git"]);
    import(&inner, "refs/heads/master", 0..5, 100);
    git(
        &srv,
        &[
            "clone",
            "--quiet",
            "--bare",
            "--shared",
            inner.to_str().unwrap(),
            borrower.to_str().unwrap(),
        ],
    );
    import(&borrower, "refs/heads/own", 0..3, 100);
    git(&work, &["submodule", "--quiet", "add", inner.to_str().unwrap(), "sub"]);
    git(&work, &["commit", "--quiet", "-m", "with a submodule"]);
    git(&work, &["checkout", "--quiet", "--detach"]);
    git(&work, &["commit", "--quiet", "--allow-empty", "-m", "of no branch"]);
    git(
        &work,
        &[
            "worktree",
            "add",
            "--quiet",
            srv.join("further").to_str().unwrap(),
            "main",
        ],
    );
    for left_out in ["left-out/x.git", "link-to"] {
        let path = stage.path("outside.git");
        if left_out == "link-to" {
            git(&srv, &["init", "--quiet", "--bare", path.to_str().unwrap()]);
            std::os::unix::fs::symlink(&path, srv.join(left_out)).unwrap();
        } else {
            git(&srv, &["init", "--quiet", "--bare", left_out]);
        }
    }
    let all = [
        work.join(".git"),
        work.join(".git/modules/sub"),
        inner.clone(),
        borrower.clone(),
    ];
    let seen = all.each_ref().map(|path| look(path));

    let component = of(&[&srv]);
    let looked = component.look().await.unwrap();
    assert_eq!(looked.notes, ["5 repositories"]);
    assert!(looked.version.starts_with("2."));
    let taken = stage.take(&component).await.unwrap();
    assert_eq!(facts(&taken, "repositories"), "5");
    let to = back(&stage, &taken, &srv, "to").await;
    for (path, seen) in all.iter().zip(&seen) {
        let restored = to.join(path.strip_prefix(&srv).unwrap());
        assert!(look(&restored) == *seen, "{}", path.display());
        assert!(!restored.join("objects/info/alternates").exists());
    }
    let restored = to.join("-empty.git");
    assert_eq!(git(&restored, &["symbolic-ref", "HEAD"]), "refs/heads/trunk");
    assert_eq!(git(&restored, &["for-each-ref"]), "");
    assert!(!to.join("left-out").exists() && !to.join("link-to").exists());
    // With a work tree again.
    let restored = to.join(work.strip_prefix(&srv).unwrap());
    git(&restored, &["config", "core.bare", "false"]);
    git(&restored, &["reset", "--hard", "--quiet", "refs/stash"]);
    assert_eq!(fs::read(restored.join("a")).unwrap(), b"two");

    // Named itself, only it and its submodules; named with what is around it, once.
    let alone = stage.take(&of(&[&work])).await.unwrap();
    assert_eq!(facts(&alone, "repositories"), "2");
    let twice = stage.take(&of(&[&srv, &inner])).await.unwrap();
    assert_eq!(facts(&twice, "repositories"), "5");

    // From nothing to something, and to nothing.
    import(&empty, "refs/heads/trunk", 0..2, 50);
    let more = stage.take(&of(&[&empty])).await.unwrap();
    assert_eq!(
        (facts(&more, "commits").as_str(), bundles(&stage, &more).await.len()),
        ("2", 1)
    );
    git(&empty, &["update-ref", "-d", "refs/heads/trunk"]);
    let less = stage.take(&of(&[&empty])).await.unwrap();
    assert_eq!(
        (facts(&less, "commits").as_str(), bundles(&stage, &less).await.len()),
        ("0", 0)
    );
    back(&stage, &less, &empty, "less").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_whole_is_refused_with_the_reason() {
    let stage = Stage::new().await;
    let source = stage.path("app.git");
    make(&source, &[]);
    let url = format!("file://{}", source.display());
    let clone = |name: &str, how: &[&str]| {
        let path = stage.path(name);
        git(
            Path::new("/"),
            &[&["clone", "--quiet", "--bare"], how, &[&url, path.to_str().unwrap()]].concat(),
        );
        path
    };
    git(&source, &["config", "uploadpack.allowFilter", "true"]);
    let shallow = clone("shallow.git", &["--depth=3"]);
    let partial = clone("partial.git", &["--filter=blob:none"]);
    let nothing = stage.path("nothing");
    fs::create_dir(&nothing).unwrap();
    let work = stage.path("work");
    git(Path::new("/"), &["clone", "--quiet", &url, work.to_str().unwrap()]);
    let further = stage.path("further");
    git(
        &work,
        &["worktree", "add", "--quiet", "--detach", further.to_str().unwrap()],
    );
    let broken = clone("broken.git", &["--no-local"]);
    fs::write(broken.join("refs/heads/bad"), b"no object id\n").unwrap();
    let lacking = clone("lacking.git", &["--no-local"]);
    fs::write(lacking.join("refs/heads/bad"), format!("{}\n", "0123456789".repeat(4))).unwrap();
    let ours = stage.path("x/.seawall-git/y.git");
    git(Path::new("/"), &["init", "--quiet", "--bare", ours.to_str().unwrap()]);

    for (path, why) in [
        (&shallow, "shallow clone"),
        (&partial, "partial clone"),
        (&nothing, "is no git repository"),
        (&further, "work tree of a repository that lies elsewhere"),
        (&broken, "for-each-ref"),
        (&lacking, "failed"),
        (&stage.path("x"), ".seawall-git"),
        (&stage.path("not there"), "cannot find"),
    ] {
        let refused = stage.take(&of(&[path])).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{why}: {refused}");
    }
    assert!(of(&[&shallow]).look().await.is_err() && of(&[&nothing]).look().await.is_err());
    assert_eq!(stage.host.component_manifests().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_s_own_settings_and_ours_run_nothing_and_change_nothing() {
    let stage = Stage::new().await;
    let source = stage.path("app.git");
    make(&source, &[]);
    let trap = stage.path("trapped");
    let program = stage.path("trap.sh");
    fs::write(&program, format!("#!/bin/sh\ntouch {}\n", trap.display())).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();
    for key in [
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "uploadpack.packObjectsHook",
        "core.alternateRefsCommand",
    ] {
        git(&source, &["config", key, program]);
    }
    git(
        &source,
        &["config", "core.hooksPath", stage.path("hooks").to_str().unwrap()],
    );
    fs::create_dir(stage.path("hooks")).unwrap();
    for hook in ["reference-transaction", "post-index-change", "pre-auto-gc"] {
        std::os::unix::fs::symlink(program, stage.path("hooks").join(hook)).unwrap();
    }
    // A replacement is a ref like others, and does not stand for what it replaces.
    let other = fed(&source, &["commit-tree", "-m", "another", "main^{tree}"], b"");
    git(
        &source,
        &["-c", "core.hooksPath=/dev/null", "replace", "main~5", &other],
    );
    let _ = fs::remove_file(&trap);
    let taken = stage.take(&of(&[&source])).await.unwrap();
    assert_eq!(facts(&taken, "commits"), "1002");
    let restored = back(&stage, &taken, &source, "to").await;
    assert!(!trap.exists());
    let count = |path: &Path| git(path, &["--no-replace-objects", "rev-list", "--count", "main"]);
    assert_eq!(
        (count(&restored), count(&restored) == count(&source)),
        ("1000".to_owned(), true)
    );
}

/// Processes of ours that pack.
fn packing() -> Vec<i32> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let parent = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .nth(1)
            .map(str::to_owned);
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_packing = String::from_utf8_lossy(&words).contains("pack-objects");
        if parent == Some(std::process::id().to_string())
            && is_packing
            && String::from_utf8_lossy(&words).contains("killed.git")
        {
            all.push(pid);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn git_that_is_killed_half_way_lists_nothing() {
    let stage = Stage::new().await;
    let source = stage.path("killed.git");
    git(Path::new("/"), &["init", "--quiet", "--bare", source.to_str().unwrap()]);
    import(&source, "refs/heads/main", 0..40, 1 << 20);
    let component = of(&[&source]);
    let kill = async {
        let begun = Instant::now();
        loop {
            if let [pid] = packing().as_slice() {
                // Some of it has passed by then: what is read is bounded, and slow.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let pid = rustix::process::Pid::from_raw(*pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "git never came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let slowly = Pace::new(PaceLimits {
        bytes_per_second: Some(8 << 20),
        ..PaceLimits::default()
    });
    let (taken, ()) = tokio::join!(stage.take_at(&component, slowly), kill);
    let error = taken.unwrap_err();
    assert!(
        matches!(&error, ComponentError::System { what, .. } if what.contains("pack-objects") && what.contains("signal")),
        "{error}"
    );
    assert_eq!(stage.host.component_manifests().await.unwrap().len(), 0);
    assert!(packing().is_empty());
    let taken = stage.take(&component).await.unwrap();
    back(&stage, &taken, &source, "to").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_cut_short_is_gone_on_with() {
    let stage = Stage::new().await;
    let source = stage.path("app.git");
    make(&source, &[]);
    let taken = stage.take(&of(&[&source])).await.unwrap();
    let to = stage.bring_back(&taken, "to").await;
    let place = stage.below(&to, &source);
    // What lies in its place is somebody's, unless the move had begun.
    fs::create_dir(place.join("objects")).unwrap();
    let refused = build(&to, true).await.unwrap_err().to_string();
    assert!(refused.contains("is in the way"), "{refused}");
    assert!(place.join(".seawall-git/000001.bundle").exists());
    fs::write(place.join(".seawall-git/moving"), b"").unwrap();
    build(&to, true).await.unwrap();
    assert_eq!(look(&place), look(&source));
    // Of several, one may stand there already when the others fail: with the next run come its bundles as well.
    stage.restore(&taken, &to, true).await.unwrap();
    assert!(place.join(".seawall-git").exists());
    // Where the directory was not empty, it may be anybody's, and damaged.
    let refused = build(&to, false).await.unwrap_err().to_string();
    assert!(refused.contains("is a repository already"), "{refused}");
    assert_eq!(build(&to, true).await.unwrap().len(), 1);
    assert!(!place.join(".seawall-git").exists());
    assert_eq!(look(&place), look(&source));
}
