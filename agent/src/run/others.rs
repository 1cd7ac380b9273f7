//! Lost on one server, perhaps not on another: every server of the configuration is asked before WAL is declared lost.

use pg::conninfo::{ConnectOptions, Server, TargetSessionAttrs};
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use store::StoreError;
use wal::lane::{LaneInputs, fill};

use super::lease::Held;
use crate::exit;
use crate::open::Context;
use crate::sql;

/// Archives what of `[from, until)` another server still has; returns where the archive ends then.
pub async fn fill_from(
    context: &Context,
    inputs: &LaneInputs,
    held: &Held,
    timeline: TimelineId,
    (from, until): (Lsn, Lsn),
) -> anyhow::Result<Lsn> {
    let all = context.connect_options()?;
    let asked = inputs.connect.servers.first();
    let is_asked = |server: &Server| asked.is_some_and(|asked| asked.host == server.host && asked.port == server.port);
    let mut at = from;
    for server in all.servers.iter().filter(|server| !is_asked(server)) {
        if at >= until {
            break;
        }
        let other = ConnectOptions {
            target_session_attrs: TargetSessionAttrs::Any,
            ..all.only(server.clone())
        };
        let reached = async {
            let (_client, connect) = sql::choose(&other).await?;
            let writing = (&held.writer, &held.fence);
            anyhow::Ok(fill(inputs, writing, &connect, timeline, (at, until)).await?)
        };
        match reached.await {
            Ok(reached) if reached > at => {
                tracing::warn!(from = %at, until = %reached.min(until), host = ?server.host, port = server.port,
                    "WAL that one server has lost came from another");
                at = reached;
            }
            Ok(_) => {}
            Err(failure) if exit::code(&failure) == exit::TAKEN_OVER || failure.chain().any(is_store) => {
                return Err(failure);
            }
            Err(failure) => {
                let error = exit::describe(&failure);
                tracing::warn!(%error, host = ?server.host, port = server.port, "lost WAL could not be asked for on another server");
            }
        }
    }
    Ok(at)
}

/// The repository failed, not the other server.
fn is_store(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(StoreError::Object(_)))
}
