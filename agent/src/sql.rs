//! SQL connections to the server. Names are qualified and the search path is empty, so that no object of a database can stand in.

mod choose;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::lsn::Lsn;
use pg::replication::SlotName;
use tokio_postgres::Client;

pub use choose::choose;

/// A session with the server that [`choose`] chooses, for who needs no other connection to the same one.
pub async fn connect(options: &ConnectOptions) -> anyhow::Result<Client> {
    Ok(choose(options).await?.0)
}

/// What the server says about a physical slot.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    /// Where WAL is held back.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes until the slot is in danger.
    pub safe_wal_bytes: Option<i64>,
    /// Somebody streams from it.
    pub active: bool,
}

impl Slot {
    /// The server has given it up: no WAL is kept for it, and nobody can stream from it.
    pub fn is_invalidated(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.restart.is_none()
    }
}

/// Looks a slot up.
pub async fn slot(client: &Client, name: &str) -> anyhow::Result<Option<Slot>> {
    let row = client
        .query_opt(
            "SELECT restart_lsn::text, wal_status, safe_wal_size, active FROM pg_catalog.pg_replication_slots \
             WHERE slot_name::text = $1 AND slot_type = 'physical'",
            &[&name],
        )
        .await
        .context("cannot look the replication slot up")?;
    Ok(row.map(|row| Slot {
        restart: row.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()),
        wal_status: row.get(1),
        safe_wal_bytes: row.get(2),
        active: row.get(3),
    }))
}

/// Physical slots whose names begin so and from which nobody streams, with what they hold back.
pub async fn idle_slots(client: &Client, prefix: &str) -> anyhow::Result<Vec<(String, String)>> {
    let rows = client
        .query(
            // The companion of a slot that is in use is in use.
            "SELECT slot_name::text, restart_lsn::text FROM pg_catalog.pg_replication_slots AS idle \
             WHERE slot_type = 'physical' AND NOT active AND restart_lsn IS NOT NULL \
             AND pg_catalog.starts_with(slot_name::text, $1) AND NOT EXISTS ( \
             SELECT FROM pg_catalog.pg_replication_slots AS used \
             WHERE used.active AND used.slot_name::text || '_overlap' = idle.slot_name::text) ORDER BY 1",
            &[&prefix],
        )
        .await
        .context("cannot look for other slots")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Drops a slot from which nobody streams.
pub async fn drop_slot(client: &Client, name: &str) -> anyhow::Result<()> {
    SlotName::new(name)?;
    client
        .execute("SELECT pg_catalog.pg_drop_replication_slot($1::text::name)", &[&name])
        .await
        .with_context(|| format!("cannot drop slot \"{name}\""))?;
    Ok(())
}

/// Moves a physical slot forward.
pub async fn advance_slot(client: &Client, name: &str, to: Lsn) -> anyhow::Result<()> {
    client
        .execute(
            "SELECT pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_catalog.pg_lsn)",
            &[&name, &to.to_string()],
        )
        .await
        .with_context(|| format!("cannot advance slot \"{name}\" to {to}"))?;
    Ok(())
}

/// End of the WAL that is flushed: on a primary its own, on a standby what it replayed.
pub async fn flush_lsn(client: &Client) -> anyhow::Result<Lsn> {
    let row = client
        .query_one(
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_flush_lsn() END::text",
            &[],
        )
        .await
        .context("cannot ask for the WAL position")?;
    row.get::<_, String>(0)
        .parse()
        .map_err(|_| anyhow::anyhow!("the server's WAL position makes no sense"))
}

/// True on a standby.
pub async fn is_standby(client: &Client) -> anyhow::Result<bool> {
    let row = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
    Ok(row.context("cannot ask whether the server is a standby")?.get(0))
}
