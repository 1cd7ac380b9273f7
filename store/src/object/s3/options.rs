//! What has to be known to reach a bucket, and the checks that can be made before the first request.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::types;

use super::super::{ErrorClass, ObjectError, ObjectLock, Operation, Outcome, Secret};

/// Keys to a bucket.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// The token that temporary keys come with.
    pub session_token: Option<Secret>,
}

/// Encryption by the server, on top of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSideEncryption {
    /// With the service's own key.
    Aes256,
    /// With a key of the key service; `None` means the bucket's default key.
    Kms {
        /// Key id or ARN.
        key_id: Option<String>,
    },
}

/// Where the repository is and how to speak to it.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Bucket name. It must exist.
    pub bucket: String,
    /// Path under which all objects lie; empty for the whole bucket.
    pub prefix: String,
    /// Region, as signed.
    pub region: String,
    /// `http://` or `https://` URL of the service; `None` for Amazon's.
    pub endpoint: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: bool,
    /// PEM file with the certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Access key id from the configuration; with it goes the secret.
    pub access_key_id: Option<String>,
    /// Secret access key from the configuration.
    pub secret_access_key: Option<Secret>,
    /// Session token from the configuration.
    pub session_token: Option<Secret>,
    /// Used when the configuration names no keys: what the caller found in its environment.
    pub fallback_credentials: Option<S3Credentials>,
    /// Storage class of new objects; not an archive class.
    pub storage_class: Option<String>,
    /// Locks that new objects get; the bucket must have object lock enabled.
    pub lock: Option<ObjectLock>,
    /// What time it is, for the dates of locks. By default 1970, which no service takes.
    pub clock: fn() -> SystemTime,
    /// Encryption by the server.
    pub sse: Option<ServerSideEncryption>,
    /// Deadline of a request without its body; a body gets time by its length on top.
    pub request_timeout: Duration,
    /// Deadline of a connection.
    pub connect_timeout: Duration,
    /// The service honours `If-None-Match: *` (ask [`crate::object::probe`]). If not, a put looks first and only one
    /// writer is safe.
    pub conditional_put: bool,
}

impl S3Options {
    /// Options for a bucket, with defaults for the rest.
    pub fn new(bucket: impl Into<String>, region: impl Into<String>) -> Self {
        S3Options {
            bucket: bucket.into(),
            prefix: String::new(),
            region: region.into(),
            endpoint: None,
            path_style: false,
            ca_file: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            fallback_credentials: None,
            storage_class: None,
            lock: None,
            clock: || SystemTime::UNIX_EPOCH,
            sse: None,
            // An answer takes milliseconds; a service that is silent for so long will not answer this request any more.
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            conditional_put: true,
        }
    }

    /// `s3://bucket/prefix`, for messages.
    #[must_use]
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_matches('/'))
    }

    /// Is every byte on the way encrypted by TLS?
    pub(super) fn is_https(&self) -> bool {
        self.endpoint
            .as_deref()
            .is_none_or(|endpoint| endpoint.starts_with("https://"))
    }

    /// Prefix of all keys: empty or ending in a slash.
    pub(super) fn key_prefix(&self) -> Result<String, ObjectError> {
        let prefix = self.prefix.trim_matches('/');
        if prefix.is_empty() {
            return Ok(String::new());
        }
        let bad = |segment: &str| matches!(segment, "" | "." | "..");
        if prefix.split('/').any(bad) || prefix.chars().any(char::is_control) || prefix.len() > PREFIX_BYTES_MAX {
            let hint = "Use a path of plain parts joined by \"/\", at most 400 bytes.";
            return Err(self
                .refused("the prefix has an empty, \".\" or \"..\" part, or is too long")
                .with_hint(hint));
        }
        Ok(format!("{prefix}/"))
    }

    pub(super) fn credentials(&self) -> Result<Credentials, ObjectError> {
        const HINT: &str = "Set access_key_id and secret_access_key_file in [repository.s3], or AWS_ACCESS_KEY_ID and \
                            AWS_SECRET_ACCESS_KEY in the environment.";
        let configured = match (&self.access_key_id, &self.secret_access_key) {
            (Some(id), Some(secret)) => Some(S3Credentials {
                access_key_id: id.clone(),
                secret_access_key: secret.clone(),
                session_token: self.session_token.clone(),
            }),
            (None, None) => self.fallback_credentials.clone(),
            _ => {
                return Err(self
                    .refused("an access key id without its secret, or the other way round")
                    .with_hint(HINT));
            }
        };
        let keys = configured.ok_or_else(|| self.refused("there are no credentials").with_hint(HINT))?;
        checked(&keys).map_err(|detail| self.refused(detail).with_hint(HINT))
    }

    pub(super) fn storage_class(&self) -> Result<Option<types::StorageClass>, ObjectError> {
        let class = self.storage_class.as_deref().map(types::StorageClass::from);
        match class {
            Some(types::StorageClass::Glacier | types::StorageClass::DeepArchive) => Err(self
                .refused("objects of an archive storage class cannot be read at once")
                .with_hint("Use a class with immediate reads, for example STANDARD_IA or GLACIER_IR.")),
            class => Ok(class),
        }
    }

    pub(super) fn check_endpoint(&self) -> Result<(), ObjectError> {
        match &self.endpoint {
            Some(url) if !url.starts_with("https://") && !url.starts_with("http://") => Err(self
                .refused("the endpoint is not a http:// or https:// URL")
                .with_hint("Write the endpoint with its scheme, for example https://s3.example.com.")),
            _ if self.bucket.is_empty() => Err(self
                .refused("the bucket has no name")
                .with_hint("Set the repository URL to s3://bucket/prefix.")),
            _ => Ok(()),
        }
    }

    /// An error of the configuration.
    pub(super) fn refused(&self, detail: impl std::fmt::Display) -> ObjectError {
        ObjectError::new(
            Operation::Open,
            self.url(),
            Outcome::DidNotHappen,
            ErrorClass::Misconfigured,
            detail,
        )
    }
}

