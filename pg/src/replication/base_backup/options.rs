//! What is asked of the server: options, and the command that they become.
//!
//! Docs, "Streaming Replication Protocol", BASE_BACKUP, of each version; src/backend/replication:
//! repl_gram.y, repl_scanner.l.

use std::time::Duration;

use super::decompress::LEVEL_MAX;
use crate::identity::ServerVersion;
use crate::replication::error::ReplicationError;

/// First server version with the syntax in parentheses, one copy for all archives, and compression.
pub(super) const TYPED_COPY_MAJOR: u32 = 15;

/// A spread checkpoint takes most of `checkpoint_timeout`, which few set above half an hour.
const START_TIMEOUT: Duration = Duration::from_secs(3600);

/// A disk that answers nothing for this long is broken; the slowest `MAX_RATE` sends every second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(300);

/// How the checkpoint at the start of a base backup is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Checkpoint {
    /// At once, with all I/O that takes.
    Fast,
    /// Over as much time as a checkpoint by itself takes.
    #[default]
    Spread,
}

/// Compression by the server, with zstd; ours to undo while the archives arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Zstd {
    /// 1 to 19, because decoding the levels above takes up to 128 MiB; `None` for the server's
    /// default.
    pub level: Option<u8>,
    /// Threads of the server; `None` for its walsender process alone.
    pub workers: Option<u8>,
}

/// Options of a base backup. What is not here is fixed: no WAL, no wait for archived WAL, a
/// `tablespace_map` in place of links, no manifest, and no check of checksums by the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseBackupOptions {
    /// The label that `backup_label` shows; at most 1024 bytes, no control characters.
    pub label: String,
    /// How the checkpoint is done.
    pub checkpoint: Checkpoint,
    /// Whether the server measures all files first, which gives sizes and takes time.
    pub sizes: bool,
    /// Limit on the rate at which the server sends, in KiB a second, before compression; the server
    /// takes 32 to 1048576.
    pub rate_max_kib_s: Option<u32>,
    /// Compression on the way, from PostgreSQL 15 on.
    pub compression: Option<Zstd>,
    /// How long the server may take to begin: the checkpoint and the measuring.
    pub start_timeout: Duration,
    /// How long the server may send nothing after that.
    pub silence_timeout: Duration,
}

impl BaseBackupOptions {
    /// A spread checkpoint, no sizes, full speed, no compression, and long times.
    pub fn new(label: impl Into<String>) -> Self {
        BaseBackupOptions {
            label: label.into(),
            checkpoint: Checkpoint::Spread,
            sizes: false,
            rate_max_kib_s: None,
            compression: None,
            start_timeout: START_TIMEOUT,
            silence_timeout: SILENCE_TIMEOUT,
        }
    }

    /// The command for a server of this version.
    pub(super) fn command(&self, version: ServerVersion) -> Result<String, ReplicationError> {
        // A line of its own in backup_label would be a statement to the recovery.
        if self.label.chars().any(char::is_control) {
            return Err(invalid("LABEL", "contains a control character"));
        }
        let label = quote_literal(&self.label);
        let is_fast = self.checkpoint == Checkpoint::Fast;
        if version.major() >= TYPED_COPY_MAJOR {
            return self.typed_command(&label, is_fast);
        }
        if self.compression.is_some() {
            return Err(ReplicationError::Unsupported {
                feature: "compression of a base backup",
                version: version.to_string(),
            });
        }
        let rate = self.rate_max_kib_s.map(|rate| format!(" MAX_RATE {rate}"));
        Ok(format!(
            "BASE_BACKUP LABEL {label}{progress}{fast} NOWAIT{rate} TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'no'",
            progress = if self.sizes { " PROGRESS" } else { "" },
            fast = if is_fast { " FAST" } else { "" },
            rate = rate.unwrap_or_default(),
        ))
    }

