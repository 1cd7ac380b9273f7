//! TLS to the server, as strict as `sslmode` says.
//!
//! Used by the replication connection and, through [`client_config`], by the SQL connections of
//! the binaries. Meanings of the modes: docs, "libpq: SSL Support". Deviations from libpq: a
//! certificate's name must be in subjectAltName (a common name alone is not looked at), and
//! `verify-ca`/`verify-full` need a CA file to be named. A server certificate that is itself one
//! of the trusted certificates is accepted as its own chain, which self-signed servers need.
//! Files are read anew for every connection, so a certificate can be renewed under a running agent.

mod client_cert;
mod end_point;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::conninfo::{ClientCert, ConnectOptions, RootCert, SslMode};

pub(crate) use end_point::server_end_point;

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
    /// The operating system has no certificates that can be used.
    #[error("the system's store of certificates cannot be used: {reason}")]
    NoSystemRoots {
        /// Why.
        reason: String,
    },
    /// `verify-ca` and `verify-full` need a CA file.
    #[error("sslmode {sslmode} needs sslrootcert")]
    RootCertNeeded {
        /// The mode.
        sslmode: SslMode,
    },
    /// The file of `sslcert` or `sslkey` cannot be read.
    #[error("could not read file \"{}\" of {key}", .path.display())]
    ClientFile {
        /// `sslcert` or `sslkey`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is not in the file what should be.
    #[error("file \"{}\" of {key} {reason}", .path.display())]
    ClientFileContent {
        /// `sslcert` or `sslkey`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Others than its owner can get at the private key.
    #[error("private key file \"{}\" has mode {mode:04o}, which lets others in", .path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The private key is encrypted.
    #[error("private key file \"{}\" is encrypted", .path.display())]
    KeyEncrypted {
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refused certificate and key.
    #[error("the certificate of sslcert cannot be used with the key of sslkey")]
    ClientCert(#[source] rustls::Error),
    /// The TLS library refused the configuration.
    #[error("TLS configuration was refused")]
    Config(#[from] rustls::Error),
}

impl TlsError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            TlsError::RootCert { .. } | TlsError::NoRootCert { .. } => {
                "sslrootcert names a PEM file with the certificate of the CA that signed the server's; this user must be able to read it."
            }
            TlsError::NoSystemRoots { .. } => {
                "Install the system's certificates (package ca-certificates), or name a CA file in sslrootcert."
            }
            TlsError::RootCertNeeded { .. } => {
                "Name the file with the CA's certificate in sslrootcert, or say \"system\"."
            }
            TlsError::ClientFile { .. } | TlsError::ClientFileContent { .. } | TlsError::ClientCert(_) => {
                "sslcert names a PEM file with our certificate and those up to its root, sslkey one with its private key."
            }
            TlsError::KeyExposed { .. } => "Set mode 0600, or 0640 for a key that belongs to root: chmod 0600 FILE.",
            TlsError::KeyEncrypted { .. } => {
                "Nobody is there to type a passphrase. Decrypt it into a file with mode 0600: openssl pkey -in FILE -out NEW."
            }
            TlsError::Config(_) => "See the detail.",
        }
    }
}

/// The configuration of a TLS client. `require` and `prefer` with a CA file check the chain, as
/// libpq does; without one they check nothing.
///
/// # Errors
/// [`TlsError`] when a file is missing, unreadable or not what it should be.
pub fn client_config(options: &ConnectOptions) -> Result<ClientConfig, TlsError> {
    client_config_of(
        options.sslmode,
        options.sslrootcert.as_ref(),
        options.client_cert.as_ref(),
    )
}

/// The same for a server of another kind.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_of(
    sslmode: SslMode,
    root: Option<&RootCert>,
    client: Option<&ClientCert>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let trust = match root {
        Some(RootCert::File(path)) => Some(read_roots(path)?),
        Some(RootCert::System) => Some(system_roots()?),
        None if matches!(sslmode, SslMode::VerifyCa | SslMode::VerifyFull) => {
            return Err(TlsError::RootCertNeeded { sslmode });
        }
        None => None,
    };
    let verifier = Arc::new(Verifier {
        algorithms,
        trust,
        check_name: sslmode == SslMode::VerifyFull,
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match client {
        None => Ok(builder.with_no_client_auth()),
        Some(files) => {
            let (chain, key) = client_cert::read(files)?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::ClientCert)
        }
    }
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

/// Where the system keeps them, or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say, as with OpenSSL.
fn system_roots() -> Result<Trust, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found
            .errors
            .first()
            .map_or("there are none".to_owned(), ToString::to_string);
        return Err(TlsError::NoSystemRoots { reason });
    }
    // A root of the system is no server.
    let certificates = Vec::new();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(sslmode: SslMode, sslrootcert: Option<RootCert>) -> ConnectOptions {
        let keys = [("user".to_owned(), "u".to_owned())].into();
        let options = ConnectOptions::from_keys(&keys, &|_| None, None).unwrap();
        ConnectOptions {
            sslmode,
            sslrootcert,
            ..options
        }
    }

    #[test]
    fn verifying_modes_need_a_ca_file() {
        for sslmode in [SslMode::VerifyCa, SslMode::VerifyFull] {
            let refused = client_config(&options(sslmode, None));
            assert!(matches!(refused, Err(TlsError::RootCertNeeded { .. })));
        }
        assert!(client_config(&options(SslMode::Require, None)).is_ok());
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let root = |path: &Path| Some(RootCert::File(path.to_owned()));
        let refused = client_config(&options(SslMode::Require, root(file.path())));
        assert!(matches!(refused, Err(TlsError::NoRootCert { .. })));
        let missing = root(Path::new("/nonexistent/root.crt"));
        let missing = client_config(&options(SslMode::VerifyFull, missing));
        assert!(matches!(missing, Err(TlsError::RootCert { .. })));
    }
}
