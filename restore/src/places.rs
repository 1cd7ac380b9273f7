//! With `confirm = "any"` a copy may have more than the repository: then it is no place to restore from.

use std::sync::Arc;
use std::time::Duration;

use store::id::LineageId;
use store::object::mirrored::Confirm;

use crate::error::{RestoreError, Result};
use crate::open::{Opened, requests};

/// How long a copy is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Refuses the repository where a copy has later WAL of the lineage; returns what could not be seen.
pub(crate) async fn refuse_older(opened: &Opened, lineage: LineageId) -> Result<Vec<String>> {
    let config = &opened.config;
    let mut unseen = Vec::new();
    if config.confirm != Confirm::Any || opened.copy.is_some() || config.copies.is_empty() {
        return Ok(unseen);
    }
    let ours = opened.repository.coverage(lineage).await?.newest_end();
    for (name, place) in &config.copies {
        let seen = async {
            let store = config::open::object_store(place, requests(PATIENCE)).map_err(store::StoreError::from)?;
            let copy = opened.repository.over(Arc::clone(&store));
            Ok::<_, store::StoreError>(copy.coverage(lineage).await?.newest_end())
        };
        match seen.await {
            Ok(theirs) if theirs > ours => {
                let until = |end: Option<pg::lsn::Lsn>| end.map_or("nothing".to_owned(), |end| end.to_string());
                return Err(RestoreError::refused(
                    format!(
                        "the copy \"{name}\" has WAL until {}, the repository until {}: what it lacks was confirmed",
                        until(theirs),
                        until(ours)
                    ),
                    format!("Restore from there with --copy {name}."),
                ));
            }
            Ok(_) => {}
            Err(error) => unseen.push(format!(
                "the copy \"{name}\" could not be seen, and may have later WAL than the repository: {error}"
            )),
        }
    }
    Ok(unseen)
}
