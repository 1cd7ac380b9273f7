//! Runs the system's git: a clean environment, no shell, nothing but the repository's own configuration, no network, no hook.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use crate::ComponentError;

/// Where git and what it calls is looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The oldest that is used: `rev-parse --show-object-format` and `init --object-format`.
const VERSION_MIN: (u32, u32) = (2, 30);
/// Bytes of an answer: the refs of a repository, or the commits of one bundle.
const ANSWER_BYTES_MAX: u64 = 512 << 20;
/// Bytes of a complaint that are kept.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a complaint that are repeated in a message.
const SHOWN_BYTES_MAX: usize = 1000;

/// Git, with one repository.
#[derive(Clone, Debug)]
pub(super) struct Git {
    git_dir: PathBuf,
}

/// What it said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: ExitStatus,
    pub(super) out: Vec<u8>,
    pub(super) complaint: Vec<u8>,
}

impl Git {
    /// With this git directory.
    pub(super) fn of(git_dir: &Path) -> Self {
        Git {
            git_dir: git_dir.to_owned(),
        }
    }

    pub(super) fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// `git --git-dir=... <arguments>`, not started. An explicit directory needs no "safe.directory"; it is named for what git starts itself.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let with = |prefix: &str| {
            let mut text = OsString::from(prefix);
            text.push(&self.git_dir);
            text
        };
        let mut command = plain();
        command
            .arg(with("--git-dir="))
            .arg("-c")
            .arg(with("safe.directory="))
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
            .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            // What is packed is looked at, not copied as it lies there.
            .args(["-c", "pack.allowPackReuse=false"])
            .args(["-c", "pack.threads=1", "-c", "pack.windowMemory=128m"])
            .args(arguments);
        command
    }

    /// Runs it to its end, however that is.
    pub(super) async fn answer(&self, arguments: &[&str], input: &[u8]) -> Result<Answer, ComponentError> {
        answer(self.command(arguments), input).await
    }

    /// Runs it; what it printed.
    ///
    /// # Errors
    /// It cannot be run, or failed.
    pub(super) async fn ask(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, ComponentError> {
        let answer = self.answer(arguments, input).await?;
        match answer.status.success() {
            true => Ok(answer.out),
            false => Err(self.failed(arguments, answer.status, &answer.complaint)),
        }
    }

    /// What a failure is told as.
    pub(super) fn failed(&self, arguments: &[&str], status: ExitStatus, complaint: &[u8]) -> ComponentError {
        let what = arguments.first().copied().unwrap_or_default();
        ComponentError::System {
            what: format!("git {what} of \"{}\" failed ({status})", self.git_dir.display()),
            detail: shown(complaint),
            hint: "`git fsck` in that repository says whether it is whole; the agent must be able to read all of it."
                .into(),
        }
    }

    /// `sha1` or `sha256`, of a repository that can be captured.
    ///
    /// # Errors
    /// Git does not take it for a repository; or not all of its history is in it.
    pub(super) async fn object_format(&self) -> Result<String, ComponentError> {
        let asked = ["rev-parse", "--is-shallow-repository", "--show-object-format"];
        let said = self.ask(&asked, b"").await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let mut lines = said.lines();
        if lines.next() != Some("false") {
            return Err(self.refused(
                "is a shallow clone: its history is not in it",
                "Complete it with `git fetch --unshallow`, or capture the repository that it was cloned from.",
            ));
        }
        let pattern = r"^(extensions\.partialclone|remote\..*\.promisor)$";
        let partial = self.answer(&["config", "--get-regexp", pattern], b"").await?;
        if !partial.out.is_empty() {
            return Err(self.refused(
                "is a partial clone: not all objects are in it",
                "Capture the repository that it was cloned from, or clone that as a whole.",
            ));
        }
        match lines.next() {
            Some(format @ ("sha1" | "sha256")) => Ok(format.to_owned()),
            other => Err(self.refused(
                &format!(
                    "has an unknown object format ({})",
                    other.unwrap_or_default().escape_debug()
                ),
                "A newer version of this program may know it.",
            )),
        }
    }

    pub(super) fn refused(&self, what: &str, hint: &str) -> ComponentError {
        ComponentError::refused(format!("\"{}\" {what}", self.git_dir.display()), hint)
    }
}

