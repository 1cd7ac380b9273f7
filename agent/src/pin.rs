//! `wal-agent pin` and `unpin`: a backup stays, whatever the retention says.

use std::sync::Arc;

use anyhow::Context as _;
use store::StoreError;
use store::envelope::Kind;
use store::id::BackupId;
use store::object::list_all;
use store::records::Pin;
use store::repository::{NewObject, Repository, Writer};

use crate::exit::Failure;
use crate::open::{Context, command_policy, host_name};
use crate::output;

/// A backup stays. A host may say so, and the keeper.
pub async fn pin(context: &Context, backup: &str, reason: String) -> anyhow::Result<()> {
    let backup = parse(backup)?;
    let (repository, signing) = if context.config.keys.host_key.exists() {
        let keys = context.host_keys()?;
        (context.repository(command_policy(), &keys).await?, keys.signing)
    } else {
        context.keeper(command_policy()).await?
    };
    if !repository.backup_ids().await?.contains(&backup) {
        return Err(unknown(backup));
    }
    let now_us = output::now_us();
    let pin = Pin {
        backup,
        time_us: now_us,
        host: host_name(),
        reason,
    };
    let plain = minicbor::to_vec(&pin)?;
    let id = BackupId::from_parts(u64::try_from(now_us / 1000).unwrap_or(0), store::entropy::bytes()?);
    let writer = Writer::new(Arc::clone(&repository), Arc::new(signing), 0);
    let name = repository.layout().pin(backup, id)?;
    writer
        .put(&name, NewObject::metadata(Kind::Pin, &plain, now_us))
        .await?;
    // A prune may have given it up at this very moment.
    if !repository.backup_ids().await?.contains(&backup) {
        return Err(unknown(backup));
    }
    println!("Backup {backup} stays until `wal-agent unpin {backup}`.");
    Ok(())
}

/// A backup is as any other again. It takes the right to delete.
pub async fn unpin(context: &Context, backup: &str) -> anyhow::Result<()> {
    let backup = parse(backup)?;
    let (repository, _) = context.keeper(command_policy()).await?;
    let pins = pins(&repository, backup).await?;
    if pins.is_empty() {
        return Err(Failure::refused(
            format!("backup {backup} is not pinned"),
            "`wal-agent prune --dry-run` shows what is.",
        )
        .into());
    }
    for name in pins {
        repository
            .store()
            .delete(&name)
            .await
            .context("cannot remove the pin")?;
    }
    println!("Backup {backup} is pinned no more.");
    Ok(())
}

async fn pins(repository: &Repository, backup: BackupId) -> Result<Vec<store::object::ObjectName>, StoreError> {
    let prefix = format!("{}{backup}/", repository.layout().prefix("pins"));
    let listed = list_all(repository.store().as_ref(), &prefix).await?;
    Ok(listed.into_iter().map(|meta| meta.name).collect())
}

fn parse(text: &str) -> anyhow::Result<BackupId> {
    text.parse().map_err(|_| {
        Failure::refused(
            format!("\"{text}\" is no id of a backup"),
            "`wal-agent list` shows the backups.",
        )
        .into()
    })
}

fn unknown(backup: BackupId) -> anyhow::Error {
    Failure::refused(
        format!("there is no backup {backup}"),
        "`wal-agent list` shows the backups.",
    )
    .into()
}