/// Keys are at most 1024 bytes; names of objects take 512.
const PREFIX_BYTES_MAX: usize = 400;

/// The keys in the SDK's type, if they can be sent at all: a key read with its line end breaks the request's header.
pub(super) fn checked(keys: &S3Credentials) -> Result<Credentials, &'static str> {
    let token = keys.session_token.as_ref().map(Secret::expose);
    for part in [
        keys.access_key_id.as_str(),
        keys.secret_access_key.expose(),
        token.unwrap_or("-"),
    ] {
        if part.is_empty() || part.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a part of the credentials is empty, or contains a space or a line end");
        }
    }
    let token = token.map(str::to_owned);
    Ok(Credentials::new(
        &keys.access_key_id,
        keys.secret_access_key.expose(),
        token,
        None,
        "seawall",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_keys(id: &str, secret: &str) -> S3Options {
        let keys = (Some(id.to_owned()), Some(Secret::new(secret)));
        S3Options {
            access_key_id: keys.0,
            secret_access_key: keys.1,
            ..S3Options::new("b", "us-east-1")
        }
    }

    #[test]
    fn keys_come_from_the_configuration_or_else_from_the_caller() {
        let mut options = S3Options::new("b", "us-east-1");
        assert!(options.credentials().unwrap_err().hint().is_some());
        let secret_access_key = Secret::new("secret");
        options.fallback_credentials = Some(S3Credentials {
            access_key_id: "fallback".into(),
            secret_access_key,
            session_token: None,
        });
        assert_eq!(options.credentials().unwrap().access_key_id(), "fallback");
        options.access_key_id = Some("configured".into());
        assert!(
            options.credentials().is_err(),
            "half of a pair is a mistake, not a reason to look elsewhere"
        );
        options.secret_access_key = Some(Secret::new("other"));
        assert_eq!(options.credentials().unwrap().access_key_id(), "configured");
    }

    #[test]
    fn keys_that_would_break_a_header_are_refused_without_being_shown() {
        for (id, secret) in [("id\n", "secret"), ("id", "se\ncret"), ("", "secret"), ("id", "")] {
            let error = with_keys(id, secret).credentials().unwrap_err();
            assert_eq!(error.class(), ErrorClass::Misconfigured);
            assert!(!error.to_string().contains("cret"), "{error}");
        }
        assert!(!format!("{:?}", with_keys("id", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn the_prefix_is_normalised_and_may_be_odd_but_not_ambiguous() {
        let prefix = |prefix: &str| {
            S3Options {
                prefix: prefix.into(),
                ..S3Options::new("b", "r")
            }
            .key_prefix()
        };
        assert_eq!(prefix("").unwrap(), "");
        assert_eq!(prefix("/").unwrap(), "");
        assert_eq!(prefix("/a/b/").unwrap(), "a/b/");
        assert_eq!(prefix("sp ace/ü+%41").unwrap(), "sp ace/ü+%41/");
        for bad in ["a//b", "a/../b", "./a", "a\nb"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn archive_classes_and_bare_hosts_are_refused() {
        let mut options = S3Options::new("b", "r");
        options.storage_class = Some("DEEP_ARCHIVE".into());
        assert!(options.storage_class().is_err());
        options.storage_class = Some("STANDARD_IA".into());
        assert!(options.storage_class().is_ok());
        options.endpoint = Some("s3.example.com".into());
        assert!(options.check_endpoint().is_err());
    }
}