    fn typed_command(&self, label: &str, is_fast: bool) -> Result<String, ReplicationError> {
        let mut options = vec![
            format!("LABEL {label}"),
            format!("PROGRESS {}", self.sizes),
            format!("CHECKPOINT '{}'", if is_fast { "fast" } else { "spread" }),
            "WAL false".to_owned(),
            "WAIT false".to_owned(),
            "TABLESPACE_MAP true".to_owned(),
            "VERIFY_CHECKSUMS false".to_owned(),
            "MANIFEST 'no'".to_owned(),
        ];
        options.extend(self.rate_max_kib_s.map(|rate| format!("MAX_RATE {rate}")));
        if let Some(zstd) = self.compression {
            options.push("COMPRESSION 'zstd'".to_owned());
            options.extend(zstd.detail()?);
        }
        Ok(format!("BASE_BACKUP ({})", options.join(", ")))
    }
}

impl Zstd {
    fn detail(self) -> Result<Option<String>, ReplicationError> {
        if self.level.is_some_and(|level| !(1..=LEVEL_MAX).contains(&level)) {
            return Err(invalid("COMPRESSION_DETAIL", "has a level that is not 1 to 19"));
        }
        let level = self.level.map(|level| format!("level={level}"));
        let workers = self.workers.map(|workers| format!("workers={workers}"));
        let detail: Vec<String> = [level, workers].into_iter().flatten().collect();
        Ok((!detail.is_empty()).then(|| format!("COMPRESSION_DETAIL '{}'", detail.join(","))))
    }
}

fn invalid(option: &'static str, reason: &'static str) -> ReplicationError {
    ReplicationError::InvalidOption { option, reason }
}

/// A text in single quotes. Only they are special (repl_scanner.l, `xqinside`).
fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(options: &BaseBackupOptions, major: u32) -> Result<String, ReplicationError> {
        options.command(ServerVersion(major * 10_000))
    }

    #[test]
    fn each_version_gets_its_own_syntax() {
        let mut options = BaseBackupOptions::new("nightly");
        let (old, new) = (command(&options, 14).unwrap(), command(&options, 15).unwrap());
        assert_eq!(
            old,
            "BASE_BACKUP LABEL 'nightly' NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'no'"
        );
        assert_eq!(
            new,
            "BASE_BACKUP (LABEL 'nightly', PROGRESS false, CHECKPOINT 'spread', WAL false, WAIT false, \
             TABLESPACE_MAP true, VERIFY_CHECKSUMS false, MANIFEST 'no')"
        );
        options.checkpoint = Checkpoint::Fast;
        options.sizes = true;
        options.rate_max_kib_s = Some(1024);
        let old = command(&options, 13).unwrap();
        assert!(
            old.contains(" PROGRESS FAST NOWAIT MAX_RATE 1024 TABLESPACE_MAP "),
            "{old}"
        );
        options.compression = Some(Zstd {
            level: Some(3),
            workers: Some(2),
        });
        let new = command(&options, 18).unwrap();
        assert!(new.contains("PROGRESS true, CHECKPOINT 'fast'"), "{new}");
        assert!(
            new.ends_with(", MAX_RATE 1024, COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=3,workers=2')"),
            "{new}"
        );
        options.compression = Some(Zstd::default());
        assert!(command(&options, 18).unwrap().ends_with(", COMPRESSION 'zstd')"));
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let options = BaseBackupOptions::new("it's \\', FAST");
        let text = command(&options, 17).unwrap();
        assert!(
            text.starts_with("BASE_BACKUP (LABEL 'it''s \\'', FAST', PROGRESS"),
            "{text}"
        );
        for bad in ["two\nlines", "zero\0", "\r", "\u{85}"] {
            let error = command(&BaseBackupOptions::new(bad), 13).unwrap_err();
            assert_eq!(
                error.to_string(),
                "option LABEL of a base backup contains a control character"
            );
        }
    }

    #[test]
    fn compression_is_refused_where_it_cannot_be_had() {
        let mut options = BaseBackupOptions::new("x");
        options.compression = Some(Zstd::default());
        let error = command(&options, 14).unwrap_err();
        assert_eq!(
            error.to_string(),
            "compression of a base backup is not supported by PostgreSQL 14.0"
        );
        for level in [0, 20] {
            options.compression = Some(Zstd {
                level: Some(level),
                workers: None,
            });
            let error = command(&options, 15).unwrap_err();
            assert!(error.to_string().contains("is not 1 to 19"), "{error}");
        }
    }
}
