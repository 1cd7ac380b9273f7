//! `[repository]`: where the backups are, and how to get there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use store::object::mirrored::Confirm;
use store::object::{LockMode, ObjectLock};

use crate::environment::Environment;
use crate::error::Problem;
use crate::keys::{COPY, ROOT, Section, join};
use crate::origin::Origin;
use crate::raw::Raw;
use crate::reader::{Outcome, Reader};
use crate::secret::SecretText;

const URL_HINT: &str = "Write \"file:///absolute/path\" or \"s3://bucket/prefix\".";

/// `[repository]` or `[copy.<name>]`: where the backups are.
#[derive(Debug, Clone)]
pub struct Repository {
    /// `url`, which has no default: nobody else can know the place.
    pub url: RepositoryUrl,
    /// `[repository.s3]`; defaults and no credentials when the repository is a directory.
    pub s3: S3,
}

/// The place of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// A directory of this machine, `file:///path`.
    Local {
        /// Absolute, without `..`.
        path: PathBuf,
    },
    /// A part of a bucket, `s3://bucket/prefix`.
    S3 {
        /// The name of the bucket.
        bucket: String,
        /// Without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryUrl::Local { path } => write!(f, "file://{}", path.display()),
            RepositoryUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            RepositoryUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// `[repository.s3]`: how to talk to S3.
#[derive(Debug, Clone)]
pub struct S3 {
    /// `endpoint`, for an S3 that is not Amazon's.
    pub endpoint: Option<String>,
    /// `region`; us-east-1, which servers other than Amazon's take as "any".
    pub region: String,
    /// `path_style`; true when there is an endpoint, as such servers seldom have a DNS name for
    /// each bucket, else false, as Amazon wants it.
    pub path_style: bool,
    /// `conditional_put`; true, because create-only objects are what keeps two writers apart. False for a service that ignores or
    /// refuses `If-None-Match`: a put then looks first, and only one writer is safe.
    pub conditional_put: bool,
    /// `ca_file`: certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `access_key_id`, `secret_access_key_file`, `session_token_file`, or the `AWS_` variables.
    /// Without them the role of the machine may do.
    pub credentials: Option<Credentials>,
    /// `storage_class`; the bucket's own when not set.
    pub storage_class: Option<String>,
    /// `object_lock` and `lock_for`: nobody deletes what backups need before a time.
    pub object_lock: Option<ObjectLock>,
    /// `request_timeout`; a body has more, at 128 KiB/s. A peer that is gone without a word is noticed soon enough that the archive
    /// has caught up within a minute of its return.
    pub request_timeout: Duration,
    /// `connect_timeout`; 10 s survives two lost SYN packets (retransmitted after 1 s and 3 s).
    pub connect_timeout: Duration,
}

/// Credentials of S3.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: SecretText,
    /// Of temporary credentials.
    pub session_token: Option<SecretText>,
}

/// Reads `[repository]`; nothing when there is no usable URL.
pub(crate) fn check(raw: &Raw, env: &Environment, out: &mut Outcome) -> Option<Repository> {
    place(raw, "repository", ROOT.child("repository")?, env, out)
}

/// `confirm` of `[repository]`: with copies, when something counts as stored.
pub(crate) fn check_confirm(raw: &Raw, out: &mut Outcome) -> Confirm {
    let Some(section) = ROOT.child("repository") else {
        return Confirm::First;
    };
    match Reader::new(raw, "", section, out).text("confirm").as_deref() {
        Some("any") => Confirm::Any,
        Some("all") => Confirm::All,
        _ => Confirm::First,
    }
}

