//! Are the tablespaces there that the data directory links to? An empty mount point looks like a tablespace without files.

use std::path::Path;
use std::time::Duration;

use store::manifest::Tablespace;

use super::error::BackupError;
use super::sql::RawText;

/// DROP TABLESPACE removes the directory first and the link behind it.
const DROPPING: Duration = Duration::from_secs(2);

/// Fails when a link of a tablespace is there and the directory of this version behind it is not.
pub(super) async fn are_there(
    data_directory: &Path,
    tablespaces: &[Tablespace],
    version: &str,
) -> Result<(), BackupError> {
    if missing(data_directory, tablespaces, version).is_some() {
        tokio::time::sleep(DROPPING).await;
    }
    match missing(data_directory, tablespaces, version) {
        None => Ok(()),
        Some(tablespace) => Err(BackupError::TablespaceMissing {
            location: RawText(tablespace.location.to_vec()).path(),
        }),
    }
}

fn missing<'a>(data_directory: &Path, tablespaces: &'a [Tablespace], version: &str) -> Option<&'a Tablespace> {
    tablespaces.iter().find(|tablespace| {
        let link = data_directory.join("pg_tblspc").join(tablespace.oid.to_string());
        !tablespace.in_place && link.is_symlink() && !link.join(version).is_dir()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_mount_point_is_no_tablespace_and_a_dropped_one_is_not_missed() {
        let scratch = std::env::temp_dir().join(format!("seawall-tablespaces-{}", std::process::id()));
        let (data, outside) = (scratch.join("data"), scratch.join("outside"));
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        std::fs::create_dir_all(outside.join("PG_15_1")).unwrap();
        std::os::unix::fs::symlink(&outside, data.join("pg_tblspc/7")).unwrap();
        let tablespaces = [7, 8].map(|oid| Tablespace {
            oid,
            location: Vec::new().into(),
            in_place: false,
        });
        assert!(are_there(&data, &tablespaces, "PG_15_1").await.is_ok());
        assert!(are_there(&data, &tablespaces, "PG_16_2").await.is_err());
        std::fs::remove_file(data.join("pg_tblspc/7")).unwrap();
        assert!(are_there(&data, &tablespaces, "PG_15_1").await.is_ok());
        std::fs::remove_dir_all(scratch).unwrap();
    }
}
