//! Damage of an object that spares make up for is none to whoever restores. What it leads to is another matter.

use super::{Finding, Severity, is_damaged};
use crate::catalog::Coverage;
use crate::error::StoreError;
use crate::inventory::Named;
use crate::layout::{Layout, WalName};
use crate::object::ObjectName;
use crate::repository::{MadeUp, Repository};

/// Lowers damage to a notice where spares make up for it wholly, or nothing is lost by it, and says how far they do elsewhere.
///
/// # Errors
/// The store failed.
pub async fn excuse(repository: &Repository, findings: &mut [Finding]) -> Result<(), StoreError> {
    let is_damage = |finding: &&mut Finding| finding.is_its_own && finding.severity == Severity::Damage;
    for finding in findings.iter_mut().filter(is_damage) {
        let Ok(name) = ObjectName::new(finding.object.clone()) else {
            continue;
        };
        if matches!(repository.layout().parse(name.as_str()), Some(Named::Index(_))) {
            finding.severity = Severity::Notice;
            finding.reason = format!(
                "{}; nothing is lost with it, backups only know less of what is stored, and `wal-agent repair` makes it anew",
                finding.reason
            );
            continue;
        }
        if repository.spares_of(&name).is_empty() || !is_unreadable(repository, &name).await? {
            continue;
        }
        match repository.made_up(&name).await? {
            MadeUp::Nothing => {}
            MadeUp::Chunks(held, chunks) => {
                finding.reason = format!("{}; {held} of its {chunks} chunks can be read", finding.reason);
            }
            MadeUp::Wholly => {
                finding.severity = Severity::Notice;
                finding.reason = format!(
                    "{}; what can be read of it and of its spares makes up for that",
                    finding.reason
                );
            }
        }
    }
    Ok(())
}

/// Lowers damage of WAL to a notice where other objects hold the same, whole: a restore reads these. What somebody has planted stays what it is.
pub fn excuse_covered(layout: &Layout, coverages: &[Coverage], findings: &mut [Finding]) {
    let is_damage = |finding: &&mut Finding| finding.is_its_own && finding.severity == Severity::Damage;
    let range_of = |finding: &Finding| match layout.parse_wal(&finding.object) {
        Some(WalName::Range(range)) => Some(range),
        _ => None,
    };
    let mut whole = coverages.to_vec();
    for bad in findings.iter().filter_map(range_of) {
        whole.iter_mut().for_each(|coverage| coverage.remove(&bad));
    }
    for finding in findings.iter_mut().filter(is_damage) {
        let Some(range) = range_of(finding).filter(|_| !finding.is_planted) else {
            continue;
        };
        let coverage = whole.iter().find(|coverage| coverage.lineage == range.lineage);
        if coverage.is_some_and(|coverage| coverage.missing(range.timeline, range.start, range.end).is_empty()) {
            finding.severity = Severity::Notice;
            finding.reason = format!("{}; other objects hold the same WAL", finding.reason);
        }
    }
}

/// What is whole is not made up for by anything: what was found of it then is something else.
async fn is_unreadable(repository: &Repository, name: &ObjectName) -> Result<bool, StoreError> {
    let Some(named) = repository.layout().parse(name.as_str()) else {
        return Ok(false);
    };
    match repository.store().head(name).await? {
        None => Ok(true),
        Some(meta) => is_damaged(repository, named, &meta).await,
    }
}
