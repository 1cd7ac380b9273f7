//! Whom the data directory belongs to, by name: `/etc/passwd` and `/etc/group` are read as files, so that nothing need be asked.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::BackupError;

/// Names of the owner and the group of a directory; `None` where the files do not know them.
pub(super) fn of(directory: &Path) -> Result<(Option<String>, Option<String>), BackupError> {
    let metadata = std::fs::metadata(directory).map_err(|error| BackupError::io("look at", directory, error))?;
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    Ok((
        name_of(&read("/etc/passwd"), metadata.uid()),
        name_of(&read("/etc/group"), metadata.gid()),
    ))
}

/// The name of a number in `name:password:number:...` lines.
fn name_of(text: &str, id: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\npostgres:x:107:113::/var/lib/postgresql:/bin/bash\n";
        assert_eq!(name_of(text, 107).as_deref(), Some("postgres"));
        assert_eq!(name_of(text, 113), None);
    }
}
