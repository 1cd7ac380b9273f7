//! What is captured that is no directory of files: a Redis server, a Git repository, a database to be dumped.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::tree::Numbers;
use crate::peers::process::wait_until;
use crate::server::Server;

/// A Redis server on a socket. Dropping it ends it.
#[derive(Debug)]
pub struct Redis {
    process: Child,
    /// Where it listens.
    pub socket: PathBuf,
    /// `redis-cli`.
    pub cli: PathBuf,
}

impl Redis {
    /// Starts an empty one that saves nothing by itself.
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    pub fn start(server: &Server, program: &Path, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let socket = home.join("s");
        let mut command = server.command(program);
        command
            .args(["--port", "0", "--save", "", "--repl-diskless-sync-delay", "0"])
            .args(["--unixsocketperm", "700", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(home)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(home.join("log"))?);
        let redis = Redis {
            process: command.spawn()?,
            cli: program.with_file_name("redis-cli"),
            socket,
        };
        wait_until("redis", Duration::from_secs(30), || Ok(redis.ask(&["PING"]).is_ok()))?;
        Ok(redis)
    }

    /// Sets each `step`th of so many keys.
    ///
    /// # Errors
    /// The server refuses.
    pub fn fill(&self, keys: u64, step: u64, seed: u64) -> io::Result<()> {
        let script = "for i = 0, tonumber(ARGV[1]) - 1, tonumber(ARGV[2]) do \
             local v = redis.sha1hex(ARGV[3] .. i) redis.call('SET', 'session:' .. i, v .. string.rep('{\"seen\":1}', i % 9) .. v) end return 1";
        let (keys, step, seed) = (keys.to_string(), step.to_string(), seed.to_string());
        self.ask(&["EVAL", script, "0", &keys, &step, &seed])
    }

    fn ask(&self, words: &[&str]) -> io::Result<()> {
        let mut command = Command::new(&self.cli);
        succeed(command.arg("-s").arg(&self.socket).arg("-e").args(words))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Name of the database to be dumped.
pub const DATABASE: &str = "shop";

/// Makes a database of so many orders.
///
/// # Errors
/// The server refuses.
pub fn make_database(server: &Server, orders: u64) -> io::Result<()> {
    server.query(&format!("drop database if exists {DATABASE}"))?;
    server.query(&format!("create database {DATABASE}"))?;
    in_database(
        server,
        &format!(
            "create table orders (id bigint primary key, at timestamptz, customer text, lines jsonb); \
             insert into orders select i, 'epoch'::timestamptz + i * interval '37 s', md5((i % 50000)::text), \
             jsonb_build_object('sku', md5(i::text), 'count', i % 7, 'note', repeat('please ring ', (i % 5)::int)) \
             from generate_series(1, {orders}) i; vacuum orders"
        ),
    )
}

/// One order in a hundred changes, by twenties, and as many are added.
///
/// # Errors
/// The server refuses.
pub fn change_database(server: &Server, orders: u64, round: u64) -> io::Result<()> {
    let (changed, added) = (2000 + round % 500, orders / 100);
    in_database(
        server,
        &format!(
            "update orders set lines = lines || '{{\"sent\": true}}' where id % 2000 < 20 and id % {changed} < {changed}; \
             insert into orders select i, now(), md5(i::text), jsonb_build_object('sku', md5(i::text)) \
             from generate_series({orders} + 1, {orders} + {added}) i"
        ),
    )
}

fn in_database(server: &Server, sql: &str) -> io::Result<()> {
    sql.split("; ").try_for_each(|statement| {
        let args = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-c", statement];
        server.run("psql", args).map(drop)
    })
}

/// Files of the Git repository.
const GIT_FILES: u64 = 500;

/// Adds so many commits to the repository in `path`, which is made where there is none: each writes three files.
///
/// # Errors
/// Git fails.
pub fn commit(server: &Server, path: &Path, commits: u64, seed: u64) -> io::Result<()> {
    let is_new = !path.exists();
    if is_new {
        std::fs::create_dir(path)?;
        server.give(path)?;
        succeed(git(server, path).args(["init", "-q", "--bare", "-b", "main", "."]))?;
    }
    let mut numbers = Numbers::new(seed);
    let mut stream = String::new();
    for number in 0..commits {
        let at = 1_700_000_000 + seed * 10_000 + number;
        let _ = write!(
            stream,
            "commit refs/heads/main\ncommitter T <t@example.com> {at} +0000\ndata 4\nwork\n"
        );
        if number == 0 && !is_new {
            stream.push_str("from refs/heads/main^0\n");
        }
        for _ in 0..3 {
            let file = numbers.below(GIT_FILES);
            let lines = 20 + numbers.below(200);
            let text: String = (0..lines).fold(String::new(), |mut text, line| {
                // Most lines are as they were.
                let number = if numbers.below(10) == 0 {
                    numbers.draw()
                } else {
                    file * line
                };
                let _ = writeln!(text, "let value_{line} = {number};");
                text
            });
            let _ = write!(
                stream,
                "M 100644 inline src/file_{file}.rs\ndata {}\n{text}\n",
                text.len()
            );
        }
    }
    let input = path.with_extension("stream");
    std::fs::write(&input, stream)?;
    server.give(&input)?;
    let mut command = git(server, path);
    command
        .args(["fast-import", "--quiet"])
        .stdin(std::fs::File::open(&input)?);
    succeed(&mut command)?;
    std::fs::remove_file(input)
}

fn git(server: &Server, path: &Path) -> Command {
    let mut command = server.command(Path::new("git"));
    command.arg("-C").arg(path);
    command
}

fn succeed(command: &mut Command) -> io::Result<()> {
    let answer = command.output()?;
    match answer.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer.stderr).into_owned())),
    }
}
