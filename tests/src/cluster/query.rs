//! Questions to a server, and PostgreSQL's own checks of its files.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::Cluster;
use crate::user;
use crate::wait::{DEADLINE, within};

impl Cluster {
    /// A client of the database `postgres`, as superuser.
    pub async fn connect(&self) -> Result<Client> {
        self.connect_to("postgres").await
    }

    pub async fn connect_to(&self, database: &str) -> Result<Client> {
        connect(&self.client_config(database)).await
    }

    /// The same, for a task that connects by itself.
    pub fn client_config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.socket_dir)
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .application_name("seawall-test")
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// Runs statements, separated by semicolons.
    pub async fn exec(&self, sql: &str) -> Result<()> {
        let client = self.connect().await?;
        client.batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    /// The first column of the only row, as text; booleans are `t` and `f`, null is empty.
    pub async fn query_one(&self, sql: &str) -> Result<String> {
        query_one(&self.connect().await?, sql).await
    }

    /// Where WAL is written to now.
    pub async fn current_lsn(&self) -> Result<u64> {
        parse_lsn(&self.query_one("select pg_current_wal_insert_lsn()").await?)
    }

    /// Ends the current segment, so that it is archived; returns where it ended.
    pub async fn switch_wal(&self) -> Result<u64> {
        // Without a record in it the segment would not be switched.
        let sql = "select pg_logical_emit_message(false, 'seawall-test', 'switch')";
        self.exec(sql).await?;
        parse_lsn(&self.query_one("select pg_switch_wal()").await?)
    }

    /// PostgreSQL's own check of all tables and indexes, each index against its table.
    pub async fn amcheck(&self) -> Result<()> {
        let mut command = self.tool_or_newer("pg_amcheck")?;
        command.args(["--all", "--heapallindexed", "--no-strict-names"]);
        if self.query_one("select pg_is_in_recovery()").await? == "f" {
            command.arg("--install-missing");
        }
        let found = user::run(command, Duration::from_secs(300)).await?;
        ensure!(found.trim().is_empty(), "pg_amcheck: {found}");
        Ok(())
    }

    /// The most that this major's installation can check of tables and indexes: [`Cluster::amcheck`] from 14 on, the indexes alone
    /// on 13, and nothing on 16, whose package has no extensions. An extension that is missing elsewhere is an error.
    pub async fn amcheck_if_packed(&self) -> Result<()> {
        match self.major {
            16 => {
                let sql = "select count(*) from pg_available_extensions where name = 'amcheck'";
                let found = self.query_one(sql).await?;
                ensure!(found == "0", "PostgreSQL 16 has amcheck here: use it");
                Ok(())
            }
            13 => {
                let client = self.connect().await?;
                client.batch_execute("create extension if not exists amcheck").await?;
                let checked = query_one(&client, CHECK_INDEXES).await?;
                ensure!(checked.parse::<u32>()? > 100, "only {checked} indexes");
                Ok(())
            }
            _ => self.amcheck().await,
        }
    }

    /// PostgreSQL's own check of all page checksums. The server must be down.
    pub async fn checksums_clean(&self) -> Result<()> {
        let mut command = self.tool_or_newer("pg_checksums")?;
        command.arg("--check").arg("-D").arg(&self.data);
        user::run(command, Duration::from_secs(300)).await?;
        Ok(())
    }

    /// PostgreSQL's own judgement of a restored directory that was never started. WAL is not looked at: it comes with the recovery.
    pub async fn verify_backup(&self, data: &Path) -> Result<()> {
        let mut command = self.tool_or_newer("pg_verifybackup")?;
        command.arg("--no-parse-wal").arg(data);
        user::run(command, Duration::from_secs(300)).await?;
        Ok(())
    }

    /// All of the cluster as SQL, without what differs between two dumps of the same.
    pub async fn dump_all(&self) -> Result<String> {
        let mut command = self.tool_or_newer("pg_dumpall")?;
        command.arg("--no-password");
        let output = user::run(command, Duration::from_secs(300)).await?;
        let is_same = |line: &&str| {
            !line.starts_with("--") && !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")
        };
        Ok(output.lines().filter(is_same).collect::<Vec<_>>().join("\n"))
    }
}

/// Every B-tree of the database against its table; an error says which is broken.
const CHECK_INDEXES: &str = "
    select count(bt_index_check(i.indexrelid, true)) from pg_index i
    join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
    where a.amname = 'btree' and c.relpersistence = 'p' and i.indisvalid and i.indisready";

/// Connects; the connection lives until the client is dropped.
pub async fn connect(config: &tokio_postgres::Config) -> Result<Client> {
    let (client, connection) = within("connecting", DEADLINE, config.connect(NoTls))
        .await?
        .context("could not connect")?;
    // An error of the connection also ends every request of the client, and is seen there.
    tokio::spawn(connection);
    Ok(client)
}

/// See [`Cluster::query_one`].
pub async fn query_one(client: &Client, sql: &str) -> Result<String> {
    let answer = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
    let mut rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = rows.next().with_context(|| format!("no row: {sql}"))?;
    ensure!(rows.next().is_none(), "more than one row: {sql}");
    Ok(row.get(0).unwrap_or_default().to_owned())
}

/// `16/B374D848` as a number.
pub fn parse_lsn(text: &str) -> Result<u64> {
    let (high, low) = text
        .split_once('/')
        .with_context(|| format!("{text:?} is not an LSN"))?;
    Ok(u64::from(u32::from_str_radix(high, 16)?) << 32 | u64::from(u32::from_str_radix(low, 16)?))
}

/// The number as PostgreSQL prints it.
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_are_read_and_printed() {
        assert_eq!(parse_lsn("16/B374D848").unwrap(), 0x16_B374_D848);
        assert_eq!(lsn_text(0x16_B374_D848), "16/B374D848");
        assert!(parse_lsn("16B374D848").is_err());
    }
}
