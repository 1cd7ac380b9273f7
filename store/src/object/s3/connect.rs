//! From options to a client: trust, keys, no retries of its own.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::super::ObjectError;
use super::options::S3Options;

/// The same client (and its connections) with other keys: temporary ones end.
pub(super) fn with_keys(client: &Client, keys: Credentials) -> Client {
    Client::from_conf(client.config().to_builder().credentials_provider(keys).build())
}

pub(super) fn client(options: &S3Options, keys: Credentials) -> Result<Client, ObjectError> {
    options.check_endpoint()?;
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client(options)?)
        .region(Region::new(options.region.clone()))
        .force_path_style(options.path_style)
        .credentials_provider(keys)
        // Exchanged keys count from the next request on.
        .identity_cache(IdentityCache::no_cache())
        // `crate::retry` is the only retry loop.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(options.connect_timeout)
                .build(),
        )
        // Every request has a deadline of ours, which covers its body, however slow the way. Where nothing moves at all, sooner.
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(options.request_timeout)
                .build(),
        )
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        // Asked for where a whole object is read: some services send the checksum of the whole with a part.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

fn http_client(options: &S3Options) -> Result<SharedHttpClient, ObjectError> {
    if !options.is_https() {
        return Ok(aws_smithy_http_client::Builder::new().build_http());
    }
    let trust = match &options.ca_file {
        None => TrustStore::default(),
        Some(path) => {
            let unreadable = |detail: String| {
                options
                    .refused(detail)
                    .with_hint("Set ca_file to a readable PEM file with the certificate authority of the service.")
            };
            let pem = std::fs::read(path)
                .map_err(|error| unreadable(format!("cannot read the CA file {path:?}")).with_source(error))?;
            check_certificates(&pem).map_err(|reason| unreadable(format!("the CA file {path:?} {reason}")))?;
            TrustStore::empty().with_pem_certificate(pem)
        }
    };
    let context = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| options.refused("cannot set up TLS").with_source(error))?;
    let provider = Provider::rustls(CryptoMode::AwsLc);
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(provider)
        .tls_context(context)
        .build_https())
}

/// The HTTP client panics on what it cannot parse, so it gets only what it can.
fn check_certificates(pem: &[u8]) -> Result<(), &'static str> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "is not valid PEM")?;
        roots
            .add(certificate)
            .map_err(|_| "contains something that is no usable certificate")?;
    }
    if roots.is_empty() {
        Err("contains no certificate")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_that_the_client_would_choke_on_is_a_configuration_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let keys = Credentials::new("id", "secret", None, None, "test");
        let mut options = S3Options::new("b", "us-east-1");
        options.ca_file = Some(path.clone());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        for content in [None, Some(""), Some("no pem"), Some(broken), Some(cut)] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = client(&options, keys.clone()).unwrap_err();
            assert_eq!(
                error.class(),
                super::super::super::ErrorClass::Misconfigured,
                "{content:?}"
            );
            assert!(error.hint().is_some());
        }
    }
}
