//! A man in the middle of PostgreSQL connections: ends TLS on one side, begins it anew on the other, reads and changes what is said
//! about authentication.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use pg::conninfo::{ConnectOptions, SslMode};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// AuthenticationSASL, with one mechanism.
const PLAIN_ONLY: &[u8] = b"R\0\0\0\x17\0\0\0\x0ASCRAM-SHA-256\0\0";

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// Only reads.
    Read,
    /// Says that the server has no channel binding.
    HideBinding,
    /// Says that the server has no TLS.
    StripTls,
}

/// What one client said on its way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// It asked for replication.
    pub is_replication: bool,
    /// The SASL mechanism that it chose, and the first letter of its message: `p` bound, `y` would have been, `n` not. Empty when
    /// it answered nothing.
    pub mechanism: String,
    pub flag: String,
}

/// The man. Dropping it ends it.
#[derive(Debug)]
pub struct Between {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Man {
    trick: Trick,
    server_port: u16,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Between {
    /// Listens on 127.0.0.1 and leads to the server on that port; shows this certificate.
    pub async fn start(server_port: u16, certificate: &Path, key: &Path, trick: Trick) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
        // Towards the server it is a client that trusts everybody.
        let keys = [("user".to_owned(), "nobody".to_owned())].into();
        let mut options = ConnectOptions::from_keys(&keys, &|_| None, None)?;
        options.sslmode = SslMode::Require;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let man = Man {
            trick,
            server_port,
            acceptor: Arc::new(config).into(),
            connector: Arc::new(pg::tls::client_config(&options)?).into(),
            seen: Arc::clone(&seen),
        };
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let man = man.clone();
                // A connection that breaks is what some tests want.
                tokio::spawn(async move { Box::pin(man.serve(client)).await.ok() });
            }
        });
        Ok(Self { port, seen, task })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came by since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Man {
    async fn serve(&self, mut client: TcpStream) -> Result<()> {
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        ensure!(request == SSL_REQUEST, "not a request for TLS");
        let mut server = TcpStream::connect(("127.0.0.1", self.server_port)).await?;
        server.write_all(&SSL_REQUEST).await?;
        ensure!(server.read_u8().await? == b'S', "the server has no TLS");
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let server = self.connector.connect(name, server).await?;
        if self.trick == Trick::StripTls {
            client.write_all(b"N").await?;
            return self.talk(client, server).await;
        }
        client.write_all(b"S").await?;
        self.talk(self.acceptor.accept(client).await?, server).await
    }

    async fn talk<C, S>(&self, mut client: C, mut server: S) -> Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let startup = read_startup(&mut client).await?;
        let at = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(Seen {
                is_replication: startup.windows(12).any(|word| word == b"replication\0"),
                mechanism: String::new(),
                flag: String::new(),
            });
            seen.len() - 1
        };
        server.write_all(&startup).await?;
        server.flush().await?;
        let mut request = read_message(&mut server).await?;
        let is_sasl = request.starts_with(b"R") && request.get(5..9) == Some(&[0, 0, 0, 10]);
        if is_sasl && self.trick == Trick::HideBinding {
            request = PLAIN_ONLY.to_vec();
        }
        client.write_all(&request).await?;
        client.flush().await?;
        if is_sasl {
            let answer = read_message(&mut client).await?;
            let (mechanism, flag) = said(&answer).context("not a SASL answer")?;
            if let Some(seen) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
                (seen.mechanism, seen.flag) = (mechanism, flag);
            }
            server.write_all(&answer).await?;
            server.flush().await?;
        }
        copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }
}

/// Mechanism and flag of a SASLInitialResponse.
fn said(answer: &[u8]) -> Option<(String, String)> {
    let body = answer.strip_prefix(b"p")?.get(4..)?;
    let end = body.iter().position(|byte| *byte == 0)?;
    let mechanism = String::from_utf8_lossy(body.get(..end)?).into_owned();
    let flag = char::from(*body.get(end + 5)?).to_string();
    Some((mechanism, flag))
}

async fn read_startup(client: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = client.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    read_rest(client, &mut message, length).await?;
    Ok(message)
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let kind = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    read_rest(from, &mut message, length).await?;
    Ok(message)
}

/// What follows a length, which counts itself.
async fn read_rest(from: &mut (impl AsyncRead + Unpin), message: &mut Vec<u8>, length: u32) -> Result<()> {
    if !(4..=10_000).contains(&length) {
        bail!("a message of {length} bytes");
    }
    let before = message.len();
    message.resize(before + length as usize - 4, 0);
    from.read_exact(&mut message[before..]).await?;
    Ok(())
}
