//! `wal-agent init`: repository, keys, slots (or none, for `archive_command`), first lineage. Everything is looked at before anything is made.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::replication::{ReplicationSession, SlotCreation, SlotName};
use store::StoreError;
use store::envelope::Kind;
use store::id::LineageId;
use store::keys::Role;
use store::keys::file::{HOST_KEY, MAINTENANCE_KEY, RESTORE_KEY, write_host, write_opening};
use store::object::probe::{probe_create_only, probe_lock};
use store::records::Lineage;
use store::repository::{Created, NewObject, NewRepository, Repository, Writer, create};

use crate::cli::InitOptions;
use crate::exit::{Failure, OTHER_SERVER_HINT};
use crate::open::{Context, command_policy, host_name, requests};
use crate::output;

/// Runs the command.
pub async fn run(context: &Context, options: &InitOptions) -> anyhow::Result<()> {
    if context.config.keys.host_key.exists() {
        return adopt(context, options).await;
    }
    may_finish(options)?;
    let (server, connect) = look_at_server(context, options.no_slots).await?;
    let store = config::open::create_object_store(&context.config.repository, requests(command_policy()))
        .with_context(|| format!("cannot open the repository at {}", context.config.repository.url))?;
    let suffix = store::id::hex(&store::entropy::bytes::<8>()?);
    if !probe_create_only(store.as_ref(), &suffix)
        .await
        .context("cannot write to the repository")?
    {
        tracing::warn!(url = %context.config.repository.url, "the store ignores If-None-Match: only one writer is safe here; set conditional_put = false in [repository.s3]");
    }
    if store.capabilities().locks && !probe_lock(store.as_ref(), &suffix).await.context("cannot lock")? {
        return Err(Failure {
            code: crate::exit::UNREACHABLE,
            message: "the service takes an object lock and does not keep to it: a locked object was deleted".into(),
            hint: Some("Use a service with object lock, or leave object_lock out of [repository.s3].".into()),
        }
        .into());
    }
    let now_us = output::now_us();
    let new = NewRepository {
        cluster: &context.cluster.name,
        host: &host_name(),
        now_us,
        now_text: &output::time_us(now_us),
        creator: concat!("seawall ", env!("CARGO_PKG_VERSION")),
    };
    let (created, repository) = create(store, new, |created| keep_keys(context, created))
        .await
        .map_err(explain_existing)?;
    let lineage = first_lineage(&repository, &created, &server, now_us).await?;
    if !options.no_slots {
        create_slots(context, &connect).await?;
    }
    report(context, options, &created, lineage)?;
    confirm_copied(context, options)
}

/// Keys are here already: see that everything else is, too.
async fn adopt(context: &Context, options: &InitOptions) -> anyhow::Result<()> {
    let keys = context.host_keys()?;
    let repository = context.repository(command_policy(), &keys).await.context(
        "this host has keys already, and its repository cannot be opened with them: is it mounted, and is the url right? Only if an earlier init was interrupted before \
         anything was backed up, move the keys directory away and run it again",
    )?;
    let (server, connect) = look_at_server(context, options.no_slots).await?;
    match repository
        .lineages()
        .await?
        .into_iter()
        .max_by_key(|lineage| lineage.id)
    {
        None => {
            let writer = Writer::new(Arc::clone(&repository), Arc::new(keys.signing), 0);
            put_lineage(&writer, &server, output::now_us()).await?;
        }
        // Before a slot is taken: on a server that is not ours it would hold WAL back for ever.
        Some(lineage) if lineage.system_identifier != server.system_identifier => {
            return Err(Failure::refused(
                format!(
                    "the server is of another cluster: its system identifier is {}, the repository's {}",
                    server.system_identifier, lineage.system_identifier
                ),
                OTHER_SERVER_HINT,
            )
            .into());
        }
        Some(_) => {}
    }
    if !options.no_slots {
        create_slots(context, &connect).await?;
    }
    if options.json {
        return output::print_json(&serde_json::json!({ "cluster": context.cluster.name, "created": false }));
    }
    println!(
        "Cluster \"{}\" is initialised already at {}{}.",
        context.cluster.name,
        context.config.repository.url,
        if options.no_slots { "" } else { "; its slots are there" }
    );
    Ok(())
}

fn may_finish(options: &InitOptions) -> anyhow::Result<()> {
    if options.single_host || options.confirm_key_copied || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::refused(
        "nobody can confirm that the restore key was copied away: this is not a terminal",
        "Run it on a terminal, or say --confirm-key-copied (you will copy restore.key to a safe place) or --single-host (it stays here only).",
    )
    .into())
}

struct Server {
    system_identifier: u64,
    version: u32,
    segment_bytes: u64,
    timeline: u32,
    flush: u64,
}

/// What the chosen server is, and how to reach that one again.
async fn look_at_server(context: &Context, no_slots: bool) -> anyhow::Result<(Server, ConnectOptions)> {
    let (client, options) = crate::sql::choose(&context.connect_options()?).await?;
    let warnings = if no_slots {
        crate::preflight::refuse_errors_without_slots(&client, &options).await?
    } else {
        crate::preflight::refuse_errors(&client, &options).await?
    };
    for warning in warnings {
        tracing::warn!(problem = %warning.problem, hint = %warning.hint, "preflight");
    }
    let version = crate::preflight::show(&client, "server_version_num").await?;
    let mut session = ReplicationSession::connect(&options)
        .await
        .context("cannot open a replication connection")?;
    let identity = session.identify_system().await?;
    let size = session.segment_size().await?;
    // Without a goodbye a server with TLS logs a reset.
    let _ = session.close().await;
    let server = Server {
        system_identifier: identity.system_identifier.as_u64(),
        version: version.parse().unwrap_or(0),
        segment_bytes: size.bytes(),
        timeline: identity.timeline.as_u32(),
        flush: identity.flush_lsn.as_u64(),
    };
    Ok((server, options))
}

