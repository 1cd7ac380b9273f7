//! A plain client of S3, for requests that our programs never send.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig};

use crate::s3_server::S3Server;

/// With the server's own key.
pub fn client(server: &impl S3Server) -> Client {
    client_as(server, server.access_key_id(), server.secret_access_key())
}

/// With another key.
pub fn client_as(server: &impl S3Server, access_key_id: &str, secret_access_key: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .credentials_provider(Credentials::new(access_key_id, secret_access_key, None, None, "test"));
    Client::from_conf(config.build())
}