/// Reads `[copy.<name>]`.
pub(crate) fn check_copies(
    raw: &Raw,
    env: &Environment,
    first: Option<&Repository>,
    out: &mut Outcome,
) -> BTreeMap<String, Repository> {
    let mut copies: BTreeMap<String, Repository> = BTreeMap::new();
    for name in &raw.copies {
        if let Some(copy) = place(raw, &join("copy", name), &COPY, env, out) {
            let same = |other: &Repository| other.url == copy.url && other.s3.endpoint == copy.s3.endpoint;
            if first.is_some_and(same) || copies.values().any(same) {
                let problem = Problem::new(format!(
                    "\"copy.{name}.url\" is the place of the repository or of another copy"
                ));
                out.problems.push(
                    problem.hint("A copy there protects nothing. Name another bucket, another disk, another site."),
                );
            }
            copies.insert(name.clone(), copy);
        }
    }
    copies
}

fn place(raw: &Raw, path: &str, section: &'static Section, env: &Environment, out: &mut Outcome) -> Option<Repository> {
    let mut reader = Reader::at(raw, path, section, out);
    let url = match reader.text("url") {
        Some(text) => {
            let url = parse_url(&text);
            if url.is_none() {
                // Not repeated: a URL can have a password in it.
                reader.complain("url", "is not the URL of a repository", URL_HINT);
            }
            url
        }
        None if reader.is_set("url") => None,
        None => {
            reader.complain("url", "is not set", URL_HINT);
            None
        }
    };
    let local = matches!(url, Some(RepositoryUrl::Local { .. }));
    let env = (!local).then_some(env);
    let s3 = check_s3(raw, path, section.child("s3")?, env, out);
    Some(Repository { url: url?, s3 })
}

fn check_s3(raw: &Raw, above: &str, section: &'static Section, env: Option<&Environment>, out: &mut Outcome) -> S3 {
    let mut reader = Reader::new(raw, above, section, out);
    let endpoint = reader.text("endpoint");
    if endpoint.as_deref().is_some_and(|text| !is_endpoint(text)) {
        let hint = "Write \"https://host\" or \"https://host:port\", without a path or a user.";
        reader.complain("endpoint", "is not the URL of a server", hint);
    }
    let region = reader.text("region").unwrap_or_default();
    let path_style = reader.flag("path_style").unwrap_or_else(|| {
        if !reader.is_set("path_style") {
            reader.derived("path_style", endpoint.is_some().to_string());
        }
        endpoint.is_some()
    });
    let conditional_put = reader.flag("conditional_put").unwrap_or_else(|| {
        if !reader.is_set("conditional_put") {
            reader.derived("conditional_put", true.to_string());
        }
        true
    });
    S3 {
        region,
        path_style,
        conditional_put,
        ca_file: reader.path("ca_file"),
        credentials: env.and_then(|env| credentials(&mut reader, env)),
        storage_class: reader.text("storage_class"),
        object_lock: object_lock(&mut reader),
        request_timeout: reader.duration("request_timeout"),
        connect_timeout: reader.duration("connect_timeout"),
        endpoint,
    }
}

/// Both of its keys, or neither.
fn object_lock(reader: &mut Reader<'_>) -> Option<ObjectLock> {
    let mode = match reader.text("object_lock").as_deref() {
        Some("compliance") => Some(LockMode::Compliance),
        Some("governance") => Some(LockMode::Governance),
        _ => None,
    };
    let keep = reader.is_set("lock_for").then(|| reader.duration("lock_for"));
    match (mode, keep) {
        (Some(mode), Some(keep)) => Some(ObjectLock { mode, keep }),
        (Some(_), None) => {
            let hint = "Say how long a backup shall be safe from everybody, for example \"35d\".";
            reader.complain("lock_for", "is not set, \"object_lock\" is", hint);
            None
        }
        (None, Some(_)) => {
            let hint = "Write \"compliance\", or \"governance\" where somebody shall be able to delete all the same.";
            reader.complain("object_lock", "is not set, \"lock_for\" is", hint);
            None
        }
        (None, None) => None,
    }
}

