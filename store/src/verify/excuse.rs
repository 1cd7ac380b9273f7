//! Damage that spares make up for is none to whoever restores.

use super::{Finding, Severity};
use crate::error::StoreError;
use crate::object::ObjectName;
use crate::repository::{MadeUp, Repository};

/// Lowers damage to a notice where spares make up for it wholly, and says how far they do elsewhere.
///
/// # Errors
/// The store failed.
pub async fn excuse(repository: &Repository, findings: &mut [Finding]) -> Result<(), StoreError> {
    for finding in findings
        .iter_mut()
        .filter(|finding| finding.severity == Severity::Damage)
    {
        let Ok(name) = ObjectName::new(finding.object.clone()) else {
            continue;
        };
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
