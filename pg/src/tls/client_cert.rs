//! Our own certificate and its private key, read from the files of `sslcert` and `sslkey`.
//!
//! The key is held to libpq's rule (fe-secure-openssl.c, `initialize_SSL`): a regular file that nobody
//! but its owner can use, or one of root that a group may read. What is looked at is the open file,
//! so it cannot be exchanged in between; what was read is wiped.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsError;
use crate::conninfo::ClientCert;

/// Larger than any chain or key.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The chain and the key.
pub(super) fn read(files: &ClientCert) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    Ok((read_chain(&files.certificate)?, read_key(&files.key)?))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (file, _) = open("sslcert", path)?;
    let text = read_all("sslcert", path, file)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(content("sslcert", path, "contains no certificate")),
        Err(_) => Err(content("sslcert", path, "is not PEM")),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (file, metadata) = open("sslkey", path)?;
    let mode = metadata.mode() & 0o7777;
    if is_exposed(metadata.uid(), mode) {
        return Err(TlsError::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    let text = read_all("sslkey", path, file)?;
    if is_encrypted(&text) {
        return Err(TlsError::KeyEncrypted { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| content("sslkey", path, "contains no private key in PEM"))
}

/// Whether others than the owner can use a key: for root's own, a group may read it.
fn is_exposed(owner: u32, mode: u32) -> bool {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    mode & forbidden != 0
}

/// PKCS #8 says so in the first line, the older forms in a header.
fn is_encrypted(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY")
            || (line.starts_with(b"Proc-Type:") && line.windows(9).any(|word| word == b"ENCRYPTED"))
    })
}

fn open(key: &'static str, path: &Path) -> Result<(File, std::fs::Metadata), TlsError> {
    let failed = |source| TlsError::ClientFile {
        key,
        path: path.to_owned(),
        source,
    };
    // A pipe would keep us waiting for who writes it.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(content(key, path, "is not a regular file"));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    Ok((file, metadata))
}

fn read_all(key: &'static str, path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::ClientFile {
        key,
        path: path.to_owned(),
        source,
    };
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let bytes = file.metadata().map_err(failed)?.len().min(FILE_BYTES_MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(bytes).unwrap_or_default() + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(content(key, path, "is too large"));
    }
    Ok(text)
}

fn content(key: &'static str, path: &Path, reason: &'static str) -> TlsError {
    TlsError::ClientFileContent {
        key,
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn a_key_is_for_its_owner_alone_or_roots_and_a_group_may_read_it() {
        for (owner, mode, exposed) in [
            (1000, 0o600, false),
            (1000, 0o400, false),
            (1000, 0o640, true),
            (1000, 0o604, true),
            (1000, 0o610, true),
            (0, 0o600, false),
            (0, 0o640, false),
            (0, 0o660, true),
            (0, 0o650, true),
            (0, 0o644, true),
            (0, 0o641, true),
        ] {
            assert_eq!(is_exposed(owner, mode), exposed, "{owner} {mode:o}");
        }
    }

    struct Keys(tempfile::TempDir);

    impl Keys {
        /// Runs openssl in the directory.
        fn openssl(&self, arguments: &str) {
            let output = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(self.0.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }

        fn key(&self, name: &str, mode: u32) -> Result<PrivateKeyDer<'static>, TlsError> {
            let path = self.0.path().join(name);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_key(&path)
        }
    }

    #[test]
    fn keys_of_every_form_are_read_and_encrypted_ones_are_named() {
        let keys = Keys(tempfile::tempdir().unwrap());
        keys.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out pkcs8");
        keys.openssl("ec -in pkcs8 -out sec1");
        keys.openssl("genrsa -traditional -out pkcs1 2048");
        for name in ["pkcs8", "sec1", "pkcs1"] {
            assert!(keys.key(name, 0o600).is_ok(), "{name}");
        }
        keys.openssl("pkcs8 -topk8 -in pkcs8 -passout pass:x -out pkcs8.encrypted");
        keys.openssl("rsa -aes128 -traditional -passout pass:x -in pkcs1 -out pkcs1.encrypted");
        for name in ["pkcs8.encrypted", "pkcs1.encrypted"] {
            let error = keys.key(name, 0o600).unwrap_err();
            assert!(matches!(error, TlsError::KeyEncrypted { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_refused() {
        let keys = Keys(tempfile::tempdir().unwrap());
        keys.openssl("genpkey -algorithm ED25519 -out key");
        let error = keys.key("key", 0o666).unwrap_err();
        assert!(matches!(error, TlsError::KeyExposed { mode: 0o666, .. }), "{error}");
        let directory = keys.0.path();
        let error = read_chain(&directory.join("key")).unwrap_err();
        assert!(error.to_string().ends_with("contains no certificate"), "{error}");
        let error = read_chain(directory).unwrap_err();
        assert!(error.to_string().ends_with("is not a regular file"), "{error}");
        let error = read_key(&directory.join("missing")).unwrap_err();
        assert!(matches!(error, TlsError::ClientFile { key: "sslkey", .. }), "{error}");
        std::fs::write(directory.join("empty"), "").unwrap();
        let error = keys.key("empty", 0o600).unwrap_err();
        assert!(matches!(error, TlsError::ClientFileContent { .. }), "{error}");
    }
}
