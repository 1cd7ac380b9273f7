//! The channel binding `tls-server-end-point` (RFC 5929, 4.1): a hash of the server's certificate.
//!
//! Pure: DER in, hash out. Hostile bytes give no binding, never a panic.

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
