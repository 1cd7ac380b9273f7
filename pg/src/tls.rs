//! TLS to the server, as strict as `sslmode` says.
//!
//! Used by the replication connection and, through [`client_config`], by the SQL connections of
//! the binaries. Meanings of the modes: docs, "libpq: SSL Support". Deviations from libpq: a
//! certificate's name must be in subjectAltName (a common name alone is not looked at), and
//! `verify-ca`/`verify-full` need a CA file to be named. A server certificate that is itself one
//! of the trusted certificates is accepted as its own chain, which self-signed servers need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::conninfo::SslMode;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read or is not PEM.
    #[error("could not read CA file \"{}\"", .path.display())]
    RootCert {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// The CA file has no certificate that can be used.
    #[error("CA file \"{}\" contains no usable certificate", .path.display())]
    NoRootCert {
        /// The file.
        path: PathBuf,
    },
    /// `verify-ca` and `verify-full` need a CA file.
    #[error("sslmode {sslmode} needs sslrootcert")]
    RootCertNeeded {
        /// The mode.
        sslmode: SslMode,
    },
    /// The TLS library refused the configuration.
    #[error("TLS configuration was refused")]
    Config(#[from] rustls::Error),
}

/// The configuration of a TLS client for `sslmode`. `require` with a CA file checks the chain, as
/// libpq does; `require` and `prefer` without one check nothing.
///
/// # Errors
/// [`TlsError`] when the CA file is missing, unreadable or empty.
pub fn client_config(sslmode: SslMode, sslrootcert: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let trust = match sslrootcert {
        Some(path) => Some(read_roots(path)?),
        None if matches!(sslmode, SslMode::VerifyCa | SslMode::VerifyFull) => {
            return Err(TlsError::RootCertNeeded { sslmode });
        }
        None => None,
    };
    let check_name = sslmode == SslMode::VerifyFull;
    let verifier = Arc::new(Verifier {
        algorithms,
        trust,
        check_name,
    });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

fn read_roots(path: &Path) -> Result<Trust, TlsError> {
    let failed = |source| TlsError::RootCert {
        path: path.to_owned(),
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        return Err(TlsError::NoRootCert { path: path.to_owned() });
    }
    Ok(Trust { roots, certificates })
}

/// Checks of the server's certificate. The signatures of the handshake are always checked.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Option<Trust>,
    check_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            if !trust.certificates.iter().any(|root| root == end_entity) {
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    &trust.roots,
                    intermediates,
                    now,
                    self.algorithms.all,
                )?;
            }
            if self.check_name {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Hash of a certificate for the SCRAM channel binding `tls-server-end-point` (RFC 5929, 4.1): the
/// hash function of the certificate's signature, SHA-256 in place of MD5 and SHA-1. `None` for a
/// signature without a hash function of its own (Ed25519) or one that is not known.
pub(crate) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    use ::aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, .. }, .. }
    let (certificate_body, _) = der_element(certificate, 0x30)?;
    let (_, after_tbs) = der_element(certificate_body, 0x30)?;
    let (algorithm, _) = der_element(after_tbs, 0x30)?;
    let (oid, _) = der_element(algorithm, 0x06)?;
    let hash = match oid {
        // 1.2.840.113549.1.1.{4,5,11,12,13}: RSA with MD5, SHA-1, SHA-256, SHA-384, SHA-512
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 4 | 5 | 11] => &SHA256,
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12] => &SHA384,
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13] => &SHA512,
        // 1.2.840.10045.4.1 and .4.3.{2,3,4}: ECDSA with SHA-1, SHA-256, SHA-384, SHA-512
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1] | [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2] => &SHA256,
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3] => &SHA384,
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4] => &SHA512,
        _ => return None,
    };
    Some(digest(hash, certificate).as_ref().to_vec())
}

/// Content of the DER element of this tag at the start of `der`, and what follows it.
fn der_element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    if found == tag {
        rest.split_at_checked(length)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifying_modes_need_a_ca_file() {
        for sslmode in [SslMode::VerifyCa, SslMode::VerifyFull] {
            let refused = client_config(sslmode, None);
            assert!(matches!(refused, Err(TlsError::RootCertNeeded { .. })));
        }
        assert!(client_config(SslMode::Require, None).is_ok());
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = client_config(SslMode::Require, Some(file.path()));
        assert!(matches!(refused, Err(TlsError::NoRootCert { .. })));
        let missing = client_config(SslMode::VerifyFull, Some(Path::new("/nonexistent/root.crt")));
        assert!(matches!(missing, Err(TlsError::RootCert { .. })));
    }

    fn certificate(arguments: &str) -> Vec<u8> {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args("req -x509 -nodes -days 1 -subj /CN=x -keyout /dev/null -outform DER".split(' '));
        let output = openssl.args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn the_binding_is_hashed_as_the_certificate_is_signed() {
        const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256";
        for (arguments, bytes) in [
            (format!("{EC} -sha1"), 32),
            (format!("{EC} -sha256"), 32),
            (format!("{EC} -sha384"), 48),
            ("-newkey rsa:2048 -sha512".to_owned(), 64),
        ] {
            let hash = server_end_point(&certificate(&arguments)).unwrap();
            assert_eq!(hash.len(), bytes, "{arguments}");
        }
        assert_eq!(server_end_point(&certificate("-newkey ed25519")), None);
    }

    #[test]
    fn broken_certificates_give_no_binding() {
        assert_eq!(server_end_point(b""), None);
        assert_eq!(server_end_point(&[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF]), None);
        assert_eq!(server_end_point(&[0x30, 0x80]), None);
        assert_eq!(
            der_element(&[0x06, 0x81, 0x01, 0x2A, 0x09], 0x06),
            Some((&[0x2A][..], &[9][..]))
        );
    }
}
