//! `wal-agent key`: which keys there are, on paper, replaced, for others, revoked.
//!
//! Whose signatures count and whom sessions are sealed to stands in the repository (`keys/<n>`), signed by the root key, which is in the
//! restore key file that `init` made. So whatever changes that needs this file; a database host need not have it.

mod change;
mod check;
mod paper;
mod show;

use std::sync::Arc;

use anyhow::Context as _;
use store::keys::file::OpeningKeyFile;
use store::keys::{Role, SigningKey};
use store::repository::Repository;

pub use check::check_files;

use crate::cli::{KeyCommand, KeyFile};
use crate::exit::Failure;
use crate::open::{Context, command_policy};

/// Runs the command.
pub async fn run(context: &Context, command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Show { json } => show::run(context, json).await,
        KeyCommand::Check { json } => check::run(context, json).await,
        KeyCommand::Export(options) => paper::export(context, &options),
        KeyCommand::Import { files, output } => paper::import(context, &files, &output),
        KeyCommand::Rotate { key } => match key {
            KeyFile::Host => change::rotate_host(context).await,
            KeyFile::Maintenance => change::rotate_maintenance(context).await,
            KeyFile::Restore => change::rotate_restore(context).await,
        },
        KeyCommand::AddRecipient { name, output } => change::add_recipient(context, &name, &output).await,
        KeyCommand::RemoveRecipient { name } => change::remove_recipient(context, &name).await,
        KeyCommand::AddHost { name, output } => change::add_host(context, &name, &output).await,
        KeyCommand::Revoke(options) => change::revoke(context, &options).await,
    }
}

/// Who may say whom the repository trusts.
struct Root {
    repository: Arc<Repository>,
    file: OpeningKeyFile,
    signing: SigningKey,
}

/// Opens the repository with the root key.
async fn root(context: &Context) -> anyhow::Result<Root> {
    let root = root_of_now_or_before(context).await?;
    let trusted = root.repository.period().root().map(|root| root.id());
    if trusted.is_some_and(|trusted| trusted != root.signing.verifying().id()) {
        let path = context.config.keys.origin(Role::Restore);
        return Err(Failure {
            code: crate::exit::KEY,
            message: format!("\"{}\" does not say any more who is trusted: it was replaced by another restore key", path.display()),
            hint: Some("Use the file that `wal-agent key rotate restore` made then: name it as restore_key under [keys]. Where that was interrupted, \
                        run it again.".into()),
        }
        .into());
    }
    Ok(root)
}

/// The same with a root key that has handed over already: a rotation that was interrupted in between goes on with it.
async fn root_of_now_or_before(context: &Context) -> anyhow::Result<Root> {
    let path = context.config.keys.origin(Role::Restore);
    let file = context.opening_key(Role::Restore)?;
    let signing = file.signing().map_err(|_| {
        Failure::refused(
            format!("\"{}\" opens what is stored, and does not say who is trusted", path.display()),
            "Use the restore key file that `wal-agent init` or `wal-agent key rotate restore` made: name it as restore_key under [keys].",
        )
    })?;
    let store = context.object_store(command_policy())?;
    let opened = Repository::open_as_restorer(store, &file).await;
    let repository =
        opened.with_context(|| format!("cannot open the repository at {}", context.config.repository.url))?;
    Ok(Root {
        repository: Arc::new(repository),
        file,
        signing,
    })
}
