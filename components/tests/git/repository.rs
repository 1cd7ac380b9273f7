//! Real repositories, made by git itself.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs git; what it printed.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    fed(directory, arguments, b"")
}

pub fn fed(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(["-c", "user.name=A", "-c", "user.email=a@localhost", "-c", "gc.auto=0"])
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("git is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(
        ended.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    String::from_utf8_lossy(&ended.stdout).trim().to_owned()
}

/// Commits onto a ref of its own, each with a file of noise: what is behind them cannot be compressed away.
pub fn import(repository: &Path, name: &str, commits: std::ops::Range<u32>, bytes: usize) {
    let mut stream = Vec::new();
    for number in commits {
        let from = match number {
            0 => String::new(),
            _ => format!("from {name}^0\n"),
        };
        // Only the first of a stream says what it builds on.
        let from = if stream.is_empty() { from } else { String::new() };
        let content = noise(u64::from(number), bytes);
        let mut head = String::new();
        write!(
            head,
            "commit {name}\ncommitter A <a@localhost> {} +0000\ndata 2\nc\n{from}M 100644 inline d{}/f{}\ndata {}\n",
            1_700_000_000 + number,
            number % 10,
            number % 100,
            content.len()
        )
        .unwrap();
        stream.extend_from_slice(head.as_bytes());
        stream.extend_from_slice(&content);
        stream.push(b'\n');
    }
    fed(repository, &["fast-import", "--quiet", "--force"], &stream);
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    store::testing::bytes_of(seed, bytes).to_vec()
}

/// A bare repository with 1,000 commits, branches, annotated tags, notes, and refs to what is no commit.
pub fn make(repository: &Path, more: &[&str]) {
    let path = repository.to_str().unwrap();
    let arguments = [&["init", "--quiet", "--bare", "--initial-branch=main"], more, &[path]].concat();
    git(Path::new("/"), &arguments);
    import(repository, "refs/heads/main", 0..1000, 600);
    git(repository, &["branch", "old", "main~500"]);
    git(repository, &["branch", "forced", "main~10"]);
    git(
        repository,
        &["branch", "-f", "feature/ü x".replace(' ', "-").as_str(), "main~3"],
    );
    git(repository, &["tag", "-a", "-m", "one", "v1", "main~100"]);
    git(repository, &["tag", "-a", "-m", "of a tag", "v1-of-tag", "v1"]);
    git(repository, &["tag", "light", "main~7"]);
    git(repository, &["notes", "add", "-m", "a note", "main~4"]);
    let blob = fed(repository, &["hash-object", "-w", "--stdin"], b"by a ref alone");
    git(repository, &["update-ref", "refs/tags/blob", &blob]);
    git(repository, &["update-ref", "refs/odd/tree", "main~9^{tree}"]);
    git(
        repository,
        &["symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/main"],
    );
    for name in ["-dash", "a'\"$(x)`;&|", "x.locked", "über/\u{1F980}", "%s%n"] {
        git(repository, &["update-ref", &format!("refs/heads/{name}"), "main~20"]);
    }
}

/// All refs, `HEAD`, and every object that they lead to.
pub fn look(repository: &Path) -> (String, String, String) {
    let format = "--format=%(objectname) %(objecttype) %(refname) %(symref)";
    let refs = git(repository, &["for-each-ref", format]);
    let head = std::fs::read_to_string(repository.join("HEAD")).unwrap();
    let objects = git(repository, &["rev-list", "--objects", "--all"]);
    let mut objects: Vec<&str> = objects.lines().collect();
    objects.sort_unstable();
    git(repository, &["fsck", "--full", "--strict", "--no-dangling"]);
    (refs, head, objects.join("\n"))
}
