//! `host` and `port`: one server, or several to be tried in order.
//!
//! Docs, "Specifying Multiple Hosts" of "libpq: Connection Strings": as many ports as hosts, or one
//! for all; an empty port is the default one. A host with a `/` is the directory of a socket.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{ConninfoError, DEFAULT_PORT, DEFAULT_SOCKET_DIRECTORIES, Password};

/// A server's address without its port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// Directory of the server's socket.
    Unix(PathBuf),
    /// Host name or IP address.
    Tcp(String),
}

/// One server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it is; with TLS also the name that its certificate must have.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The one address of the name to connect to. Without it all of them are tried.
    pub ip: Option<IpAddr>,
    /// The role's password there.
    pub password: Option<Password>,
}

impl Server {
    /// A server without a password.
    pub fn new(host: Host, port: u16) -> Self {
        Server {
            host,
            port,
            ip: None,
            password: None,
        }
    }
}

/// `name:port`, with the address where it is another; the path of a socket.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Unix(directory) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
            Host::Tcp(name) => {
                if name.contains(':') {
                    write!(f, "[{name}]:{}", self.port)?;
                } else {
                    write!(f, "{name}:{}", self.port)?;
                }
                match self.ip {
                    Some(ip) if name.parse() != Ok(ip) => write!(f, " ({ip})"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// The servers that `host` and `port` name.
///
/// # Errors
/// One of the two makes no sense, or they do not have the same number of parts.
pub fn parse_servers(host: Option<&str>, port: Option<&str>) -> Result<Vec<Server>, ConninfoError> {
    let hosts = parse_hosts(host)?;
    let ports = parse_ports(port)?;
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err(ConninfoError::PortCount {
            ports: ports.len(),
            hosts: hosts.len(),
        });
    }
    let port_of = |index: usize| ports.get(index).or(ports.first()).copied();
    Ok(hosts
        .into_iter()
        .enumerate()
        .map(|(index, host)| Server::new(host, port_of(index).unwrap_or(DEFAULT_PORT)))
        .collect())
}

fn parse_hosts(text: Option<&str>) -> Result<Vec<Host>, ConninfoError> {
    let Some(text) = text else {
        return Ok(DEFAULT_SOCKET_DIRECTORIES
            .iter()
            .map(|dir| Host::Unix(dir.into()))
            .collect());
    };
    text.split(',')
        .map(|host| match host.trim() {
            "" => Err(ConninfoError::invalid("host", text)),
            abstract_socket if abstract_socket.starts_with('@') => Err(ConninfoError::invalid("host", text)),
            directory if directory.starts_with('/') => Ok(Host::Unix(directory.into())),
            name => Ok(Host::Tcp(name.to_owned())),
        })
        .collect()
}

/// One port, or those of several hosts.
///
/// # Errors
/// One of them is none.
pub fn parse_ports(text: Option<&str>) -> Result<Vec<u16>, ConninfoError> {
    let text = text.unwrap_or_default();
    text.split(',')
        .map(|port| match port.trim() {
            "" => Ok(DEFAULT_PORT),
            number => match number.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(ConninfoError::invalid("port", text)),
            },
        })
        .collect()
}
