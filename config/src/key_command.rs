//! A secret key that a program prints: a file that a KMS has wrapped, a password store, a smart card. It never lies on a disk then.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use store::StoreError;
use store::keys::Role;
use store::keys::file::{OpeningKeyFile, opening_of, read_opening};
use zeroize::Zeroizing;

use crate::checked::Keys;

/// Somebody may have to touch a token, or type.
const PATIENCE: Duration = Duration::from_secs(60);
/// From the end of its output to its own.
const END_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const KEY_BYTES_MAX: usize = 16 * 1024;

impl Keys {
    /// The key of a restorer or keeper: what its command prints, else what stands in its file.
    ///
    /// # Errors
    /// The command cannot be run, fails, takes too long, or prints no such key; or as [`read_opening`].
    pub fn opening(&self, role: Role) -> Result<OpeningKeyFile, StoreError> {
        let command = self.command(role);
        match command.split_first() {
            None => read_opening(self.file(role), role),
            Some((program, arguments)) => {
                let origin = self.origin(role);
                let bad = |reason: String| StoreError::KeyFile {
                    path: origin.display().to_string(),
                    reason,
                };
                let text = printed_by(program, arguments, PATIENCE).map_err(bad)?;
                opening_of(&origin, &text, role)
            }
        }
    }

    /// True when such a key is at hand: its file is here, or a command prints it.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        !self.command(role).is_empty() || self.file(role).exists()
    }

    /// Where such a key comes from, for messages: its file, or the key of the configuration with the command. (Not the command: whoever
    /// writes a secret into its arguments must not find it in a log.)
    #[must_use]
    pub fn origin(&self, role: Role) -> PathBuf {
        match (self.command(role).is_empty(), role) {
            (true, _) => self.file(role).to_owned(),
            (false, Role::Restore) => "restore_key_command".into(),
            (false, Role::Maintenance) => "maintenance_key_command".into(),
        }
    }

    /// The program that prints it and its arguments; empty where there is none.
    #[must_use]
    pub fn command(&self, role: Role) -> &[String] {
        match role {
            Role::Restore => &self.restore_key_command,
            Role::Maintenance => &self.maintenance_key_command,
        }
    }

    fn file(&self, role: Role) -> &Path {
        match role {
            Role::Restore => &self.restore_key,
            Role::Maintenance => &self.maintenance_key,
        }
    }
}

/// What a program prints. It may ask on the terminal, and says there what is wrong.
fn printed_by(program: &str, arguments: &[String], patience: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let cannot = |error: io::Error| format!("\"{program}\" cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let output = read_all(&mut child, patience);
    if output.is_err() {
        // It may have ended already.
        let _ = child.kill();
    }
    let ended = end_of(&mut child).map_err(cannot)?;
    let output = output?;
    match ended {
        Some(status) if status.success() => Ok(output),
        Some(status) => Err(format!("\"{program}\" failed: {status}")),
        None => Err(format!("\"{program}\" does not end")),
    }
}

fn read_all(child: &mut Child, patience: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let Some(output) = child.stdout.take() else {
        return Err("it has no output".into());
    };
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        // Room for all of it from the start: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * KEY_BYTES_MAX));
        let read = output.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        // Nobody waits any more when it took too long.
        let _ = send.send(read.map(|_| bytes));
    });
    match receive.recv_timeout(patience) {
        Ok(Ok(bytes)) if bytes.len() > KEY_BYTES_MAX => Err(format!("it prints more than {KEY_BYTES_MAX} bytes")),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("what it prints cannot be read: {error}")),
        Err(_) => Err(format!("it has not printed a key within {} s", patience.as_secs())),
    }
}

/// Waits for its end, and makes one where it does not come.
fn end_of(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    for _ in 0..END_PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, patience: Duration) -> Result<String, String> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        printed_by("sh", &arguments, patience).map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn what_a_program_prints_counts_when_it_succeeds() {
        assert_eq!(sh("echo key", PATIENCE).unwrap(), "key\n");
        let failed = sh("echo key; exit 3", PATIENCE).unwrap_err();
        assert!(failed.contains("exit status: 3"), "{failed}");
        assert!(printed_by("/no/such/program", &[], PATIENCE).is_err());
    }

    #[test]
    fn a_program_that_hangs_or_floods_is_ended() {
        let slow = sh("exec sleep 600", Duration::from_millis(50)).unwrap_err();
        assert!(slow.contains("not printed"), "{slow}");
        let much = sh("exec cat /dev/zero", PATIENCE).unwrap_err();
        assert!(much.contains("more than"), "{much}");
    }
}
