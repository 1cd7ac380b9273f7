//! A restored server, judged by everything that PostgreSQL has.

use anyhow::Result;

use crate::oracle::{Expected, History};
use crate::{Cluster, StopMode, pgbench};

/// Every row that must be there and no other, balances, indexes, and, when it is down, checksums. It is stopped afterwards.
pub async fn restored_exactly(restored: &Cluster, history: &History, expected: &Expected) -> Result<()> {
    let client = restored.connect().await?;
    history.assert_exact(&client, expected).await?;
    drop(client);
    pgbench::assert_balanced(restored).await?;
    restored.amcheck().await?;
    restored.stop(StopMode::Fast).await?;
    restored.checksums_clean().await
}
