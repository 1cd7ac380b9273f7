//! Where a server is, and how a stream to it is opened: plain, through TLS, or in whatever way the caller knows.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host and a port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A stream of bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens streams.
#[async_trait]
pub trait Dial: fmt::Debug + Send + Sync {
    /// To this address. The caller limits the time.
    ///
    /// # Errors
    /// It cannot be reached.
    async fn dial(&self, to: &Address) -> io::Result<Box<dyn Stream>>;
}

/// As it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

#[async_trait]
impl Dial for Plain {
    async fn dial(&self, to: &Address) -> io::Result<Box<dyn Stream>> {
        match to {
            Address::Tcp(host, port) => Ok(Box::new(TcpStream::connect((host.as_str(), *port)).await?)),
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

/// Through TLS; a socket in the file system stays as it is.
#[derive(Clone)]
pub struct Tls {
    /// Whom to believe, and who we are.
    pub config: Arc<ClientConfig>,
    /// The name in the server's certificate; none: its host. Sentinels often name addresses that no certificate holds.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Dial for Tls {
    async fn dial(&self, to: &Address) -> io::Result<Box<dyn Stream>> {
        let Address::Tcp(host, port) = to else {
            return Plain.dial(to).await;
        };
        let name = self.server_name.clone().unwrap_or_else(|| host.clone());
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}
