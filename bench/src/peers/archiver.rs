//! The server's archiver, and the way in which recovery asks for WAL: one segment after another, a command each, the same for every
//! program, so that nothing waits for the server itself.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::backup::Taken;
use crate::peers::files::Files;
use crate::peers::orphans::measure_with_orphans;
use crate::peers::process::Ran;
use crate::peers::program::{Able, Program};
use crate::server::Server;

/// Segments, and the directory in which the server's archiver would find them.
#[derive(Debug)]
pub struct Place<'a> {
    server: &'a Server,
    /// A cluster's directory, as far as an archiver looks.
    data: PathBuf,
    home: PathBuf,
    is_copy: bool,
}

impl<'a> Place<'a> {
    /// The server's own; `home` is for what is printed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of_server(server: &'a Server, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        Ok(Place {
            server,
            data: server.data(),
            home: home.to_owned(),
            is_copy: false,
        })
    }

    /// A copy of some segments in `home`, so that they can be archived again and again.
    ///
    /// # Errors
    /// They cannot be copied.
    pub fn copy(server: &'a Server, home: &Path, segments: &[String]) -> io::Result<Self> {
        let place = Place::of_server(server, home)?;
        let (from, data) = (server.data(), home.join("data"));
        for directory in ["", "global", "pg_wal", "pg_wal/archive_status"] {
            std::fs::create_dir(data.join(directory))?;
            server.give(&data.join(directory))?;
        }
        let segments = segments.iter().map(|segment| format!("pg_wal/{segment}"));
        for file in segments.chain(["global/pg_control".to_owned(), "PG_VERSION".to_owned()]) {
            std::fs::copy(from.join(&file), data.join(&file))?;
            server.give(&data.join(&file))?;
        }
        Ok(Place {
            data,
            is_copy: true,
            ..place
        })
    }

    /// Puts segments into a directory, where there are others.
    ///
    /// # Errors
    /// They cannot be copied.
    pub fn copy_to(&self, directory: &Path, segments: &[String]) -> io::Result<()> {
        for segment in segments {
            std::fs::copy(self.wal().join(segment), directory.join(segment))?;
            self.server.give(&directory.join(segment))?;
        }
        Ok(())
    }

    fn wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// Archives segments by a program's `archive_command`, in order, and what belongs behind the last one.
    ///
    /// # Errors
    /// A command failed.
    pub fn push(&self, program: &dyn Program, segments: &[String]) -> io::Result<Able<Taken>> {
        let command = match program.push(&self.data) {
            Ok(command) => command,
            Err(lacks) => return Ok(Err(lacks)),
        };
        self.push_by(&command, program.after_pushes(), segments, program.home(), |path| {
            program.is_wal(path)
        })
        .map(Ok)
    }

    /// The same for any `archive_command`; what `counts` below `repository` is what was stored.
    ///
    /// # Errors
    /// A command failed.
    pub fn push_by(
        &self,
        command: &str,
        after: Option<Command>,
        segments: &[String],
        repository: &Path,
        counts: impl Fn(&Path) -> bool,
    ) -> io::Result<Taken> {
        let status = self.wal().join("archive_status");
        if self.is_copy {
            for segment in segments {
                let ready = status.join(format!("{segment}.ready"));
                std::fs::write(&ready, "")?;
                self.server.give(&ready)?;
            }
        }
        let script = push_script(command, &self.wal(), segments, self.is_copy);
        let before = Files::below(repository, &counts)?;
        let mut ran = self.run("push", &script, &self.home)?;
        let mut phases = Vec::new();
        if let Some(mut after) = after {
            let behind = measure_with_orphans(&mut after, &self.home.join("after.out"))?;
            phases = vec![("archive_command", ran.wall_s), ("afterwards", behind.wall_s)];
            ran.wall_s += behind.wall_s;
            ran.cpu_s += behind.cpu_s;
            ran.peak_bytes = ran.peak_bytes.max(behind.peak_bytes);
        }
        Ok(Taken {
            ran,
            written: Files::below(repository, &counts)?.since(&before),
            phases,
            ..Taken::default()
        })
    }

    /// Fetches segments by a `restore_command` for the cluster in `data`, in order, and compares each with what it was.
    ///
    /// # Errors
    /// A command failed, or brought something else.
    pub fn get(&self, command: &str, data: &Path, segments: &[String]) -> io::Result<Ran> {
        let got = self.home.join("got");
        std::fs::create_dir(&got)?;
        self.server.give(&got)?;
        let ran = self.run("get", &get_script(command, &got, segments), data)?;
        for segment in segments {
            if std::fs::read(got.join(segment))? != std::fs::read(self.wal().join(segment))? {
                return Err(io::Error::other(format!("{command}: {segment} is not what it was")));
            }
        }
        std::fs::remove_dir_all(got)?;
        Ok(ran)
    }

    fn run(&self, name: &str, script: &str, directory: &Path) -> io::Result<Ran> {
        let path = self.home.join(format!("{name}.sh"));
        std::fs::write(&path, script)?;
        let mut command = self.server.command(Path::new("/bin/sh"));
        command.arg(&path).current_dir(directory);
        measure_with_orphans(&mut command, &self.home.join(format!("{name}.out")))
    }
}

