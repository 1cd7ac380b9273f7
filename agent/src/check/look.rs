//! What `check` looks at before it writes a record.

use std::path::Path;

use anyhow::Context as _;
use config::RepositoryUrl;
use pg::preflight::{Finding, Severity};
use store::StoreError;
use store::object::probe::{Probed, probe};
use store::repository::{Repository, describe};
use tokio_postgres::Client;

use super::report::Area;
use crate::health::rules::CLOCKS_APART_MAX_MS;
use crate::open::{Context, command_policy, requests};
use crate::{component, disk, exit, key, output, preflight, sql};

const RULE_HINT: &str =
    "Remove that lifecycle rule, or have it spare this prefix: `wal-agent prune` is what deletes here.";

/// Settings and rights, and whether somebody streams from the slot.
pub(super) async fn server(
    context: &Context,
    client: &Client,
    pushes: bool,
    findings: Vec<Finding>,
) -> anyhow::Result<Area> {
    let version = preflight::show(client, "server_version").await?;
    let role = match sql::is_standby(client).await? {
        true => "a standby",
        false => "a primary",
    };
    let slot_name = &context.cluster.wal.slot;
    let slot = sql::slot(client, slot_name).await?;
    let state = match &slot {
        _ if pushes => "it pushes WAL by archive_command".to_owned(),
        None => format!("slot \"{slot_name}\" is missing"),
        Some(slot) if slot.active => format!("slot \"{slot_name}\" is streamed from"),
        Some(_) => format!("nobody streams from slot \"{slot_name}\""),
    };
    let mut area = Area::good("server", format!("PostgreSQL {version}, {role}; {state}")).with(findings);
    if slot.is_none() && !pushes {
        let hint = "`wal-agent init` makes it, and so does the agent when it starts.";
        area.find(Severity::Warning, format!("slot \"{slot_name}\" is missing"), hint);
    }
    Ok(area)
}

/// Key files that are here, against what the repository says of them.
pub(super) async fn keys(context: &Context) -> anyhow::Result<Area> {
    let checked = key::check_files(context).await?;
    let names: Vec<&str> = checked.iter().map(|file| file.word).collect();
    let mut area = Area::good("keys", format!("{} looked at", names.join(", ")));
    for file in checked {
        if let Some(problem) = file.problem {
            let hint = "`wal-agent key show` says whom the repository trusts.";
            let severity = match file.is_elsewhere {
                true => Severity::Notice,
                false => Severity::Error,
            };
            area.find(
                severity,
                format!("{} {}: {problem}", file.word, file.path.display()),
                hint,
            );
        }
    }
    Ok(area)
}

/// Reads, writes, tries what must not work, and asks who else deletes.
pub(super) async fn repository(context: &Context, repository: &Repository) -> anyhow::Result<(Area, Probed)> {
    let store = repository.store();
    let suffix = store::id::hex(&store::entropy::bytes::<8>()?);
    let probed = probe(store.as_ref(), &suffix)
        .await
        .context("cannot write to the repository")?;
    let place = &context.config.repository;
    let mut area = Area::good(
        "repository",
        format!(
            "{} is readable and writable, create-only {}",
            place.url,
            match probed.create_only {
                true => "holds",
                false => "is IGNORED by the store",
            }
        ),
    );
    if !probed.create_only {
        let hint = "Run one agent only, and no other writer; or take a store that keeps `If-None-Match: *`.";
        area.find(
            Severity::Warning,
            "the store overwrites what was to be created".into(),
            hint,
        );
    }
    if matches!(place.url, RepositoryUrl::Local { .. }) {
        return Ok((area, probed));
    }
    if probed.may_delete && !store.capabilities().locks {
        let hint = "Take the right to delete from this key: OPERATIONS, \"The repository on S3\"; or lock objects (object_lock and lock_for).";
        area.find(
            Severity::Warning,
            "this host may delete objects: who takes it over can delete all backups".into(),
            hint,
        );
    }
    let unknown = match store.expiry_rules().await {
        Err(error) => Some(format!(": {error}")),
        Ok(None) => Some(String::new()),
        Ok(Some(rules)) => {
            for rule in rules {
                area.find(
                    Severity::Error,
                    format!("a lifecycle rule of the bucket {rule}"),
                    RULE_HINT,
                );
            }
            None
        }
    };
    if let Some(why) = unknown {
        area.find(
            Severity::Notice,
            format!("the bucket does not tell us whether it has lifecycle rules{why}"),
            "Allow s3:GetLifecycleConfiguration, or see yourself that no rule expires objects under the prefix.",
        );
    }
    Ok((area, probed))
}

