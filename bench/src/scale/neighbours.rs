//! Many clusters in one bucket: what one of them sees of the others.

use std::path::Path;
use std::sync::Arc;

use store::id::{BackupId, LineageId};
use store::inventory::Inventory;
use store::keys::SigningKey;
use store::object::local::LocalStore;
use store::pipeline::{commit, earlier};
use store::records::Intent;
use store::repository::{Created, NewRepository, Repository, Writer, create};
use store::testing::RecordingStore;
use store::testing::manifest::empty_manifest;

use super::place::Failed;

/// Requests of one cluster's host and keeper.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// All of them.
    pub requests: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Those that name another cluster's part, or all of them.
    pub elsewhere: usize,
}

async fn add(root: &Path, cluster: &str, now_us: i64) -> Result<Created, Failed> {
    let new = NewRepository {
        cluster,
        host: "bench",
        now_us,
        now_text: "2026-01-01T00:00:00Z",
        creator: "bench",
    };
    let store = Arc::new(LocalStore::create(root.to_owned())?);
    let (created, repository) = create(store, new, |_| Ok(())).await?;
    let signing = SigningKey::from_seed(created.host.signing.seed().clone())?;
    let writer = Writer::new(repository, Arc::new(signing), 0);
    let backup = BackupId::from_parts(u64::try_from(now_us / 1000)?, [1; 10]);
    let intent = Intent {
        backup,
        host: "bench".into(),
        begun_us: now_us,
    };
    commit::put_intent(&writer, &intent).await?;
    commit::put_manifest(&writer, &empty_manifest(backup, LineageId::from_parts(1, [1; 10]))).await?;
    Ok(created)
}

/// Makes so many clusters, each with a backup; then what a host asks before a backup and a keeper before it looks at everything, in one of them.
///
/// # Errors
/// Anything that fails.
pub async fn look(root: &Path, clusters: u32, now_us: i64) -> Result<Seen, Failed> {
    let mut one = None;
    for number in 0..clusters {
        let created = add(root, &format!("c{number}"), now_us).await?;
        if number == clusters / 2 {
            one = Some(created);
        }
    }
    let one = one.ok_or("no cluster")?;
    let store = Arc::new(RecordingStore::new(LocalStore::open(root.to_owned())?));
    let host = Repository::open_as_host(store.clone(), &one.host).await?;
    earlier::load(&host, None).await?;
    let keeper = Repository::open_as_keeper(store.clone(), &one.maintenance).await?;
    Inventory::of(&keeper).await?;
    let own = host.layout().prefix_of_all();
    let is_elsewhere = |name: &str| name != "seawall.json" && !name.starts_with(&own);
    let counts = store.counts();
    Ok(Seen {
        requests: counts.requests(),
        lists: counts.list,
        elsewhere: store.calls().iter().filter(|(_, name)| is_elsewhere(name)).count(),
    })
}
