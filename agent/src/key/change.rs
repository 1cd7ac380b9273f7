//! Who is trusted from now on: each command makes the next period of keys. Key files are durable before the repository relies on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use store::id::KeyId;
use store::keys::file::{HostKeys, OpeningKeyFile, write_host, write_opening};
use store::keys::{OpeningKey, Recipient, Role, SigningKey, key_id};
use store::records::LedgerEntry;
use store::repository::{Period, Repository, Signer, SignerRole, Writer};
use store::seal::Secret32;

use super::{Root, root, root_of_now_or_before};
use crate::cli::{KeyRevokeOptions, Since};
use crate::exit::Failure;
use crate::open::{Context, command_policy, host_name};
use crate::output;
use crate::run::ledger;

/// Ending of a key file until the repository knows it.
const NEW: &str = "new";
/// Ending of a key file that was replaced.
const REPLACED: &str = "replaced";

/// This host signs with another key from its next start on.
pub(super) async fn rotate_host(context: &Context) -> anyhow::Result<()> {
    let path = &context.config.keys.host_key;
    // Lost with a host, or still there.
    let before = match path.exists() {
        true => Some(context.host_keys()?),
        false => None,
    };
    let root = root(context).await?;
    let signing = SigningKey::from_seed(Secret32::generate()?)?;
    let id = signing.verifying().id();
    let signer = Signer::new(signing.verifying(), &host_name(), SignerRole::Host);
    let new = with_ending(path, NEW);
    give_up(&new)?;
    write_host(&new, &root.host_keys(signing))?;
    let period = root.next(|period| {
        period.signers.push(signer);
        Ok(())
    });
    let number = period.await?;
    replace(path, &new, number)?;
    println!("This host signs as {id} once the agent is restarted (period {number}).");
    match before {
        Some(before) => println!(
            "Restart this host's agent first. Then revoke the key of before, if it may be in wrong hands: `wal-agent key revoke {}`.",
            before.signing.verifying().id()
        ),
        None => println!(
            "If the key of before may be in wrong hands, revoke it: `wal-agent key show` has its id, `wal-agent key revoke` does it."
        ),
    }
    Ok(())
}

/// The keeper reads and signs with other keys; those of before count no more.
pub(super) async fn rotate_maintenance(context: &Context) -> anyhow::Result<()> {
    refuse_command(context, Role::Maintenance)?;
    let path = &context.config.keys.maintenance_key;
    let root = root(context).await?;
    let file = root.opening_file(Some(Secret32::generate()?))?;
    let signer = Signer::new(file.signing()?.verifying(), "keeper", SignerRole::Keeper);
    let new = with_ending(path, NEW);
    give_up(&new)?;
    write_opening(&new, Role::Maintenance, &file)?;
    let now_us = root.store_time_us("keeper's key replaced").await?;
    let recipient = recipient("maintenance", Role::Maintenance, &file);
    let number = root
        .next(|period| {
            period
                .recipients
                .retain(|recipient| recipient.role != Role::Maintenance);
            period.recipients.push((&recipient).into());
            for signer in period
                .signers
                .iter_mut()
                .filter(|signer| signer.role == SignerRole::Keeper)
            {
                signer.revoked_us.get_or_insert(now_us);
            }
            period.signers.push(signer);
            Ok(())
        })
        .await?;
    replace(path, &new, number)?;
    println!(
        "\"{}\" is the keeper's key now (period {number}). Copy it to where prune and verify run.",
        path.display()
    );
    Ok(())
}

/// A new key is written to its file; where a command prints the key, nobody would find it there.
fn refuse_command(context: &Context, role: Role) -> anyhow::Result<()> {
    let keys = &context.config.keys;
    if keys.command(role).is_empty() {
        return Ok(());
    }
    Err(Failure::refused(
        format!("the key comes from {}, which would go on with the old one", keys.origin(role).display()),
        "Put the key into a file and name that under [keys] for as long as this takes; then have the command print the new file.",
    )
    .into())
}

