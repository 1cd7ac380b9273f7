//! PostgreSQL's own `backup_manifest`, by which `pg_verifybackup` judges a data directory (PostgreSQL docs, "Backup Manifest Format").
//!
//! Checksums are CRC-32C, printed as the four bytes of the number in little-endian order. The last line is the SHA-256 of
//! everything before it. Version 2 (PostgreSQL 17 and later) names the cluster as well.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

use crate::lsn::Lsn;

/// A file in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Path relative to the data directory.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// CRC-32C of its bytes, if it is known.
    pub crc32c: Option<u32>,
}

impl ManifestFile {
    /// A file whose bytes are at hand.
    #[must_use]
    pub fn of(path: impl Into<Vec<u8>>, bytes: &[u8]) -> Self {
        ManifestFile {
            path: path.into(),
            size: bytes.len() as u64,
            crc32c: Some(crc32c::crc32c(bytes)),
        }
    }
}

/// What a manifest says about the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFacts<'a> {
    /// Major version of the server.
    pub major: u32,
    /// System identifier.
    pub system_identifier: u64,
    /// When the files were read, as `2026-11-26 04:18:00 GMT`.
    pub modified: &'a str,
    /// Timeline, start and end of the WAL that is needed to make the files consistent.
    pub wal: (u32, Lsn, Lsn),
}

/// The bytes of a manifest.
#[must_use]
pub fn encode(facts: &ManifestFacts<'_>, files: &[ManifestFile]) -> Vec<u8> {
    let mut out = String::from("{ ");
    // Writing to a string does not fail.
    let _ = match facts.major {
        17.. => write!(
            out,
            "\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {},\n",
            facts.system_identifier
        ),
        _ => out.write_str("\"PostgreSQL-Backup-Manifest-Version\": 1,\n"),
    };
    out.push_str("\"Files\": [");
    for (at, file) in files.iter().enumerate() {
        out.push_str(if at == 0 { "\n{ " } else { ",\n{ " });
        push_path(&mut out, &file.path);
        let _ = write!(
            out,
            ", \"Size\": {}, \"Last-Modified\": \"{}\"",
            file.size, facts.modified
        );
        if let Some(crc) = file.crc32c {
            let _ = write!(
                out,
                ", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\"",
                hex(&crc.to_le_bytes())
            );
        }
        out.push_str(" }");
    }
    let (timeline, start, end) = facts.wal;
    let _ = write!(
        out,
        "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}\n],\n"
    );
    let sum = digest(&SHA256, out.as_bytes());
    let _ = writeln!(out, "\"Manifest-Checksum\": \"{}\"}}", hex(sum.as_ref()));
    out.into_bytes()
}

/// A path that JSON can hold as it is, or its bytes in hex.
fn push_path(out: &mut String, path: &[u8]) {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\');
    let _ = match std::str::from_utf8(path) {
        Ok(text) if path.iter().all(is_plain) => write!(out, "\"Path\": \"{text}\""),
        _ => write!(out, "\"Encoded-Path\": \"{}\"", hex(path)),
    };
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_json_in_lines_with_its_own_checksum_last() {
        let files = [
            ManifestFile::of("PG_VERSION", b"17\n"),
            ManifestFile {
                path: b"base/5/\xe0\"".to_vec(),
                size: 8192,
                crc32c: None,
            },
        ];
        let facts = ManifestFacts {
            major: 17,
            system_identifier: 7_000_000_000_000_000_001,
            modified: "2026-11-26 04:18:00 GMT",
            wal: (1, Lsn::new(0x200_0028), Lsn::new(0x200_0100)),
        };
        let text = String::from_utf8(encode(&facts, &files)).unwrap();
        assert!(text.starts_with(
            "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7000000000000000001,\n\"Files\": [\n"
        ));
        assert!(text.contains("{ \"Path\": \"PG_VERSION\", \"Size\": 3, "), "{text}");
        assert!(text.contains("{ \"Encoded-Path\": \"626173652f352fe022\", \"Size\": 8192, \"Last-Modified\": \"2026-11-26 04:18:00 GMT\" }\n],\n"));
        let at = text.find("\"Manifest-Checksum\"").unwrap();
        let sum = hex(digest(&SHA256, &text.as_bytes()[..at]).as_ref());
        assert_eq!(&text[at..], format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        let older = encode(&ManifestFacts { major: 16, ..facts }, &files);
        assert!(older.starts_with(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\""));
    }
}