/// The segments of the server from `first` on, up to the one before `end`.
///
/// # Errors
/// They cannot be listed, or one is missing.
pub fn segments(server: &Server, first: &str, end: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(server.data().join("pg_wal"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_segment && name.as_str() >= first && name.as_str() < end {
            found.push(name);
        }
    }
    found.sort();
    match found.first().map(String::as_str) {
        Some(one) if one == first => Ok(found),
        _ => Err(io::Error::other(format!("the server has no segment {first} any more"))),
    }
}

/// As the archiver runs it: a shell a segment, then the mark that it is done.
fn push_script(command: &str, wal: &Path, segments: &[String], has_status: bool) -> String {
    let mut script = "set -e\n".to_owned();
    for segment in segments {
        let path = wal.join(segment);
        let command = command.replace("%p", &path.to_string_lossy()).replace("%f", segment);
        let _ = writeln!(script, "/bin/sh -c '{command}'");
        if has_status {
            let status = wal.join("archive_status").join(segment);
            let status = status.display();
            let _ = writeln!(script, "mv {status}.ready {status}.done");
        }
    }
    script
}

/// As recovery runs it: always into the same file, which is then taken away.
fn get_script(command: &str, got: &Path, segments: &[String]) -> String {
    let mut script = "set -e\n".to_owned();
    for segment in segments {
        let command = command.replace("%p", "pg_wal/RECOVERYXLOG").replace("%f", segment);
        let _ = writeln!(script, "/bin/sh -c '{command}'");
        let _ = writeln!(script, "mv pg_wal/RECOVERYXLOG {}/{segment}", got.display());
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_has_a_command_of_its_own() {
        let segments = ["A".to_owned(), "B".to_owned()];
        assert_eq!(
            push_script("put %p as %f", Path::new("/wal"), &segments, true),
            "set -e\n/bin/sh -c 'put /wal/A as A'\nmv /wal/archive_status/A.ready /wal/archive_status/A.done\n\
             /bin/sh -c 'put /wal/B as B'\nmv /wal/archive_status/B.ready /wal/archive_status/B.done\n"
        );
        assert_eq!(
            get_script("get %f %p", Path::new("/got"), &segments),
            "set -e\n/bin/sh -c 'get A pg_wal/RECOVERYXLOG'\nmv pg_wal/RECOVERYXLOG /got/A\n\
             /bin/sh -c 'get B pg_wal/RECOVERYXLOG'\nmv pg_wal/RECOVERYXLOG /got/B\n"
        );
    }
}
