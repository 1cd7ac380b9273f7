//! Git repositories and configuration files, from the configuration to the repository and back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::case::case;
use tests::seawall::{json_array, json_str, json_u64};
use tests::{Cluster, Scratch, Seawall, tree, user};

const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const PASSWORD: &str = "correct horse battery staple";

fn git(directory: &Path, arguments: &[&str]) -> Result<String> {
    let done = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@localhost",
            "-c",
            "safe.directory=*",
        ])
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// All of it belongs to the user of the agent.
fn give(root: &Path) -> Result<()> {
    user::give(root)?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        match path.is_dir() && !path.is_symlink() {
            true => give(&path)?,
            false => user::give(&path)?,
        }
    }
    Ok(())
}

fn commit(work: &Path, text: &str) -> Result<()> {
    fs::write(work.join("a.txt"), text)?;
    git(work, &["add", "--all"])?;
    git(work, &["commit", "--quiet", "-m", text])?;
    give(work)
}

async fn take(seawall: &Seawall, name: &str) -> Result<Value> {
    let report = seawall.agent.run_ok(&["backup", name, "--json"]).await?.json()?;
    Ok(json_array(&report, "backups")?[0].clone())
}

async fn bring_back(seawall: &Seawall, name: &str, to: &Path, more: &[&str]) -> Result<Value> {
    let to = to.display().to_string();
    let arguments = [&["component", name, "--json", "--to", &to], more].concat();
    seawall.restore.run_ok(&arguments).await?.json()
}

fn below(to: &Path, path: &Path) -> PathBuf {
    to.join(path.strip_prefix("/").unwrap())
}

#[test]
fn repositories_come_back_as_bare_ones() {
    case("component_git", async |scratch: Scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let srv = scratch.dir("srv")?;
        let work = srv.join("app");
        fs::create_dir(&work)?;
        git(&work, &["init", "--quiet", "--initial-branch=main"])?;
        commit(&work, "one")?;
        git(&srv, &["init", "--quiet", "--bare", "empty.git"])?;
        give(&srv)?;
        let config = Seawall::local_config(&scratch, &cluster)?
            .set("component.code.kind", "git")?
            .set("component.code.repositories", vec![srv.display().to_string()])?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;

        let first = take(&seawall, "code").await?;
        assert_eq!(first["facts"]["repositories"], "2");
        let was = git(&work, &["for-each-ref"])?;
        commit(&work, "two")?;
        git(&work, &["tag", "-a", "-m", "v", "v1"])?;
        give(&work)?;
        let second = take(&seawall, "code").await?;
        assert_eq!(second["facts"]["commits"], "2");

        let (one, two) = (scratch.join("one"), scratch.join("two"));
        let report = bring_back(&seawall, "code", &one, &["--backup", json_str(&first, "backup")?]).await?;
        assert_eq!(
            (json_u64(&report, "repositories")?, &report["differs"]),
            (2, &serde_json::json!([])),
            "{report}"
        );
        bring_back(&seawall, "code", &two, &[]).await?;
        assert_eq!(git(&below(&one, &work), &["for-each-ref"])?, was);
        assert_eq!(
            git(&below(&two, &work), &["for-each-ref"])?,
            git(&work, &["for-each-ref"])?
        );
        assert_eq!(git(&below(&two, &work), &["show", "v1:a.txt"])?, "two");

        // As it is stored, and checked all the same; a bundle of git's own format.
        let raw = scratch.join("raw");
        let report = bring_back(&seawall, "code", &raw, &["--as-stored"]).await?;
        assert_eq!(
            (&report["differs"], report["repositories"].is_null()),
            (&serde_json::json!([]), true)
        );
        let bundle = below(&raw, &work).join(".git/.seawall-git/000001.bundle");
        let heads = git(
            &scratch.dir("elsewhere")?,
            &["bundle", "list-heads", &bundle.display().to_string()],
        )?;
        assert!(heads.contains("refs/heads/main"), "{heads}");
        let again = seawall
            .restore
            .run(&["component", "code", "--to", &two.display().to_string()])
            .await?;
        again.assert_refused(REFUSED, &["not empty"])?;
        // Work trees of repositories that are not captured: by a file, by a link.
        for name in ["by-file", "by-link", "by-pipe"] {
            fs::create_dir(srv.join(name))?;
        }
        // Anybody can make one that nobody writes to.
        let made = std::process::Command::new("mkfifo")
            .arg(srv.join("by-pipe/.git"))
            .status()?;
        assert!(made.success());
        fs::write(srv.join("by-file/.git"), "gitdir: /nowhere/modules/x\n")?;
        std::os::unix::fs::symlink("/nowhere/else", srv.join("by-link/.git"))?;
        fs::create_dir(srv.join("of-ours"))?;
        let gitdir = format!("gitdir: {}\n", work.join(".git").display());
        fs::write(srv.join("of-ours/.git"), gitdir)?;
        for name in ["by-file", "by-link", "by-pipe", "of-ours"] {
            user::give(&srv.join(name))?;
        }
        let warned = seawall.agent.run_ok(&["backup", "code"]).await?.stderr;
        let passed_over = |name: &str| {
            warned
                .lines()
                .any(|line| line.contains("passed over") && line.contains(name))
        };
        assert!(
            passed_over("by-file") && passed_over("by-link") && passed_over("by-pipe") && !passed_over("of-ours"),
            "{warned}"
        );
        let _agent = seawall.run().await?;
        let good = seawall.agent.run_ok(&["check"]).await?;
        assert!(good.stdout.contains("2 repositories"), "{}", good.stdout);
        let verified = seawall.agent.run(&["verify", "--all"]).await?;
        assert_eq!(verified.code(), 0, "{}", verified.stdout);
        Ok(())
    });
}