fn keep_keys(context: &Context, created: &Created) -> Result<(), StoreError> {
    let directory = &context.config.keys.directory;
    let io = |action| {
        move |source| StoreError::Io {
            action,
            path: directory.display().to_string(),
            source,
        }
    };
    if !directory.exists() {
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700)
            .create(directory)
            .map_err(io("create"))?;
    }
    write_opening(&context.config.keys.restore_key, Role::Restore, &created.restore)?;
    write_opening(
        &context.config.keys.maintenance_key,
        Role::Maintenance,
        &created.maintenance,
    )?;
    write_host(&context.config.keys.host_key, &created.host)
}

fn explain_existing(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Conflict { .. } => Failure::refused(
            "the repository has a cluster of this name already",
            "Copy its host.key into the keys directory to go on with it, or choose another cluster name.",
        )
        .into(),
        StoreError::KeyFile { path, reason } => Failure::refused(
            format!("key file \"{path}\" {reason}"),
            "It belongs to another cluster or to an init that was interrupted. Move it away, or set [keys] directory to a new place.",
        )
        .into(),
        error => error.into(),
    }
}

async fn first_lineage(
    repository: &Arc<Repository>,
    created: &Created,
    server: &Server,
    now_us: i64,
) -> anyhow::Result<LineageId> {
    let signing = store::keys::SigningKey::from_seed(created.host.signing.seed().clone())?;
    put_lineage(
        &Writer::new(Arc::clone(repository), Arc::new(signing), 0),
        server,
        now_us,
    )
    .await
}

async fn put_lineage(writer: &Writer, server: &Server, now_us: i64) -> anyhow::Result<LineageId> {
    let id = LineageId::from_parts(u64::try_from(now_us / 1000).unwrap_or(0), store::entropy::bytes()?);
    let lineage = Lineage {
        id,
        system_identifier: server.system_identifier,
        server_version: server.version,
        segment_bytes: server.segment_bytes,
        parent: None,
        fork_lsn: None,
        reason: "init".into(),
        created_us: now_us,
        timeline: server.timeline,
        begin_lsn: server.flush,
    };
    let plain = minicbor::to_vec(&lineage)?;
    let object = NewObject {
        lineage: Some(id),
        ..NewObject::metadata(Kind::Lineage, &plain, now_us)
    };
    writer.put(&writer.repository().layout().lineage(id)?, object).await?;
    Ok(id)
}

/// Makes the slot and its `_overlap` companion, which keeps one archived segment on the server to compare with.
pub async fn create_slots(context: &Context, connect: &ConnectOptions) -> anyhow::Result<()> {
    let mut session = ReplicationSession::connect(connect)
        .await
        .context("cannot open a replication connection")?;
    for name in both_slots(context) {
        let slot = SlotName::new(&name)?;
        let created = session
            .create_physical_slot(&slot)
            .await
            .with_context(|| format!("cannot create slot \"{name}\""))?;
        if created == SlotCreation::Created {
            tracing::info!(slot = %name, "slot created");
        }
    }
    let _ = session.close().await;
    Ok(())
}

/// Names of the slot and its companion.
pub fn both_slots(context: &Context) -> [String; 2] {
    let name = &context.cluster.wal.slot;
    [name.clone(), overlap_slot(name)]
}

/// Name of the companion slot.
pub fn overlap_slot(slot: &str) -> String {
    format!("{slot}_overlap")
}

fn report(context: &Context, options: &InitOptions, created: &Created, lineage: LineageId) -> anyhow::Result<()> {
    let keys = &context.config.keys;
    if options.json {
        return output::print_json(&serde_json::json!({
            "cluster": context.cluster.name,
            "created": true,
            "repository": created.host.repository.to_string(),
            "new_repository": created.is_new_repository,
            "lineage": lineage.to_string(),
            "host_key": keys.host_key,
            "restore_key": keys.restore_key,
            "maintenance_key": keys.maintenance_key,
        }));
    }
    let file = |path: &Path| path.display().to_string();
    println!(
        "Cluster \"{}\" is ready at {}.",
        context.cluster.name, context.config.repository.url
    );
    println!("Keys, each of them once in the world until you copy it:");
    println!(
        "  {RESTORE_KEY:16} {}  decrypts everything. Copy it to a safe place off this host NOW;",
        file(&keys.restore_key)
    );
    println!("  {:16} without it no backup can be restored, ever.", "");
    println!(
        "  {MAINTENANCE_KEY:16} {}  for prune and verify; belongs on the keeper's machine.",
        file(&keys.maintenance_key)
    );
    println!(
        "  {HOST_KEY:16} {}  stays here; can add backups, cannot decrypt any.",
        file(&keys.host_key)
    );
    if options.no_slots {
        println!(
            "Next: set archive_mode = on (it needs a restart), archive_command = 'wal-agent archive-push %p' and archive_timeout,"
        );
        println!("then take the first backup with `wal-agent backup`.");
    } else {
        println!("Next: start `wal-agent run`, then take the first backup with `wal-agent backup`.");
    }
    Ok(())
}

fn confirm_copied(context: &Context, options: &InitOptions) -> anyhow::Result<()> {
    if options.single_host || options.confirm_key_copied {
        return Ok(());
    }
    print!(
        "Type \"copied\" once {} lies in a second, safe place: ",
        context.config.keys.restore_key.display()
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "copied" {
        return Ok(());
    }
    Err(Failure::refused(
        "the restore key was not confirmed as copied; everything else is ready",
        "Copy it before you rely on this backup. `wal-agent status` reminds you for as long as it lies on this host.",
    )
    .into())
}
