//! `backup_label` and `tablespace_map`: the two files that make a copy a base backup.
//!
//! `pg_backup_stop` (13, 14: `pg_stop_backup`) hands their text out and a restore writes it.
//! Formats: src/backend/access/transam/xlogbackup.c (`build_backup_content`), xlogrecovery.c
//! (`read_backup_label`, `read_tablespace_map`); docs, "Making a Base Backup Using the Low Level API".

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// Why one of the two files was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A line of backup_label is missing.
    #[error("backup_label has no line \"{key}\"")]
    Missing {
        /// What the line starts with.
        key: &'static str,
    },
    /// A line of backup_label cannot be read.
    #[error("backup_label has an invalid line \"{key}\"")]
    Invalid {
        /// What the line starts with.
        key: &'static str,
    },
    /// A line of tablespace_map is not `oid path`.
    #[error("tablespace_map has an invalid line {line}")]
    Tablespace {
        /// Number of the entry, from 1.
        line: usize,
    },
}

/// Where a base backup was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupFrom {
    /// A primary (13, 14 write `master`).
    Primary,
    /// A standby.
    Standby,
}

/// What backup_label says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Redo LSN of the backup's checkpoint: recovery starts here.
    pub start_lsn: Lsn,
    /// Name of the segment that holds it.
    pub start_segment_name: String,
    /// LSN of the checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// Primary or standby.
    pub backup_from: BackupFrom,
    /// Timeline on which the backup started.
    pub start_timeline: TimelineId,
    /// The label given to `pg_backup_start`.
    pub label: String,
    /// When it started, in the server's words.
    pub start_time: String,
}

impl BackupLabel {
    /// Reads the file.
    ///
    /// # Errors
    /// [`LabelError`] names the line.
    pub fn parse(bytes: &[u8]) -> Result<BackupLabel, LabelError> {
        let text = String::from_utf8_lossy(bytes);
        let find = |key: &'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.ok_or(LabelError::Missing { key })
        };
        const START: &str = "START WAL LOCATION";
        let (start_lsn, file) = find(START)?
            .split_once(" (file ")
            .and_then(|(lsn, rest)| Some((lsn.parse().ok()?, rest.strip_suffix(')')?)))
            .ok_or(LabelError::Invalid { key: START })?;
        if file.len() != 24 || !file.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(LabelError::Invalid { key: START });
        }
        const CHECKPOINT: &str = "CHECKPOINT LOCATION";
        const FROM: &str = "BACKUP FROM";
        const TIMELINE: &str = "START TIMELINE";
        let checkpoint_lsn = find(CHECKPOINT)?.parse();
        let timeline = find(TIMELINE)?.parse().ok().and_then(TimelineId::new);
        Ok(BackupLabel {
            start_lsn,
            start_segment_name: file.to_owned(),
            checkpoint_lsn: checkpoint_lsn.map_err(|_| LabelError::Invalid { key: CHECKPOINT })?,
            backup_from: match find(FROM)? {
                "primary" | "master" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                _ => return Err(LabelError::Invalid { key: FROM }),
            },
            start_timeline: timeline.ok_or(LabelError::Invalid { key: TIMELINE })?,
            label: find("LABEL")?.to_owned(),
            start_time: find("START TIME")?.to_owned(),
        })
    }
}

/// Reader of tablespace_map.
#[derive(Clone, Copy, Debug)]
pub struct TablespaceMap;

impl TablespaceMap {
    /// The tablespaces with their oid and the path that their link in `pg_tblspc` points to, in
    /// the order of the file. In a path `\` takes the meaning from a following newline, carriage
    /// return or `\`. (13 does not write `\` for a `\` in the path itself; such a path is read
    /// without it, as newer servers do.)
    ///
    /// # Errors
    /// [`LabelError::Tablespace`].
    pub fn parse(bytes: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, LabelError> {
        let mut entries = Vec::new();
        let mut entry = Vec::new();
        let mut escaped = false;
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' if !escaped => push_entry(&mut entries, &mut entry)?,
                b'\\' if !escaped => escaped = true,
                plain => {
                    entry.push(plain);
                    escaped = false;
                }
            }
        }
        // The server refuses a last line that does not end; so do we, it may be cut off.
        if escaped || !entry.is_empty() {
            return Err(LabelError::Tablespace {
                line: entries.len() + 1,
            });
        }
        Ok(entries)
    }
}