#[test]
fn configuration_has_a_history_and_its_secrets_are_under_another_key() {
    case("component_config", async |scratch: Scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let etc = scratch.dir("etc")?;
        fs::write(etc.join("app.conf"), "workers = 4\n")?;
        fs::write(etc.join("password"), PASSWORD)?;
        fs::write(etc.join("tls.key"), "never taken")?;
        give(&etc)?;
        let base = Seawall::local_config(&scratch, &cluster)?
            .set("component.settings.kind", "config")?
            .set("component.settings.paths", vec![etc.display().to_string()])?
            .set(
                "component.settings.secrets",
                vec![etc.join("password").display().to_string()],
            )?;
        // Without a recipient nothing runs, and it is said what to do.
        let without = Seawall::configure(base)?;
        let refused = without.agent.run(&["check"]).await?;
        refused.assert_refused(USAGE, &["names secrets", "wal-restore identity"])?;

        let keys = scratch.dir("elsewhere")?;
        user::give(&keys)?;
        let identity = keys.join("secrets.key").display().to_string();
        let made = without.restore.run_ok(&["identity", &identity]).await?;
        let recipient = made.stdout.trim().to_owned();
        assert!(recipient.starts_with("seawall-secrets-"), "{recipient}");
        let config = Seawall::local_config(&scratch, &cluster)?
            .set("component.settings.kind", "config")?
            .set("component.settings.paths", vec![etc.display().to_string()])?
            .set(
                "component.settings.secrets",
                vec![etc.join("password").display().to_string(), "*.p12".to_owned()],
            )?
            .set("component.settings.secrets_recipient", recipient.as_str())?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let first = take(&seawall, "settings").await?;
        assert_eq!(
            (&first["facts"]["sealed"], &first["facts"]["left_out"]),
            (&"1".into(), &"1".into()),
            "{first}"
        );
        fs::write(etc.join("app.conf"), "workers = 8\n")?;
        let second = take(&seawall, "settings").await?;

        let diff = seawall.restore.run_ok(&["component", "settings", "--diff"]).await?;
        assert!(diff.stdout.contains("-workers = 4\n+workers = 8\n"), "{}", diff.stdout);
        let back = [
            "component",
            "settings",
            "--diff",
            "--from",
            json_str(&second, "backup")?,
            "--backup",
            json_str(&first, "backup")?,
        ];
        let back = seawall.restore.run_ok(&back).await?;
        assert!(back.stdout.contains("-workers = 8\n+workers = 4\n"), "{}", back.stdout);
        let path = etc.join("app.conf").display().to_string();
        let history = seawall
            .restore
            .run_ok(&["component", "settings", "--history", &path])
            .await?;
        assert_eq!(history.stdout.lines().count(), 2, "{}", history.stdout);
        assert!(
            history
                .stdout
                .lines()
                .last()
                .unwrap()
                .starts_with(json_str(&second, "backup")?)
        );
        let first_has_none = [
            "component",
            "settings",
            "--diff",
            "--backup",
            json_str(&first, "backup")?,
        ];
        let none = seawall.restore.run(&first_has_none).await?;
        none.assert_refused(REFUSED, &["no backup before it"])?;

        let (sealed, opened) = (scratch.join("sealed"), scratch.join("opened"));
        let report = bring_back(&seawall, "settings", &sealed, &[]).await?;
        assert_eq!(report["differs"], serde_json::json!([]), "{report}");
        let found = fs::read(below(&sealed, &etc).join("password.sealed"))?;
        assert!(!String::from_utf8_lossy(&found).contains(PASSWORD));
        assert!(!below(&sealed, &etc).join("password").exists() && !below(&sealed, &etc).join("tls.key").exists());
        let report = bring_back(&seawall, "settings", &opened, &["--identity", &identity]).await?;
        assert_eq!(json_u64(&report, "secrets")?, 1, "{report}");
        tree::assert_same(&etc, &below(&opened, &etc), &["tls.key"])?;
        secrets_are_opened_by_their_own_identity_alone(&seawall, &scratch, &etc, (&identity, &recipient)).await?;
        // Neither key nor content was said anywhere; what was perhaps mistyped was.
        let log = seawall.agent.run(&["backup", "settings"]).await?;
        assert!(
            log.stderr.contains("no file is what this pattern") && log.stderr.contains("*.p12"),
            "{}",
            log.stderr
        );
        assert!(
            !log.stderr.contains(PASSWORD) && log.stderr.contains("tls.key"),
            "{}",
            log.stderr
        );
        Ok(())
    });
}

