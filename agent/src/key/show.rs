//! Which key files are here, and whom the repository trusts.

use std::path::PathBuf;

use serde_json::{Value, json};
use store::StoreError;
use store::id::KeyId;
use store::keys::file::{read_host, role_text};
use store::keys::{Role, key_id};
use store::repository::{Period, SignerRole};

use crate::open::{Context, command_policy};
use crate::output;

/// A key that is here, in its file or from its command.
pub(super) struct FileHere {
    pub(super) word: &'static str,
    pub(super) path: PathBuf,
    /// The ids that the repository knows it by: of what opens, of what signs.
    pub(super) ids: Result<(Option<KeyId>, Option<KeyId>), StoreError>,
}

/// The three keys of a machine; those that are not here are left out.
pub(super) fn files(context: &Context) -> Vec<FileHere> {
    let keys = &context.config.keys;
    let opening = |word, role| {
        let ids = keys.opening(role).map(|file| {
            let signing = file.signing().ok().map(|signing| signing.verifying().id());
            (Some(key_id(&file.key.public())), signing)
        });
        FileHere {
            word,
            path: keys.origin(role),
            ids,
        }
    };
    let host = keys.host_key.exists().then(|| FileHere {
        word: "host",
        path: keys.host_key.clone(),
        ids: read_host(&keys.host_key).map(|host| (None, Some(host.signing.verifying().id()))),
    });
    let others = [("maintenance", Role::Maintenance), ("restore", Role::Restore)];
    let others = others.into_iter().filter(|(_, role)| keys.has(*role));
    host.into_iter()
        .chain(others.map(|(word, role)| opening(word, role)))
        .collect()
}

/// Runs the command.
pub(super) async fn run(context: &Context, json: bool) -> anyhow::Result<()> {
    let files = files(context);
    let repository = context.repository_to_look_at(command_policy()).await?;
    let period = repository.period();
    if json {
        return output::print_json(&as_json(&files, &period));
    }
    let mut table = output::table(&["key file", "opens with", "signs with", "path"]);
    for file in &files {
        let (opens, signs) = match &file.ids {
            Ok((opens, signs)) => (show(*opens), show(*signs)),
            Err(error) => (error.to_string(), String::new()),
        };
        table.add_row([file.word.to_owned(), opens, signs, file.path.display().to_string()]);
    }
    println!("{table}");
    println!(
        "Cluster \"{}\" trusts, since period {}:",
        context.cluster.name, period.number
    );
    let mut table = output::table(&["who", "may", "key id", "revoked"]);
    for recipient in &period.recipients {
        let may = match recipient.role {
            Role::Restore => "open everything",
            Role::Maintenance => "read metadata",
        };
        table.add_row([
            recipient.name.clone(),
            may.into(),
            key_id(&recipient.public).to_string(),
            String::new(),
        ]);
    }
    for signer in &period.signers {
        let revoked = signer.revoked_us.map(output::time_us).unwrap_or_default();
        table.add_row([
            signer.holder.clone(),
            may(signer.role).into(),
            signer.id.to_string(),
            revoked,
        ]);
    }
    if let Some(root) = period.root() {
        table.add_row([
            "root".into(),
            "say who is trusted".into(),
            root.id().to_string(),
            String::new(),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn show(id: Option<KeyId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn may(role: SignerRole) -> &'static str {
    match role {
        SignerRole::Host => "sign backups and WAL",
        SignerRole::Keeper => "decide about deletion",
    }
}

fn as_json(files: &[FileHere], period: &Period) -> Value {
    let file = |file: &FileHere| {
        let ids = file.ids.as_ref().ok();
        json!({
            "key_file": file.word,
            "path": file.path,
            "opens_with": ids.and_then(|ids| ids.0).map(|id| id.to_string()),
            "signs_with": ids.and_then(|ids| ids.1).map(|id| id.to_string()),
            "error": file.ids.as_ref().err().map(ToString::to_string),
        })
    };
    json!({
        "files": files.iter().map(file).collect::<Vec<_>>(),
        "period": period.number,
        "root": period.root().map(|root| root.id().to_string()),
        "afresh": period.afresh,
        "recipients": period.recipients.iter().map(|recipient| json!({
            "name": recipient.name,
            "role": role_text(recipient.role),
            "id": key_id(&recipient.public).to_string(),
        })).collect::<Vec<_>>(),
        "signers": period.signers.iter().map(|signer| json!({
            "holder": signer.holder,
            "role": match signer.role { SignerRole::Host => "host", SignerRole::Keeper => "keeper" },
            "id": signer.id.to_string(),
            "revoked_us": signer.revoked_us,
        })).collect::<Vec<_>>(),
    })
}
