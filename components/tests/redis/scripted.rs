//! Servers that say what is written here, for what real ones say seldom.

use std::path::Path;
use std::sync::Arc;

use components::redis::Address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What is answered to a command of this name.
pub type Script = &'static [(&'static str, &'static [u8])];

const INFO: (&str, &[u8]) = (
    "INFO",
    b"$65\r\nredis_version:9.9.9\r\nloading:0\r\nrole:master\r\ndb0:keys=7,expires=0\r\n",
);
const REPLCONF: (&str, &[u8]) = ("REPLCONF", b"-ERR Unrecognized REPLCONF option\r\n");
const CAPA: (&str, &[u8]) = ("REPLCONF", b"+OK\r\n");

/// A script, and what must be said of it.
pub const REFUSALS: &[(Script, &[&str])] = &[
    (&[INFO, REPLCONF], &["refused REPLCONF"]),
    (
        &[
            INFO,
            CAPA,
            (
                "PSYNC",
                b"\n\n-NOMASTERLINK Can't SYNC while not connected with my master\r\n",
            ),
        ],
        &["NOMASTERLINK", "Restore the link"],
    ),
    (
        &[INFO, CAPA, ("PSYNC", b"-ERR unknown command 'PSYNC'\r\n")],
        &["their own snapshots"],
    ),
    (&[INFO, CAPA, ("PSYNC", b"+CONTINUE\r\n")], &["not FULLRESYNC"]),
    (
        &[
            INFO,
            CAPA,
            (
                "PSYNC",
                b"+FULLRESYNC a 1\r\n\n\n-ERR BGSAVE failed, replication can't continue\r\n",
            ),
        ],
        &["BGSAVE failed"],
    ),
    (
        &[INFO, CAPA, ("PSYNC", b"+FULLRESYNC a 1\r\n$20\r\nthis is no RDB file.")],
        &["not an RDB file"],
    ),
    (
        &[INFO, CAPA, ("PSYNC", b"+FULLRESYNC a 1\r\n$12\r\nREDIS0011\xfe\0\xff")],
        &["ends in the middle"],
    ),
    (&[("INFO", b"$9\r\nloading:1\r\n")], &["LOADING"]),
    (
        &[("INFO", b"-DENIED Redis is running in protected mode\r\n")],
        &["protected mode", "\"bind\""],
    ),
    (&[("INFO", b"HTTP/1.1 400 Bad Request\r\n\r\n")], &["Redis or Valkey"]),
];

/// A file with a type that nobody knows; checksum of Jones.
pub const UNKNOWN_TYPE: Script = &[
    INFO,
    CAPA,
    ("PSYNC", b"+FULLRESYNC a 1\r\n\n$EOF:0123456789abcdef0123456789abcdef01234567\r\nREDIS0099\xfe\0\x63what\xff\xd3\xdc\x7d\xaa\x06\x67\x07\xe50123456789abcdef0123456789abcdef01234567"),
];

/// Listens, and answers each command by its name.
pub async fn server(script: Script) -> Address {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let answer = script.iter().find(|(name, _)| asked.contains(name));
                let (_, answer) = answer.unwrap_or(&("", b"-ERR what?\r\n"));
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
        }
    });
    Address::Tcp("127.0.0.1".into(), port)
}

/// A client that believes this certificate alone.
pub fn believing(certificate: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}