/// Each half from its key, else from its variable; never halves of different pairs.
fn credentials(reader: &mut Reader<'_>, env: &Environment) -> Option<Credentials> {
    let own_id = reader.text("access_key_id");
    let own_secret = reader.secret("secret_access_key_file");
    let own_token = reader.secret("session_token_file");
    if reader.is_set("access_key_id") && own_id.is_none()
        || reader.is_set("secret_access_key_file") && own_secret.is_none()
    {
        return None;
    }
    let env_id = env.aws("AWS_ACCESS_KEY_ID");
    let env_secret = env.aws("AWS_SECRET_ACCESS_KEY");
    let secret_is_own = own_secret.is_some();
    if let (Some(own), Some(other), false) = (&own_id, &env_id, secret_is_own)
        && own != other.expose()
    {
        let hint = "Set both of a pair in the same place: \"secret_access_key_file\" with \"access_key_id\".";
        reader.complain("access_key_id", "is not the one in AWS_ACCESS_KEY_ID", hint);
        return None;
    }
    let from = |name: &str| Origin::Environment(name.to_owned());
    let id = own_id.or_else(|| {
        let id = env_id?.expose().to_owned();
        let key = reader.full("access_key_id");
        reader.out.effective(key, id.clone(), from("AWS_ACCESS_KEY_ID"));
        Some(id)
    });
    let secret = own_secret.or_else(|| {
        let secret = env_secret?;
        let key = reader.full("secret_access_key");
        reader.out.redacted(key, from("AWS_SECRET_ACCESS_KEY"));
        Some(secret)
    });
    let session_token = own_token.or_else(|| {
        let token = env.aws("AWS_SESSION_TOKEN").filter(|_| !secret_is_own)?;
        let key = reader.full("session_token");
        reader.out.redacted(key, from("AWS_SESSION_TOKEN"));
        Some(token)
    });
    match (id, secret) {
        (Some(access_key_id), Some(secret_access_key)) => Some(Credentials {
            access_key_id,
            secret_access_key,
            session_token,
        }),
        (None, None) => None,
        (Some(_), None) => {
            let hint = "Name the file with the secret, or set AWS_SECRET_ACCESS_KEY.";
            reader.complain("secret_access_key_file", "is not set, \"access_key_id\" is", hint);
            None
        }
        (None, Some(_)) => {
            let hint = "Set the key id that belongs to the secret, here or in AWS_ACCESS_KEY_ID.";
            reader.complain("access_key_id", "is not set, its secret is", hint);
            None
        }
    }
}

fn parse_url(text: &str) -> Option<RepositoryUrl> {
    if let Some(path) = text.strip_prefix("file://") {
        let mut parts = Path::new(path).components();
        let absolute = parts.next() == Some(Component::RootDir);
        let parts: Vec<Component<'_>> = parts.collect();
        let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
        return (absolute && plain && !parts.is_empty()).then(|| RepositoryUrl::Local {
            path: Path::new(path).components().collect(),
        });
    }
    let rest = text.strip_prefix("s3://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    let good_bucket = (3..=63).contains(&bucket.len()) && bucket.bytes().all(byte);
    let good_part = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-=".contains(&b);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    let good_prefix = prefix.is_empty() || prefix.len() <= 512 && prefix.split('/').all(good_part);
    (good_bucket && good_prefix).then(|| RepositoryUrl::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest))
        .is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_directory_or_a_part_of_a_bucket() {
        for (text, same) in [
            ("file:///srv/backup", "file:///srv/backup"),
            ("file:///srv//backup/", "file:///srv/backup"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(parse_url(text).unwrap().to_string(), same);
        }
    }

    #[test]
    fn a_bad_url_is_refused() {
        for text in [
            "",
            "/srv",
            "file://srv/backup",
            "file:///",
            "file:///srv/../etc",
            "s3://",
            "s3://b",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://id:secret@bucket/x",
            "s3://bucket/a?b",
            "https://bucket",
        ] {
            assert_eq!(parse_url(text), None, "{text}");
        }
    }
}