/// Another restore key, and another root. It opens what was sealed to the ones before; these open nothing that is stored from now on.
pub(super) async fn rotate_restore(context: &Context) -> anyhow::Result<()> {
    refuse_command(context, Role::Restore)?;
    let path = &context.config.keys.restore_key;
    let new = with_ending(path, NEW);
    // One that was made by a try that was interrupted may be the root already.
    let file = if new.exists() {
        context.opening_key_in(&new, Role::Restore)?
    } else {
        root(context).await?;
        let before = context.opening_key_in(path, Role::Restore)?;
        let file = fresh_root(&before)?;
        write_opening(&new, Role::Restore, &file)?;
        file
    };
    let before = key_id(&context.opening_key_in(path, Role::Restore)?.key.public());
    // Once it has signed a period it is the one to go on with: the old key does not open what came since.
    let store = context.object_store(command_policy())?;
    let root = match Repository::open_as_restorer(store, &file).await {
        Ok(repository) => Root {
            repository: Arc::new(repository),
            signing: file.signing()?,
            file: file.clone(),
        },
        Err(_) => root_of_now_or_before(context).await?,
    };
    let name = root
        .repository
        .period()
        .recipients
        .iter()
        .find(|one| key_id(&one.public) == before)
        .map(|one| one.name.clone());
    let name = name.unwrap_or_else(|| "restore".into());
    // First the root changes hands, signed by the old one; then the new one says that the old key is a recipient no more.
    if root.repository.period().root() != file.root {
        let added = recipient(&name, Role::Restore, &file);
        root.next(|period| {
            period.hand_over(file.signing()?.verifying());
            period.recipients.push((&added).into());
            Ok(())
        })
        .await?;
    }
    let root = Root {
        signing: file.signing()?,
        ..root
    };
    let number = root
        .next(|period| {
            period
                .recipients
                .retain(|recipient| key_id(&recipient.public) != before);
            Ok(())
        })
        .await?;
    let replaced = replace(path, &new, number)?;
    println!(
        "\"{}\" is the restore key now (period {number}). Copy it to a safe place off this host NOW.",
        path.display()
    );
    println!(
        "\"{}\" opens what was stored until now; the new one opens that, too.",
        replaced.display()
    );
    Ok(())
}

/// Another who can restore.
pub(super) async fn add_recipient(context: &Context, name: &str, output: &Path) -> anyhow::Result<()> {
    let root = root(context).await?;
    refuse_known(&root.repository.period(), name)?;
    let file = root.opening_file(None)?;
    write_opening(output, Role::Restore, &file)?;
    let added = recipient(name, Role::Restore, &file);
    let number = root
        .next(|period| {
            period.recipients.push((&added).into());
            Ok(())
        })
        .await?;
    println!(
        "{name} restores with \"{}\" (period {number}): all that is stored, and what will be.",
        output.display()
    );
    Ok(())
}

/// Nothing new is sealed to a recipient any more.
pub(super) async fn remove_recipient(context: &Context, name: &str) -> anyhow::Result<()> {
    let root = root(context).await?;
    let me = key_id(&root.file.key.public());
    let number = root
        .next(|period| {
            let before = period.recipients.len();
            if period
                .recipients
                .iter()
                .any(|one| one.name == name && key_id(&one.public) == me)
            {
                return Err(Failure::refused(
                    "that is the restore key which says who is trusted",
                    "`wal-agent key rotate restore` replaces it.",
                )
                .into());
            }
            period
                .recipients
                .retain(|one| one.name != name || one.role != Role::Restore);
            if period.recipients.len() == before {
                return Err(Failure::refused(
                    format!("no restorer is called \"{name}\""),
                    "`wal-agent key show` lists them.",
                )
                .into());
            }
            Ok(())
        })
        .await?;
    println!("Nothing new is sealed to {name} (period {number}). What is stored already, {name} can still open.");
    Ok(())
}

/// A key file for another host.
pub(super) async fn add_host(context: &Context, name: &str, output: &Path) -> anyhow::Result<()> {
    let root = root(context).await?;
    let signing = SigningKey::from_seed(Secret32::generate()?)?;
    let signer = Signer::new(signing.verifying(), name, SignerRole::Host);
    write_host(output, &root.host_keys(signing))?;
    let number = root
        .next(|period| {
            period.signers.push(signer);
            Ok(())
        })
        .await?;
    println!("\"{}\" is the host key of {name} (period {number}).", output.display());
    Ok(())
}

/// So long after the revocation what an agent still confirms counts: it looks whom the repository trusts once a minute, and ends.
const NOTICED_AFTER_US: i64 = 180_000_000;

/// A signing key counts no more.
pub(super) async fn revoke(context: &Context, options: &KeyRevokeOptions) -> anyhow::Result<()> {
    let root = root(context).await?;
    let period = root.repository.period();
    let found = named(&period, &options.signer)?;
    let when = match options.since {
        None => "in three minutes".to_owned(),
        Some(Since::Now) => "now".to_owned(),
        Some(Since::Time(time)) => output::time_us(time.as_microsecond()),
    };
    println!(
        "{} signs as {}. What the repository received from it later than {when} will not count.",
        found.0, found.1
    );
    println!(
        "What it stored before can be restored; the next backup refers to nothing of it and stores everything anew."
    );
    if !options.yes {
        return Err(Failure::refused("nothing was changed, the key counts as before", "Do it with --yes.").into());
    }
    let event = format!("signing key {} revoked", found.1);
    let since = match options.since {
        None => root.store_time_us(&event).await?.saturating_add(NOTICED_AFTER_US),
        Some(Since::Now) => root.store_time_us(&event).await?,
        Some(Since::Time(time)) => time.as_microsecond(),
    };
    let is_host = period
        .signers
        .iter()
        .any(|signer| signer.id == found.1 && signer.role == SignerRole::Host);
    let number = root
        .next(|period| {
            for signer in period.signers.iter_mut().filter(|signer| signer.id == found.1) {
                signer.revoked_us = Some(signer.revoked_us.map_or(since, |before| before.min(since)));
            }
            if is_host {
                // The number is the one that this period gets, or a lower one: all that was written before it is lower.
                period.afresh = period.number + 1;
            }
            Ok(())
        })
        .await?;
    println!(
        "Revoked (period {number}), by the repository's clock from {} on. An agent that signs with it notices within a minute and ends: \
         what it has confirmed until then counts if that is earlier. On a host whose key was replaced it starts again with the new one. Take a backup then.",
        output::time_us(since)
    );
    Ok(())
}