/// Moves a whole line, when there is one, to the entries.
fn push_entry(entries: &mut Vec<(u32, Vec<u8>)>, entry: &mut Vec<u8>) -> Result<(), LabelError> {
    if entry.is_empty() {
        return Ok(());
    }
    let line = std::mem::take(entry);
    let invalid = LabelError::Tablespace {
        line: entries.len() + 1,
    };
    let parsed = line.iter().position(|b| *b == b' ').and_then(|space| {
        let (digits, path) = line.split_at_checked(space)?;
        let oid: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let path = path.get(1..).filter(|path| !path.is_empty())?;
        (oid != 0).then(|| (oid, path.to_vec()))
    });
    entries.push(parsed.ok_or(invalid)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-05-04 03:02:01 UTC\n\
        LABEL: nightly: one (file x)\n\
        START TIMELINE: 1\n";

    #[test]
    fn a_label_is_read() {
        let label = BackupLabel::parse(LABEL.as_bytes()).unwrap();
        assert_eq!(label.start_lsn, Lsn::new(0x200_0028));
        assert_eq!(label.start_segment_name, "000000010000000000000002");
        assert_eq!(label.checkpoint_lsn, Lsn::new(0x200_0060));
        assert_eq!(label.backup_from, BackupFrom::Primary);
        assert_eq!(label.start_timeline, TimelineId::FIRST);
        assert_eq!(label.label, "nightly: one (file x)");
        assert_eq!(label.start_time, "2026-05-04 03:02:01 UTC");
        let old = LABEL.replace("primary", "master");
        assert_eq!(
            BackupLabel::parse(old.as_bytes()).unwrap().backup_from,
            BackupFrom::Primary
        );
    }

    #[test]
    fn a_missing_or_broken_line_is_named() {
        let cut = LABEL.replace("START TIMELINE: 1\n", "");
        let missing = LabelError::Missing { key: "START TIMELINE" };
        assert_eq!(BackupLabel::parse(cut.as_bytes()), Err(missing));
        for (from, to, key) in [
            ("primary", "elsewhere", "BACKUP FROM"),
            ("0/2000060", "nowhere", "CHECKPOINT LOCATION"),
            ("000000010000000000000002)", "../../etc)", "START WAL LOCATION"),
            ("TIMELINE: 1", "TIMELINE: 0", "START TIMELINE"),
        ] {
            let broken = LABEL.replace(from, to);
            assert_eq!(BackupLabel::parse(broken.as_bytes()), Err(LabelError::Invalid { key }));
        }
    }

    #[test]
    fn tablespace_paths_lose_their_escapes() {
        let map = TablespaceMap::parse(b"16385 /srv/a b\n16386 /srv/new\\\nline\\\\x\n").unwrap();
        assert_eq!(
            map,
            [(16385, b"/srv/a b".to_vec()), (16386, b"/srv/new\nline\\x".to_vec())]
        );
        assert_eq!(TablespaceMap::parse(b""), Ok(Vec::new()));
        for bad in [&b"16385 /cut"[..], b"x /srv\n", b"16385\n", b"0 /srv\n", b"16385 \n"] {
            assert_eq!(TablespaceMap::parse(bad), Err(LabelError::Tablespace { line: 1 }));
        }
    }

    proptest! {
        #[test]
        fn any_path_comes_back(path in proptest::collection::vec(1u8.., 1..40)) {
            let mut line = b"5 ".to_vec();
            for byte in &path {
                if matches!(byte, b'\n' | b'\r' | b'\\') {
                    line.push(b'\\');
                }
                line.push(*byte);
            }
            line.push(b'\n');
            prop_assert_eq!(TablespaceMap::parse(&line), Ok(vec![(5, path)]));
        }
    }
}
