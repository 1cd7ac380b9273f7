//! The two data sets, made by a real server: what pgbench makes compresses absurdly well, `mix` is nearer to life.

use std::io;
use std::path::{Path, PathBuf};

use crate::peers::process::check_interrupted;
use crate::server::Server;

/// Nothing that runs by itself: what changes is what we change. Commits wait for the disk, as they would elsewhere. The archiver is
/// on, because Barman insists, and archives nothing: its work is measured apart ([`crate::peers::archiver`]).
const OPTIONS: &str = "-c listen_addresses= -c shared_buffers=256MB -c max_wal_size=4GB -c checkpoint_timeout=1h -c autovacuum=off \
    -c jit=off -c archive_mode=on -c archive_command=/bin/true -c wal_level=replica";
/// Bytes of a new cluster without anything of ours.
const EMPTY_BYTES: u64 = 24_000_000;
/// Pages are filled to 90 %, so that a changed row stays in its page and does not touch an index: then the share of changed pages is
/// what was asked for.
const FILL_PERCENT: u64 = 90;
/// Bytes of `pgbench_accounts` and its key for 100,000 rows, at that.
const SCALE_BYTES: u64 = 16_500_000;
/// Rows of `mix` a statement.
const ROWS: u64 = 100_000;
/// The index on `mix`, as a share of the whole.
const MIX_INDEX_PERCENT: u64 = 13;

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSet {
    /// pgbench's own tables: 30 : 1 and more.
    Pgbench,
    /// A table of UUID, JSON documents and words, and an index on the UUID: about 3 : 1.
    Mix,
}

/// A server with one data set in it.
#[derive(Debug)]
pub struct Database {
    /// The server.
    pub server: Server,
    set: DataSet,
    rows: u64,
    /// Rows a page of the table.
    rows_a_page: f64,
    /// Pages of the whole cluster for one of the table.
    pages_a_page: f64,
}

impl DataSet {
    /// For names of results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DataSet::Pgbench => "pgbench",
            DataSet::Mix => "mix",
        }
    }

    fn table(self) -> &'static str {
        match self {
            DataSet::Pgbench => "pgbench_accounts",
            DataSet::Mix => "mix",
        }
    }

    fn column(self) -> &'static str {
        match self {
            DataSet::Pgbench => "abalance",
            DataSet::Mix => "amount",
        }
    }

    /// One transaction of the load: reads a row, changes a row.
    fn script(self) -> String {
        let (table, column) = (self.table(), self.column());
        let key = match self {
            DataSet::Pgbench => "aid = :id",
            DataSet::Mix => "key = cast(md5(cast(:id as text)) as uuid)",
        };
        format!(
            "\\set id random(1, :rows)\nselect {column} from {table} where {key};\n\
             \\set id random(1, :rows)\nupdate {table} set {column} = {column} + 1 where {key};\n"
        )
    }
}

impl Database {
    /// Makes a cluster of about `bytes` in `directory`.
    ///
    /// # Errors
    /// A program of the server failed.
    pub fn create(bin: &Path, directory: &Path, set: DataSet, bytes: u64) -> io::Result<Self> {
        let server = Server::create(bin, directory, OPTIONS)?;
        let wanted = bytes.saturating_sub(EMPTY_BYTES);
        match set {
            DataSet::Pgbench => fill_pgbench(&server, wanted)?,
            DataSet::Mix => fill_mix(&server, wanted)?,
        }
        let table = set.table();
        // All hints are set, or the first reader would change every page.
        server.query(&format!("vacuum (freeze, analyze) {table}"))?;
        server.query("checkpoint")?;
        let number = |sql: &str| -> io::Result<f64> { server.query(sql)?.parse().map_err(io::Error::other) };
        let rows = number(&format!("select count(*) from {table}"))?;
        let pages = number(&format!("select pg_relation_size('{table}') / 8192"))?;
        let all = number("select sum(pg_database_size(oid)) / 8192 from pg_database")?;
        Ok(Database {
            server,
            set,
            rows: rows as u64,
            rows_a_page: rows / pages,
            pages_a_page: all / pages,
        })
    }

