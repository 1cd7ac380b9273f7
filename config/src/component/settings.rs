//! `kind = "config"`: configuration files.

use std::path::PathBuf;

use store::keys::identity::SecretsRecipient;

use super::files::absolute;
use crate::reader::Reader;

pub(super) const KEYS: [&str; 4] = ["paths", "exclude", "secrets", "secrets_recipient"];

/// Configuration files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSource {
    /// `paths`: absolute.
    pub paths: Vec<PathBuf>,
    /// `exclude`: patterns as rsync has them.
    pub exclude: Vec<String>,
    /// `secrets`: those that are taken, absolute paths or patterns. Whatever else looks like a secret is left out.
    pub secrets: Vec<String>,
    /// `secrets_recipient`: to whom they are sealed.
    pub recipient: Option<SecretsRecipient>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> ConfigSource {
    let make = "`wal-restore identity FILE`, where restores are run and not on this host, makes a pair and prints the recipient.";
    let hint = "Write absolute paths: [\"/etc/app\", \"/etc/nginx/nginx.conf\"].";
    let paths = absolute(reader, "paths", "names no files", hint);
    let secrets = reader.list("secrets");
    let text = reader.text("secrets_recipient");
    let recipient = text.as_deref().and_then(SecretsRecipient::parse);
    if text.is_some() && recipient.is_none() {
        reader.complain(
            "secrets_recipient",
            "is no recipient: it was mistyped, or is another key",
            make,
        );
    }
    if text.is_none() && !secrets.is_empty() {
        let hint = format!(
            "Secrets are sealed to a recipient of their own, whom the restore key does not stand for: set \"secrets_recipient\". {make}"
        );
        reader.complain("secrets", "names secrets, and \"secrets_recipient\" is not set", hint);
    }
    ConfigSource {
        paths,
        exclude: reader.list("exclude"),
        secrets,
        recipient,
    }
}
