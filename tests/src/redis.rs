//! A Redis server of the server user, and as much of a client as tests of the whole product need.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::child::Child;
use crate::install::redis_bin;
use crate::ports::free_ports;
use crate::scratch::Scratch;
use crate::user;
use crate::wait::{DEADLINE, wait_until};

/// A server on the loopback interface. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    _process: Child,
    pub port: u16,
    pub program: PathBuf,
}

impl Redis {
    /// Starts one in `<scratch>/<name>`, with more lines of configuration; a `dump.rdb` that lies there is loaded.
    pub async fn start(scratch: &Scratch, name: &str, settings: &str) -> Result<Self> {
        let directory = scratch.dir(name)?;
        let (port, program) = (free_ports(1)?[0], redis_bin("redis7")?);
        let file = directory.join("server.conf");
        let lines = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\ndaemonize no\nsave \"\"\nrepl-diskless-sync-delay 0\n{settings}\n",
            directory.display()
        );
        fs::write(&file, lines)?;
        user::give(&file)?;
        let mut command = user::command(&program);
        command.arg(&file);
        let _process = Child::spawn(scratch, name, command)?;
        let server = Redis {
            _process,
            port,
            program,
        };
        wait_until("redis", DEADLINE, async || {
            let answer = server.client().and_then(|mut client| client.ask("PING"));
            answer.is_ok_and(|answer| answer == "PONG")
        })
        .await?;
        Ok(server)
    }

    pub fn client(&self) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }
}

/// A connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Asks with a line of words, without quotes; an answer of text or a number. None: empty.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        let head = self.line()?;
        let (kind, rest) = head.split_at_checked(1).context("an empty answer")?;
        match kind {
            "+" | ":" => Ok(rest.to_owned()),
            "$" if rest == "-1" => Ok(String::new()),
            "$" => {
                let mut text = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut text)?;
                text.truncate(text.len() - 2);
                Ok(String::from_utf8(text)?)
            }
            _ => bail!("{line}: {head}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.ends_with("\r\n"), "the server went away");
        Ok(line.trim_end().to_owned())
    }
}

/// Puts a restored file where [`Redis::start`] with this name loads it.
pub fn place_dump(scratch: &Scratch, name: &str, dump: &Path) -> Result<()> {
    let to = scratch.dir(name)?.join("dump.rdb");
    fs::copy(dump, &to).with_context(|| format!("copy {}", dump.display()))?;
    user::give(&to)
}
