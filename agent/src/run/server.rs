//! One look at the server while it is streamed from: slot, WAL that is kept for us, and whether commits wait for us.

use anyhow::Context as _;
use pg::lsn::Lsn;
use tokio_postgres::Client;

use crate::sql;

/// What the server said.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// End of the WAL that it has flushed.
    pub flush: Lsn,
    /// Our slot; `None` when it is not there.
    pub slot: Option<sql::Slot>,
    /// `synchronous_standby_names`.
    pub standby_names: String,
    /// `synchronous_commit` is `remote_apply`, for all or for a role or database.
    pub remote_apply: bool,
    /// Sessions that wait for a synchronous standby; `None` when the role may not see them.
    pub waiting: Option<i64>,
}

impl Look {
    /// WAL that the server keeps for our slot.
    pub fn retained_bytes(&self) -> u64 {
        let restart = self.slot.as_ref().and_then(|slot| slot.restart);
        restart.map_or(0, |restart| self.flush.as_u64().saturating_sub(restart.as_u64()))
    }
}

/// Looks. Reads only; waits for no lock and no commit.
pub async fn look(client: &Client, slot: &str) -> anyhow::Result<Look> {
    let flush = sql::flush_lsn(client).await?;
    let slot = sql::slot(client, slot).await?;
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('synchronous_standby_names'), \
                    pg_catalog.current_setting('synchronous_commit') = 'remote_apply' \
                    OR EXISTS (SELECT FROM pg_catalog.pg_db_role_setting AS s WHERE 'synchronous_commit=remote_apply' = ANY (s.setconfig)), \
                    CASE WHEN pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') \
                    THEN (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a WHERE a.wait_event = 'SyncRep') END",
            &[],
        )
        .await
        .context("cannot ask the server how it is")?;
    Ok(Look {
        flush,
        slot,
        standby_names: row.get(0),
        remote_apply: row.get(1),
        waiting: row.get(2),
    })
}
