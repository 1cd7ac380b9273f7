//! What an operator can do about each kind of failure: whole sentences, used by the table in `s3_error`.

pub(in super::super) const NOT_S3: &str =
    "The answer is not S3's. Check the endpoint and path_style in [repository.s3].";
pub(in super::super) const BUCKET: &str = "Create the bucket, or correct the repository URL, region or endpoint.";
pub(in super::super) const RIGHTS: &str = "Give the access key the rights to list the bucket and to get and put objects under the prefix (and to \
                      delete them, for the keeper role).";
pub(in super::super) const KEYS: &str =
    "Check the access key id and the secret access key, and that they belong to this endpoint.";
pub(in super::super) const EXPIRED: &str = "The temporary credentials have ended. Provide new ones.";
pub(in super::super) const CLOCK: &str =
    "The clocks of this host and of the service differ by minutes. Synchronise this host's clock (chrony, ntpd).";
pub(in super::super) const REGION: &str = "Set region (or endpoint) in [repository.s3] to the one of the bucket.";
pub(in super::super) const ARCHIVED: &str =
    "A lifecycle rule moved the object to an archive class. Restore it there, and remove the rule.";
pub(in super::super) const SPACE: &str =
    "Raise the quota of the bucket or free space in the service. WAL waits on the server until then.";
pub(in super::super) const SERVER_KEY: &str =
    "Check that the key of the server-side encryption exists, is enabled, and may be used by this access key.";
pub(in super::super) const NO_LOCK: &str = "Use a bucket that was made with object lock on a service that keeps to it, or leave object_lock out of [repository.s3].";
pub(in super::super) const UNSUPPORTED: &str = "The service does not support a request that is needed. If it is If-None-Match, set conditional_put = false in [repository.s3].";
pub(in super::super) const ENDPOINT: &str = "Check the endpoint, its port, and the network in between.";
pub(in super::super) const TRUST: &str = "Set ca_file in [repository.s3] to the certificate authority of the service, and use a host name that its \
                     certificate covers.";