/// The signer of that name or id.
fn named(period: &Period, text: &str) -> anyhow::Result<(String, KeyId)> {
    let valid = period
        .signers
        .iter()
        .filter(|signer| signer.id.to_string() == text || signer.holder == text);
    let mut found: Vec<&Signer> = valid.collect();
    if found.len() > 1 {
        found.retain(|signer| signer.revoked_us.is_none());
    }
    match found.as_slice() {
        [one] => Ok((one.holder.clone(), one.id)),
        [] => Err(Failure::refused(
            format!("no signer is called \"{text}\""),
            "`wal-agent key show` lists them.",
        )
        .into()),
        _ => Err(Failure::refused(
            format!("several signing keys are held by \"{text}\""),
            "Name the one by its key id; `wal-agent key show` lists them.",
        )
        .into()),
    }
}

fn refuse_known(period: &Period, name: &str) -> anyhow::Result<()> {
    if period.recipients.iter().all(|recipient| recipient.name != name) {
        return Ok(());
    }
    Err(Failure::refused(
        format!("there is a recipient called \"{name}\" already"),
        "Choose another name.",
    )
    .into())
}

impl Root {
    /// Makes the next period, with these changes.
    async fn next(&self, change: impl FnOnce(&mut Period) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        let mut period = self.repository.period();
        change(&mut period)?;
        let signing = SigningKey::from_seed(self.signing.seed().clone())?;
        Ok(self.repository.next_period(period, signing, output::now_us()).await?)
    }

    /// A new pair that belongs here.
    fn opening_file(&self, signing_seed: Option<Secret32>) -> anyhow::Result<OpeningKeyFile> {
        Ok(OpeningKeyFile {
            key: OpeningKey::generate()?,
            root: self.repository.period().root(),
            signing_seed,
            ..self.file.clone()
        })
    }

    /// A host key file of this cluster.
    fn host_keys(&self, signing: SigningKey) -> HostKeys {
        HostKeys {
            repository: self.repository.id(),
            cluster: self.repository.cluster().to_owned(),
            cluster_keys: self.repository.keys().clone(),
            signing,
            root: self.repository.period().root(),
        }
    }

    /// The store's time now, from an entry in the ledger.
    async fn store_time_us(&self, event: &str) -> anyhow::Result<i64> {
        let now_us = output::now_us();
        let entry = LedgerEntry {
            time_us: now_us,
            host: host_name(),
            event: "key-revoked".into(),
            detail: event.into(),
        };
        let signing = SigningKey::from_seed(self.signing.seed().clone())?;
        let writer = Writer::new(Arc::clone(&self.repository), Arc::new(signing), 0);
        let name = ledger::put(&writer, &entry).await?;
        let stored = self.repository.store().head(&name).await?;
        let stored = stored.context("what was stored just now is not there")?;
        Ok(stored.modified_unix_ms.saturating_mul(1000))
    }
}

fn fresh_root(before: &OpeningKeyFile) -> anyhow::Result<OpeningKeyFile> {
    let seed = Secret32::generate()?;
    Ok(OpeningKeyFile {
        key: OpeningKey::generate()?,
        root: Some(SigningKey::from_seed(seed.clone())?.verifying()),
        signing_seed: Some(seed),
        ..before.clone()
    })
}

fn recipient(name: &str, role: Role, file: &OpeningKeyFile) -> Recipient {
    Recipient {
        name: name.to_owned(),
        role,
        public: file.key.public(),
    }
}

/// `restore.key` to `restore.key.new`.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Removes what an interrupted try has left: a key that nothing was written with. Where the repository lists it already, nobody signs with it.
fn give_up(new: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove \"{}\"", new.display()))
        }
        _ => Ok(()),
    }
}

/// The new key file takes the place of the one before, which is kept beside it, under a name with the number of the period. At no moment is
/// there none.
fn replace(path: &Path, new: &Path, number: u64) -> anyhow::Result<PathBuf> {
    let failed = || format!("cannot replace \"{}\" by \"{}\"", path.display(), new.display());
    let replaced = with_ending(path, &format!("{REPLACED}-{number}"));
    if path.exists() {
        let before = zeroize::Zeroizing::new(std::fs::read(path).with_context(failed)?);
        store::durable::create_new(&replaced, &before).with_context(failed)?;
    }
    std::fs::rename(new, path).with_context(failed)?;
    if let Some(directory) = path.parent() {
        store::durable::fsync_dir(directory).with_context(failed)?;
    }
    Ok(replaced)
}