async fn secrets_are_opened_by_their_own_identity_alone(
    seawall: &Seawall,
    scratch: &Scratch,
    etc: &Path,
    (identity, recipient): (&str, &str),
) -> Result<()> {
    let restore = &seawall.restore;
    // Whoever has no identity is told what stays sealed, and what opens it.
    let to = scratch.join("told").display().to_string();
    let told = restore.run_ok(&["component", "settings", "--to", &to]).await?;
    assert!(
        told.stdout.contains("--identity FILE") && told.stdout.contains(recipient),
        "{}",
        told.stdout
    );
    // Another identity, and none: nothing is written.
    let other = scratch.join("elsewhere/other.key").display().to_string();
    restore.run_ok(&["identity", &other]).await?;
    let nothing = scratch.join("nothing");
    let to = nothing.display().to_string();
    let wrong = restore
        .run(&["component", "settings", "--to", &to, "--identity", &other])
        .await?;
    wrong.assert_refused(REFUSED, &["do not open with this identity", recipient])?;
    let missing = restore
        .run(&["component", "settings", "--to", &to, "--identity", "/nowhere.key"])
        .await?;
    assert!(
        missing.code() != 0 && missing.stderr.contains("cannot use the identity") && !missing.stderr.contains("init"),
        "{}",
        missing.stderr
    );
    assert!(!nothing.exists());
    // One secret on standard output: by its own name, or that of what was sealed.
    let password = etc.join("password").display().to_string();
    for path in [password.clone(), format!("{password}.sealed")] {
        let cat = ["component", "settings", "--cat", &path, "--identity", identity];
        assert_eq!(restore.run_ok(&cat).await?.stdout, PASSWORD);
    }
    let cat = restore
        .run(&["component", "settings", "--cat", &password, "--identity", &other])
        .await?;
    cat.assert_refused(REFUSED, &["does not open with this identity"])
}
