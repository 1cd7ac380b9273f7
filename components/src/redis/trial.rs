//! A server of our own, that loads a file: in a private directory, on a socket in it, writing nothing, and gone when we are done.
//!
//! Its configuration comes on standard input (redis.io/docs/latest/operate/oss_and_stack/management/config: a program that is started with `-`
//! reads it there). A crash here leaves the directory; the server ends with us only where we end it: dropping [`Trial`] does.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::dial::{Address, Plain};
use super::info::Info;
use super::link::{Link, Waits};
use crate::ComponentError;
use crate::private::Private;

/// How often it is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Longest path of the directory: a socket's may have 107 bytes in all (unix(7)).
const PATH_BYTES_MAX: usize = 100;
/// The socket's name.
const SOCKET: &str = "s";

/// A server that holds a file's keys.
#[derive(Debug)]
pub struct Trial {
    process: Child,
    directory: Private,
}

impl Trial {
    /// Starts `program` on `dump`, with room for so many databases, in a new directory below `scratch`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &Path, scratch: &Path, dump: &Path, databases: u64) -> Result<Self, ComponentError> {
        refuse_odd(scratch)?;
        let directory = Private::create(scratch, "redis", PATH_BYTES_MAX)?;
        let link = directory.path().join("dump.rdb");
        let dump = dump.canonicalize().map_err(ComponentError::io("find", dump))?;
        symlink(&dump, &link).map_err(ComponentError::io("create link", &link))?;
        let settings = directory.path().join("settings");
        std::fs::write(&settings, configuration(directory.path(), databases))
            .map_err(ComponentError::io("write", &settings))?;
        let input = std::fs::File::open(&settings).map_err(ComponentError::io("open", &settings))?;
        let log = directory.log();
        let output = std::fs::File::create(&log).map_err(ComponentError::io("create", &log))?;
        let errors = output.try_clone().map_err(ComponentError::io("create", &log))?;
        let process = Command::new(program)
            .arg("-")
            .env_clear()
            .current_dir(directory.path())
            .stdin(input)
            .stdout(Stdio::from(output))
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(ComponentError::io("start", program))?;
        Ok(Trial { process, directory })
    }

    /// Waits until all is loaded; what the server then says of itself.
    ///
    /// # Errors
    /// It cannot load the file, or not in time.
    pub async fn loaded(&mut self, waits: Waits) -> Result<Info, ComponentError> {
        let socket = Address::Unix(self.directory.path().join(SOCKET));
        let until = Instant::now() + waits.load_max;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(ComponentError::System {
                    what: format!("the server that was started to load the file ended with {status}"),
                    detail: self.directory.log_tail(),
                    hint: "Name a server of the same version, with the same modules, as the one that was captured."
                        .into(),
                });
            }
            // Not there yet, or not able to answer yet: the wait says when that becomes an error.
            let info = async { Link::open(&Plain, &socket, None, waits).await?.info().await }.await;
            match info {
                Ok(info) if info.get("loading") == "0" => return Ok(info),
                _ => sleep(ASK_EVERY).await,
            }
        }
        Err(ComponentError::System {
            what: format!(
                "the server that was started loads for more than {} s",
                waits.load_max.as_secs()
            ),
            detail: self.directory.log_tail(),
            hint: "Raise the time that loading may take.".into(),
        })
    }

    /// Ends it, by its own id; its directory goes with it.
    pub async fn end(mut self) {
        // It holds nothing that is not in the file.
        let _ = self.process.kill().await;
    }
}

/// Nothing listens but the socket, nothing is written.
fn configuration(directory: &Path, databases: u64) -> String {
    let directory = directory.display();
    format!(
        "port 0\nunixsocket {directory}/{SOCKET}\nunixsocketperm 700\ndir {directory}\ndbfilename dump.rdb\nsave \"\"\nappendonly no\n\
         databases {databases}\ndaemonize no\nrdbchecksum yes\nloglevel notice\n"
    )
}

/// The settings have the path between spaces and quotes.
fn refuse_odd(scratch: &Path) -> Result<(), ComponentError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@:".contains(c);
    match scratch.to_string_lossy().chars().all(is_plain) {
        true => Ok(()),
        false => Err(ComponentError::refused(
            format!("a server cannot be started below \"{}\"", scratch.display()),
            "Name a directory for trials with a short, absolute path of letters, digits and dashes.",
        )),
    }
}
