//! The two slots: looked at before each connect, made again when they are gone or invalidated, dropped when the server must be saved.
//!
//! A slot is a hint, never the truth: what is archived decides where the stream goes on, and whether WAL was lost meanwhile shows when
//! the server is asked for it.

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::replication::ReplicationSession;
use store::crash::{self, CrashPoint};
use store::records::Lineage;
use tokio_postgres::Client;

use super::ledger::{Event, Ledger};
use crate::init::{self, both_slots, overlap_slot};
use crate::open::Context;
use crate::sql;

/// The slot to stream from, made again if need be (then true); its companion likewise.
pub async fn ready(
    context: &Context,
    client: &Client,
    connect: &ConnectOptions,
    lineage: &Lineage,
    ledger: &Ledger,
) -> anyhow::Result<(Option<sql::Slot>, bool)> {
    let name = &context.cluster.wal.slot;
    let mut is_whole = true;
    for slot in both_slots(context) {
        match sql::slot(client, &slot).await? {
            Some(found) if !found.is_invalidated() => {}
            Some(found) => {
                let status = found.wal_status.unwrap_or_default();
                is_our_server(connect, lineage).await?;
                tracing::error!(%slot, %status, "the server has invalidated the slot; making it again. WAL that was removed meanwhile is lost");
                sql::drop_slot(client, &slot).await?;
                ledger.note(
                    Event::SlotMade,
                    format!("slot {slot} was invalidated: WAL status {status}"),
                );
                is_whole = false;
            }
            None => {
                is_our_server(connect, lineage).await?;
                tracing::error!(%slot, "the slot is missing; making it again. WAL that was removed meanwhile is lost");
                ledger.note(Event::SlotMade, format!("slot {slot} was missing"));
                is_whole = false;
            }
        }
    }
    if !is_whole {
        init::create_slots(context, connect).await?;
        crash::point(CrashPoint::AfterSlot);
    }
    Ok((sql::slot(client, name).await?, !is_whole))
}

/// On this cluster's server only: on another one the slots would hold WAL back for ever.
async fn is_our_server(connect: &ConnectOptions, lineage: &Lineage) -> anyhow::Result<()> {
    let mut session = ReplicationSession::connect(connect)
        .await
        .context("cannot open a replication connection")?;
    let found = session.identify_system().await?.system_identifier.as_u64();
    if found == lineage.system_identifier {
        return Ok(());
    }
    Err(store::StoreError::Foreign {
        what: "the server's system identifier",
        expected: lineage.system_identifier.to_string(),
        found: found.to_string(),
    }
    .into())
}

/// Drops both slots, so that the server keeps no WAL for us. Nobody may stream from them any more.
pub async fn drop_both(context: &Context, client: &Client) -> anyhow::Result<()> {
    for slot in both_slots(context) {
        if sql::slot(client, &slot).await?.is_some() {
            sql::drop_slot(client, &slot).await?;
        }
    }
    Ok(())
}

/// Warns of slots that look like ours and that nobody uses: an agent was uninstalled, or its slot has another name now.
pub async fn warn_of_orphans(context: &Context, client: &Client) -> anyhow::Result<()> {
    let name = &context.cluster.wal.slot;
    for (slot, restart) in sql::idle_slots(client, "seawall").await? {
        if slot != *name && slot != overlap_slot(name) {
            tracing::warn!(%slot, %restart, hint = %format!("SELECT pg_drop_replication_slot('{slot}')"),
                "a slot that nobody streams from holds WAL back; if no agent of yours uses it any more, drop it");
        }
    }
    Ok(())
}