/// Each copy can be reached, and is one of this repository.
pub(super) async fn copies(context: &Context, repository: &Repository) -> anyhow::Result<Vec<Area>> {
    let mut areas = Vec::new();
    for (name, place) in &context.config.copies {
        let opened = config::open::object_store(place, requests(command_policy())).map_err(StoreError::from);
        let (described, rules) = match opened {
            Ok(store) => (describe(store.as_ref()).await, store.expiry_rules().await),
            Err(error) => (Err(error), Ok(None)),
        };
        let mut area = Area::good("copy", format!("\"{name}\" at {}", place.url));
        match described {
            Ok(description) if description.repository == repository.id() => {}
            Ok(_) => area.find(
                Severity::Error,
                format!("what lies in \"{name}\" is another repository"),
                "Correct its url, or empty that place.",
            ),
            Err(error) => area.find(
                Severity::Warning,
                format!("\"{name}\" cannot be read: {error}"),
                format!("Where it was never made: `wal-agent copy {name}`."),
            ),
        }
        for rule in rules.ok().flatten().unwrap_or_default() {
            area.find(
                Severity::Error,
                format!("a lifecycle rule of \"{name}\" {rule}"),
                RULE_HINT,
            );
        }
        areas.push(area);
    }
    Ok(areas)
}

/// Times of the server decide what `--target-time` means, those of the repository what may be deleted.
pub(super) async fn clocks(client: &Client, probed: &Probed) -> anyhow::Result<Area> {
    let before_ms = output::now_us() / 1000;
    let query = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::pg_catalog.int8";
    let row = client
        .query_one(query, &[])
        .await
        .context("cannot ask the server for its time")?;
    let now_ms = output::now_us() / 1000;
    let server_ms: i64 = row.get::<_, i64>(0) - i64::midpoint(before_ms, now_ms);
    // Some seconds old by now, and a store counts whole seconds.
    let store_ms = probed.stored_unix_ms - now_ms;
    let seconds = |ms: i64| ms.abs() as f64 / 1000.0;
    let mut area = Area::good(
        "clocks",
        format!(
            "the server's is {:.1} s from ours, the repository's {:.0} s",
            seconds(server_ms),
            seconds(store_ms)
        ),
    );
    for (whose, apart_ms) in [("the server's", server_ms), ("the repository's", store_ms)] {
        if apart_ms.abs() > CLOCKS_APART_MAX_MS {
            let problem = format!("{whose} clock and ours are {:.0} s apart", seconds(apart_ms));
            area.find(Severity::Warning, problem, "Set them by NTP.");
        }
    }
    Ok(area)
}

/// How full the disks are that would stop us, or the server.
pub(super) async fn disks(context: &Context, client: &Client) -> Area {
    let directory = preflight::show(client, "data_directory").await.ok();
    let pg_wal = directory.map(|directory| Path::new(&directory).join("pg_wal"));
    let (disks, objectives) = (disk::disks(context, pg_wal.as_deref()), &context.cluster.objectives);
    let said = disks.iter().map(|disk| {
        let total = output::bytes(disk.total_bytes);
        format!("{} {:.0} % of {total} full", disk.what, disk.used_percent())
    });
    let mut area = Area::good("disks", said.collect::<Vec<_>>().join(", "));
    for disk in disks.iter().filter(|disk| disk.used_percent() >= objectives.disk_warn) {
        let hint = "Make room, or a larger disk: a full one stops the server, or the archive.";
        let problem = format!("the disk of {} is {:.0} % full", disk.what, disk.used_percent());
        area.find(Severity::Warning, problem, hint);
    }
    area
}

/// Could each component be captured now? Nothing is read but what that takes to know.
pub(super) async fn components(context: &Context) -> Vec<Area> {
    let mut areas = Vec::new();
    for component in component::of_cluster(context) {
        let looked = match component::of_kind(&component.kind, &context.cluster.postgres, false) {
            Ok(system) => system
                .look()
                .await
                .map(|look| (system.kind(), look))
                .map_err(Into::into),
            Err(error) => Err(error),
        };
        let name = format!("component {}", component.name);
        areas.push(match looked {
            Ok((kind, look)) => {
                let words = [kind.to_owned(), look.version].into_iter().chain(look.notes);
                let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
                Area::good(&name, words.join(", "))
            }
            Err(error) => {
                let mut area = Area::good(&name, "cannot be captured".into());
                let hint = exit::hint(&error).unwrap_or_else(|| {
                    "See that this user may read it, or name something else in its table of the configuration.".into()
                });
                area.find(Severity::Error, format!("{error:#}"), hint);
                area
            }
        });
    }
    areas
}
