//! The real `wal-restore`, up to the first byte of a data pack: there are none.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::place::{Failed, Place};
use crate::measure::status_bytes;

const SAMPLE: Duration = Duration::from_millis(5);
/// Room that the target says it has: more than any restore here asks for. Nothing is ever written into its files.
const TARGET_SIZE: &str = "size=400T,nr_inodes=4000000,mode=0700";

/// What it took until it asked for data.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Seconds.
    pub seconds: f64,
    /// Most resident memory.
    pub peak_bytes: u64,
    /// Files that it had made by then.
    pub files: u64,
}

/// A file system in memory that is unmounted when it is dropped.
#[derive(Debug)]
struct Target(PathBuf);

impl Target {
    fn mount(path: PathBuf, user: u32) -> Result<Self, Failed> {
        std::fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o"]);
        mount.arg(format!("{TARGET_SIZE},uid={user},gid={user}"));
        match mount.arg("tmpfs").arg(&path).status()?.success() {
            true => Ok(Target(path)),
            false => Err("a target that says it has room enough cannot be mounted".into()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What is left is said by whoever removes the directory.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Runs it as `user` (we are root) until it fails for want of data; anything else is an error.
///
/// # Errors
/// See above.
pub fn restore(program: &Path, place: &Place, user: u32) -> Result<Planned, Failed> {
    let target = Target::mount(place.0.join("target"), user)?;
    let data = target.0.join("data");
    let errors = place.0.join("restore.err");
    let begun = Instant::now();
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(place.config())
        .args(["--standby", "--pgdata"])
        .arg(&data);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?);
    let mut child = command.uid(user).gid(user).current_dir("/").spawn()?;
    let process = child.id().to_string();
    let mut peak_bytes = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // It never sinks, so the last look before the end is it.
        peak_bytes = status_bytes(&process, "VmHWM:").unwrap_or(peak_bytes);
        std::thread::sleep(SAMPLE);
    };
    let seconds = begun.elapsed().as_secs_f64();
    let said = std::fs::read_to_string(&errors)?;
    let files = std::fs::read_dir(data.join("base/5")).map_or(0, Iterator::count) as u64;
    if status.success() || !said.contains("/packs/") {
        return Err(format!("wal-restore did not end at the first data pack: {status}: {said}").into());
    }
    Ok(Planned {
        seconds,
        peak_bytes,
        files,
    })
}
