//! Do the key files that are here fit the repository, and open what is in it?

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use store::StoreError;
use store::keys::Role;
use store::keys::file::read_host;
use store::repository::{Period, Repository, SignerRole};

use super::show::{FileHere, files};
use crate::exit::{self, Failure};
use crate::open::{Context, command_policy};
use crate::output;

/// What is wrong with a key file; nothing when it is good.
type Problem = Option<String>;

/// A key file, and what is wrong with it.
pub struct Checked {
    /// The role.
    pub word: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong; nothing when it is good.
    pub problem: Problem,
    /// It is named, and not here: nothing is wrong with that where another machine has this role.
    pub is_elsewhere: bool,
}

/// Those that are here, and those that were named and are not.
pub async fn check_files(context: &Context) -> anyhow::Result<Vec<Checked>> {
    let mut checked = Vec::new();
    for file in files(context) {
        let problem = check(context, &file).await?;
        checked.push(Checked {
            word: file.word,
            path: file.path,
            problem,
            is_elsewhere: false,
        });
    }
    for (name, path) in context.config.named_key_files() {
        let problem = match path.try_exists() {
            Ok(true) => continue,
            Ok(false) => format!("keys.{name} names it, and it is not there"),
            Err(error) => format!("keys.{name} names it, and it cannot be looked for: {error}"),
        };
        checked.push(Checked {
            word: name.trim_end_matches("_key"),
            path: path.to_owned(),
            problem: Some(problem),
            is_elsewhere: name != "host_key",
        });
    }
    Ok(checked)
}

/// Runs the command.
pub(super) async fn run(context: &Context, json: bool) -> anyhow::Result<()> {
    let rows = check_files(context).await?;
    if rows.iter().all(|row| row.is_elsewhere) {
        return Err(Failure {
            code: exit::KEY,
            message: "there is no key file here".into(),
            hint: Some(
                "Name the files under [keys] in the config; `wal-agent key import` makes one of what was printed."
                    .into(),
            ),
        }
        .into());
    }
    let is_bad = |row: &&Checked| row.problem.is_some() && !row.is_elsewhere;
    let bad = rows.iter().filter(is_bad).count();
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| json!({ "key_file": row.word, "path": row.path, "good": row.problem.is_none(), "problem": row.problem }))
            .collect();
        output::print_json(&json!({ "files": rows }))?;
    } else {
        for row in &rows {
            let state = row.problem.as_ref().map_or("good", String::as_str);
            println!("{:12} {}: {state}", row.word, row.path.display());
        }
    }
    if bad == 0 {
        return Ok(());
    }
    Err(Failure {
        code: exit::KEY,
        message: format!("{bad} of {} key files cannot be used", rows.len()),
        hint: Some("`wal-agent key show` says whom the repository trusts.".into()),
    }
    .into())
}

/// A store that cannot be reached says nothing about a key.
async fn check(context: &Context, file: &FileHere) -> anyhow::Result<Problem> {
    if let Err(error) = &file.ids {
        return Ok(Some(error.to_string()));
    }
    let opened = match file.word {
        "host" => Repository::open_as_host(context.object_store(command_policy())?, &read_host(&file.path)?).await,
        "maintenance" => {
            let key = context.opening_key(Role::Maintenance)?;
            Repository::open_as_keeper(context.object_store(command_policy())?, &key).await
        }
        _ => {
            let key = context.opening_key(Role::Restore)?;
            Repository::open_as_restorer(context.object_store(command_policy())?, &key).await
        }
    };
    let repository = match opened {
        Ok(repository) => Arc::new(repository),
        Err(error @ StoreError::Object(_)) => return Err(error).context("cannot reach the repository"),
        Err(error) => return Ok(Some(error.to_string())),
    };
    if let Some(problem) = not_trusted(file, &repository.period()) {
        return Ok(Some(problem));
    }
    match file.word {
        "restore" => opens_the_newest(&repository).await,
        _ => Ok(None),
    }
}

fn not_trusted(file: &FileHere, period: &Period) -> Problem {
    let (_, signs) = file.ids.as_ref().ok()?;
    let signs = (*signs)?;
    if file.word == "restore" {
        let is_root = period.root().is_some_and(|root| root.id() == signs);
        return (!is_root).then(|| "another restore key says who is trusted since: this one was replaced".into());
    }
    let role = if file.word == "host" {
        SignerRole::Host
    } else {
        SignerRole::Keeper
    };
    match period.signers.iter().find(|signer| signer.id == signs) {
        Some(signer) if signer.role != role => Some("it signs in another role".into()),
        Some(signer) => signer
            .revoked_us
            .map(|us| format!("it was revoked as of {}", output::time_us(us))),
        None => Some("it is not among the signers of the cluster".into()),
    }
}

/// Decrypts something of the newest backup, with one of its data packs.
async fn opens_the_newest(repository: &Repository) -> anyhow::Result<Problem> {
    let Some(newest) = repository.backup_ids().await?.pop() else {
        return Ok(None);
    };
    let manifest = repository.manifest(newest).await?;
    let Some(pack) = manifest.packs.iter().find(|pack| pack.holds_data()) else {
        return Ok(None);
    };
    let fetched = repository.fetch_chunks(pack.id, &[0]).await;
    Ok(match fetched.and_then(|pack| pack.chunk(0, repository)) {
        Ok(_) => None,
        Err(error @ StoreError::Object(_)) => return Err(error).context("cannot reach the repository"),
        Err(error) => Some(error.to_string()),
    })
}
