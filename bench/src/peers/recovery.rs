//! From an empty directory to the first query at a moment, and whether what is there is what was there at that moment.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::peers::backup::Taken;
use crate::peers::process::wait_until;
use crate::peers::program::{Able, Program};
use crate::server::Server;

const WITHIN: Duration = Duration::from_secs(600);
/// What the server was asked at the moment, and is asked after every recovery.
const QUESTION: &str = "select (select coalesce(max(n), 0) from tick) || ' ticks, ' || (select count(*) from pgbench_history) || \
    ' rows, sum ' || (select coalesce(sum(delta), 0) from pgbench_history)";

/// A moment, and what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// As PostgreSQL writes it, with the offset of its zone.
    pub time: String,
    /// The answer that a server that has recovered to it must give.
    pub answer: String,
}

impl Moment {
    /// Now: after a row that must be there, and before one that must not. Nothing else may write.
    ///
    /// # Errors
    /// The server refused.
    pub fn now(server: &Server) -> io::Result<Self> {
        tick(server)?;
        let answer = server.query(QUESTION)?;
        // Commits have times of their own; none is as close as this to the moment.
        let time = server.query("select pg_sleep(0.1); select clock_timestamp()::timestamptz(3)")?;
        server.query("select pg_sleep(0.1)")?;
        tick(server)?;
        let time = time.lines().last().unwrap_or_default().to_owned();
        Ok(Moment { time, answer })
    }

    /// An error when `answer` is another one than it was then.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, program: &str, answer: &str) -> io::Result<()> {
        match self.answer == answer {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{program} recovered to {answer}, and at {} there were {}",
                self.time, self.answer
            ))),
        }
    }

    /// An error unless the server has gone on since, so that a recovery that goes too far is seen.
    ///
    /// # Errors
    /// See above.
    pub fn check_is_past(&self, server: &Server) -> io::Result<()> {
        match server.query(QUESTION)? == self.answer {
            true => Err(io::Error::other(
                "nothing was written after the moment: the check could not fail",
            )),
            false => Ok(()),
        }
    }
}

/// What [`Moment`] counts.
///
/// # Errors
/// The server refused.
pub fn prepare(server: &Server) -> io::Result<()> {
    server
        .query("create table tick (n serial, at timestamptz default clock_timestamp())")
        .map(drop)
}

/// One row, durable.
///
/// # Errors
/// The server refused.
pub fn tick(server: &Server) -> io::Result<()> {
    server.query("insert into tick default values").map(drop)
}

/// Restores into a new directory below `home`, starts a server there, and waits until it takes queries as a primary.
///
/// # Errors
/// A program failed, or what is there is something else.
pub fn recover(server: &Server, program: &dyn Program, home: &Path, moment: &Moment) -> io::Result<Able<Taken>> {
    std::fs::create_dir(home)?;
    server.give(home)?;
    program.forget()?;
    let data = home.join("data");
    let mut ran = match program.recover(&data, &moment.time)? {
        Ok(ran) => ran,
        Err(lacks) => return Ok(Err(lacks)),
    };
    let restored_s = ran.wall_s;
    let begun = Instant::now();
    let mut restored = server.adopt(home)?;
    wait_until("the end of recovery", WITHIN, || {
        Ok(restored.query("select pg_is_in_recovery()")? == "f")
    })?;
    let answer = restored.query(QUESTION)?;
    let recovered_s = begun.elapsed().as_secs_f64();
    moment.check(program.name(), &answer)?;
    restored.stop("immediate")?;
    std::fs::remove_dir_all(home)?;
    ran.wall_s += recovered_s;
    Ok(Ok(Taken {
        ran,
        phases: vec![("restore", restored_s), ("recovery and first query", recovered_s)],
        ..Taken::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_answer_is_an_error() {
        let moment = Moment {
            time: "2026-11-28 08:00:00.123+00".to_owned(),
            answer: "3 ticks, 10 rows, sum 7".to_owned(),
        };
        assert!(moment.check("one", "3 ticks, 10 rows, sum 7").is_ok());
        for wrong in ["4 ticks, 10 rows, sum 7", "3 ticks, 10 rows, sum 8", ""] {
            assert!(moment.check("one", wrong).is_err(), "{wrong}");
        }
    }
}
