//! What a configuration must know of a server that speaks S3, whichever it is.

use std::future::Future;

use anyhow::Result;

/// A server with buckets: SeaweedFS for the real thing, the fault store for what goes wrong.
pub trait S3Server {
    /// The URL that a client is given.
    fn endpoint(&self) -> String;

    fn access_key_id(&self) -> &str;

    fn secret_access_key(&self) -> &str;

    /// Makes an empty bucket. Its name has 3 to 63 characters.
    fn create_bucket(&self, name: &str) -> impl Future<Output = Result<()>> + Send;
}