    /// Changes rows all over the table so that about `share` of all pages are changed, and writes these to their files.
    ///
    /// # Errors
    /// A statement failed.
    pub fn change(&self, share: f64) -> io::Result<()> {
        let (table, column) = (self.set.table(), self.set.column());
        let of_table = (share * self.pages_a_page).min(0.99);
        // A page is changed when one of its rows is.
        let of_rows = 1.0 - (1.0 - of_table).powf(1.0 / self.rows_a_page);
        if share > 0.0 {
            self.server.query(&format!(
                "update {table} set {column} = {column} + 1 where random() < {of_rows:.9}"
            ))?;
            // Sets hints now, or the next change would also find the pages of this one.
            self.server.query(&format!("vacuum {table}"))?;
        }
        self.server.query("checkpoint").map(drop)
    }

    /// Writes the load's script and gives its path and pgbench's arguments for it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn script(&self) -> io::Result<(PathBuf, String)> {
        let path = self.server.directory().join("transaction.sql");
        std::fs::write(&path, self.set.script())?;
        Ok((path, format!("rows={}", self.rows)))
    }
}

fn fill_pgbench(server: &Server, bytes: u64) -> io::Result<()> {
    let scale = (bytes / SCALE_BYTES).max(1).to_string();
    let fill = FILL_PERCENT.to_string();
    server
        .run("pgbench", ["-q", "-i", "-s", &scale, "-F", &fill])
        .map(drop)?;
    check_interrupted()
}

/// Rows come from hashes of their number: the same on every machine, and a client can find them.
fn fill_mix(server: &Server, bytes: u64) -> io::Result<()> {
    server.query(&format!(
        "create table mix (id bigint, key uuid, at timestamptz, amount int, doc jsonb, words text) with (fillfactor = {FILL_PERCENT})"
    ))?;
    let heap = bytes * (100 - MIX_INDEX_PERCENT) / 100;
    let mut next = 1;
    loop {
        let last = next + ROWS - 1;
        server.query(&format!(
            "{MIX_ROWS} from generate_series({next}, {last}) i, {MIX_WORDS}, {MIX_HASHES}"
        ))?;
        check_interrupted()?;
        next = last + 1;
        let size: u64 = server
            .query("select pg_relation_size('mix')")?
            .parse()
            .map_err(io::Error::other)?;
        if size >= heap {
            break;
        }
    }
    server.query("create index mix_key on mix (key)").map(drop)
}

const MIX_ROWS: &str = "insert into mix select i, cast(md5(cast(i as text)) as uuid), \
    timestamptz '2025-01-01 00:00+00' + i * interval '1.3 seconds' + (h & 1048575) * interval '1 microsecond', \
    (h >> 8 & 8191)::int, \
    jsonb_build_object('id', h & 8388607, 'status', w[1 + (h >> 23 & 31)], 'amount', (g & 524287) / 100.0, \
    'tags', jsonb_build_array(w[1 + (h >> 28 & 31)], w[1 + (h >> 33 & 31)]), 'ref', to_hex(g)), \
    concat_ws(' ', w[1 + (h >> 38 & 31)], w[1 + (h >> 43 & 31)], w[1 + (h >> 48 & 31)], w[1 + (h >> 53 & 31)], \
    w[1 + (g >> 20 & 31)], w[1 + (g >> 25 & 31)])";
const MIX_WORDS: &str = "(select array['order', 'customer', 'shipping', 'invoice', 'pending', 'delivered', 'return', 'blue', 'large', \
    'north', 'harbour', 'engine', 'paper', 'winter', 'market', 'silver', 'account', 'region', 'payment', 'refund', 'window', 'garden', \
    'stone', 'river', 'copper', 'linen', 'express', 'standard', 'fragile', 'gift', 'priority', 'archive'] w) words";
const MIX_HASHES: &str = "lateral (select hashint8extended(i, 1) h, hashint8extended(i, 2) g) hashes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_reads_and_changes_its_own_table() {
        for set in [DataSet::Pgbench, DataSet::Mix] {
            let script = set.script();
            assert!(script.contains(&format!("from {}", set.table())), "{script}");
            assert!(script.contains(&format!("update {}", set.table())), "{script}");
        }
    }
}
