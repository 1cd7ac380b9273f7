//! What a backup does to the database's own work: transactions of one load, during a backup and without one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::peers::database::Database;
use crate::peers::ours::Ours;
use crate::peers::process::{Background, check_interrupted, wait_until};

const CLIENTS: &str = "4";
const WARM_UP: Duration = Duration::from_secs(3);
/// Without a backup at least this long, however short the backup was.
const WITHOUT_AT_LEAST_S: f64 = 5.0;
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// The load in some stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Transactions a second.
    pub tps: f64,
    /// Latency that one in a hundred exceeds.
    pub p99_ms: f64,
}

/// One load, both ways.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// While a backup ran.
    pub during: Rate,
    /// Afterwards, as long as the backup had taken.
    pub without: Rate,
    /// How long the backup took under load.
    pub backup_s: f64,
}

/// Runs the load as fast as it goes while `ours` takes a full backup, then as long without. Both stretches begin with a checkpoint:
/// the first one's is the backup's own, and the full-page images after it are no effect that a brake could lessen.
///
/// # Errors
/// The load or the backup failed.
pub fn measure_effect(database: &Database, ours: &Ours<'_>, home: &Path) -> io::Result<Effect> {
    let load = Load::start(database, home)?;
    pause(WARM_UP.as_secs_f64())?;
    let begin = now_s();
    ours.backup_under_load()?;
    let end = now_s();
    let again = now_s();
    database.server.query("checkpoint")?;
    let length = (end - begin).max(WITHOUT_AT_LEAST_S);
    pause(again + length - now_s())?;
    let transactions = load.stop()?;
    Ok(Effect {
        during: rate(&transactions, begin, end)?,
        without: rate(&transactions, again, again + length)?,
        backup_s: end - begin,
    })
}

fn pause(seconds: f64) -> io::Result<()> {
    let until = now_s() + seconds;
    wait_until("time to pass", Duration::MAX, || Ok(now_s() >= until))?;
    check_interrupted()
}

fn now_s() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

/// pgbench, which writes down every transaction.
struct Load {
    running: Background,
    home: PathBuf,
}

/// When it ended, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Transaction {
    end_s: f64,
    took_ms: f64,
}

impl Load {
    fn start(database: &Database, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        database.server.give(home)?;
        let (script, rows) = database.script()?;
        let mut command = database.server.command(&database.server.bin().join("pgbench"));
        command
            .args([
                "-n", "-M", "prepared", "-c", CLIENTS, "-T", "86400", "--log", "-D", &rows,
            ])
            .arg("-f")
            .arg(script)
            .current_dir(home);
        let running = Background::spawn(&mut command, &home.join("load.out"))?;
        Ok(Load {
            running,
            home: home.to_owned(),
        })
    }

    /// The alarm is what ends a run of pgbench when its time is over; so its logs are whole.
    fn stop(self) -> io::Result<Vec<Transaction>> {
        self.running.end(Signal::ALARM, ENDS_WITHIN)?;
        let mut transactions = Vec::new();
        for entry in std::fs::read_dir(&self.home)? {
            let path = entry?.path();
            let is_log = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("pgbench_log"));
            if is_log {
                transactions.extend(std::fs::read_to_string(path)?.lines().filter_map(transaction));
            }
        }
        std::fs::remove_dir_all(&self.home)?;
        Ok(transactions)
    }
}

/// client, number, microseconds, script, second and microsecond of the end.
fn transaction(line: &str) -> Option<Transaction> {
    let mut fields = line.split(' ').map(|field| field.parse::<f64>().ok());
    let took_us = fields.nth(2)??;
    let second = fields.nth(1)??;
    let micros = fields.next()??;
    Some(Transaction {
        end_s: second + micros / 1e6,
        took_ms: took_us / 1e3,
    })
}

fn rate(transactions: &[Transaction], from: f64, to: f64) -> io::Result<Rate> {
    let inside = transactions.iter().filter(|one| one.end_s >= from && one.end_s < to);
    let mut latencies: Vec<f64> = inside.map(|one| one.took_ms).collect();
    latencies.sort_by(f64::total_cmp);
    let p99 = latencies.get(latencies.len() * 99 / 100);
    Ok(Rate {
        tps: latencies.len() as f64 / (to - from),
        p99_ms: *p99.ok_or_else(|| io::Error::other("no transaction ended while a backup ran"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_a_transaction_and_a_rate_counts_those_that_end_inside() {
        let line = "3 17 2500 0 1790000000 500000";
        let read = transaction(line).unwrap();
        assert_eq!(read.took_ms, 2.5);
        assert!((read.end_s - 1_790_000_000.5).abs() < 1e-6);
        assert_eq!(transaction("starting vacuum..."), None);

        let at = |end_s, took_ms| Transaction { end_s, took_ms };
        let all = [at(1.0, 5.0), at(2.0, 1.0), at(3.0, 2.0), at(9.0, 7.0)];
        let inside = rate(&all, 1.5, 3.5).unwrap();
        assert_eq!((inside.tps, inside.p99_ms), (1.0, 2.0));
        assert!(rate(&all, 4.0, 5.0).is_err());
    }
}