/// Git without a repository: nothing of this process's environment, of the user's or the host's configuration.
fn plain() -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        // History as it is stored: replacements are refs like others.
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_GRAFT_FILE", "/dev/null")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .arg("--no-pager")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs git where there is no repository yet.
pub(super) async fn ask(arguments: &[OsString], input: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let mut command = plain();
    command.args(arguments);
    let answer = answer(command, input).await?;
    let what = arguments.first().cloned().unwrap_or_default();
    match answer.status.success() {
        true => Ok(answer.out),
        false => Err(ComponentError::System {
            what: format!("git {} failed ({})", what.display(), answer.status),
            detail: shown(&answer.complaint),
            hint: "The message is git's own.".into(),
        }),
    }
}

/// Its version.
///
/// # Errors
/// There is none, or it is too old.
pub(super) async fn version() -> Result<String, ComponentError> {
    let said = ask(&["version".into()], b"").await?;
    let said = String::from_utf8_lossy(&said);
    let version = said.trim().strip_prefix("git version ").unwrap_or_default();
    let version = version.split(' ').next().unwrap_or_default().to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match found >= VERSION_MIN {
        true => Ok(version),
        false => Err(ComponentError::refused(
            format!("git {} is too old", version.escape_debug()),
            format!("Install git {}.{} or a later one.", VERSION_MIN.0, VERSION_MIN.1),
        )),
    }
}

/// Starts it.
///
/// # Errors
/// It is not there.
pub(super) fn start(mut command: Command) -> Result<Child, ComponentError> {
    command.spawn().map_err(|error| ComponentError::System {
        what: "git cannot be run".into(),
        detail: error.to_string(),
        hint: format!("Install it on this host (apt install git); it is looked for in {PATH}."),
    })
}

/// Runs it to its end.
pub(super) async fn answer(command: Command, input: &[u8]) -> Result<Answer, ComponentError> {
    let mut child = start(command)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (_, out, complaint) = tokio::join!(
        feed(stdin, input),
        read_all(stdout, ANSWER_BYTES_MAX),
        read_all(stderr, COMPLAINT_BYTES_MAX)
    );
    let status = child.wait().await.map_err(ran)?;
    let (out, is_cut) = out?;
    if is_cut {
        return Err(ComponentError::refused(
            "a repository has more refs or commits than can be looked at",
            format!("At most {} MiB of their names are.", ANSWER_BYTES_MAX >> 20),
        ));
    }
    Ok(Answer {
        status,
        out,
        complaint: complaint?.0,
    })
}

/// Writes what it reads. Whoever does not read to the end says why himself.
pub(super) async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin
        && stdin.write_all(input).await.is_ok()
    {
        let _ = stdin.shutdown().await;
    }
}

/// What comes, up to so many bytes; the rest is read and dropped. True where there was more.
pub(super) async fn read_all(
    from: Option<impl AsyncRead + Unpin>,
    bytes_max: u64,
) -> Result<(Vec<u8>, bool), ComponentError> {
    let (mut out, mut from) = (Vec::new(), from.ok_or(ComponentError::Stopped)?);
    (&mut from).take(bytes_max).read_to_end(&mut out).await.map_err(ran)?;
    let more = tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map_err(ran)?;
    Ok((out, more > 0))
}

pub(super) fn ran(source: std::io::Error) -> ComponentError {
    ComponentError::Io {
        action: "run",
        path: "git".into(),
        source,
    }
}

fn shown(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let shown: String = text.trim().chars().take(SHOWN_BYTES_MAX).collect();
    match shown.is_empty() {
        true => "it said nothing".into(),
        false => shown.escape_debug().to_string(),
    }
}
