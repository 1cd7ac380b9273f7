//! What `pg_waldump` says, as data.

use wal::commit::{PgTimestamp, XactKind};
use wal::record::RecordInfo;

use super::server::Server;

/// Names of the resource managers of PostgreSQL 15 by number (`access/rmgrlist.h`).
const RESOURCE_MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// One line of its output; equality leaves the description out.
#[derive(Debug)]
pub(crate) struct Line {
    rmid: u8,
    len: u32,
    xid: u32,
    lsn: u64,
    prev: u64,
    description: String,
}

impl PartialEq for Line {
    fn eq(&self, other: &Line) -> bool {
        (self.rmid, self.len, self.xid, self.lsn, self.prev)
            == (other.rmid, other.len, other.xid, other.lsn, other.prev)
    }
}

pub(crate) fn lines(server: &Server, timeline: u32, start: u64, end: u64) -> Vec<Line> {
    let mut command = server.command("pg_waldump");
    command.arg("-p").arg(server.wal()).args(["-t", &timeline.to_string()]);
    command.args(["-s", &lsn_text(start), "-e", &lsn_text(end)]);
    let output = command.output().expect("pg_waldump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| line.starts_with("rmgr:"))
        .map(Line::parse)
        .collect()
}

fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("an LSN");
    u64::from_str_radix(high, 16).expect("hexadecimal") << 32 | u64::from_str_radix(low, 16).expect("hexadecimal")
}

impl Line {
    /// `rmgr: Heap len (rec/tot): 54/ 150, tx: 737, lsn: 0/01, prev 0/00, desc: ...`
    fn parse(line: &str) -> Line {
        let (fields, description) = line.split_once(", desc: ").expect("a description");
        let after = |name: &str| fields.split_once(name).expect(name).1.trim_start();
        let word = |name: &str| after(name).split([' ', ',']).next().expect("a word");
        let lengths = after("len (rec/tot):").split_once(',').expect("lengths").0;
        let manager = word("rmgr: ");
        Line {
            rmid: RESOURCE_MANAGERS
                .iter()
                .position(|name| *name == manager)
                .expect(manager) as u8,
            len: lengths
                .split_once('/')
                .expect("two lengths")
                .1
                .trim()
                .parse()
                .expect("a length"),
            xid: word("tx:").parse().expect("a transaction"),
            lsn: lsn(word("lsn: ")),
            prev: lsn(word("prev ")),
            description: description.to_owned(),
        }
    }

    pub(crate) fn of(record: &RecordInfo) -> Line {
        Line {
            rmid: record.rmid,
            len: record.len,
            xid: record.xid,
            lsn: record.start.as_u64(),
            prev: record.prev.as_u64(),
            description: format!("{record:?}"),
        }
    }

    /// Start, kind, transaction and time of a transaction record, from the description.
    pub(crate) fn xact(&self) -> Option<(u64, XactKind, u32, PgTimestamp)> {
        if self.rmid != wal::record::RM_XACT {
            return None;
        }
        let (name, rest) = self.description.split_once(' ')?;
        let (kind, xid, rest) = match name {
            "COMMIT" => (XactKind::Commit, self.xid, rest),
            "ABORT" => (XactKind::Abort, self.xid, rest),
            "PREPARE" => (XactKind::Prepare, self.xid, rest.split_once(": ")?.1),
            "COMMIT_PREPARED" | "ABORT_PREPARED" => {
                let kind = if name == "COMMIT_PREPARED" {
                    XactKind::CommitPrepared
                } else {
                    XactKind::AbortPrepared
                };
                let (xid, rest) = rest.split_once(": ")?;
                (kind, xid.parse().expect("a transaction"), rest)
            }
            _ => return None,
        };
        Some((self.lsn, kind, xid, timestamp(rest)))
    }
}

/// `2026-01-31 12:00:00.123456 UTC` and whatever follows.
fn timestamp(text: &str) -> PgTimestamp {
    let numbers: Vec<i64> = text
        .split(['-', ' ', ':', '.'])
        .take(7)
        .map(|number| number.parse().expect("a number"))
        .collect();
    let [year, month, day, hour, minute, second, micros] = numbers[..] else {
        panic!("not a time: {text}")
    };
    // Years that begin in March put the leap day last.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day - 1;
    let days_to_2000 = 1999 * 365 + 1999 / 4 - 1999 / 100 + 1999 / 400 + (10 * 153 + 2) / 5;
    let seconds = ((days - days_to_2000) * 24 + hour) * 3600 + minute * 60 + second;
    PgTimestamp(seconds * 1_000_000 + micros)
}
