//! `kind = "redis"`: Redis and Valkey.

use std::path::PathBuf;

use crate::Secrets;
use crate::reader::Reader;
use crate::secret::SecretText;

pub(super) const KEYS: [&str; 13] = [
    "address",
    "sentinels",
    "master",
    "user",
    "password_file",
    "sentinel_user",
    "sentinel_password_file",
    "tls",
    "ca_file",
    "server_name",
    "cert_file",
    "key_file",
    "server",
];
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A Redis or Valkey server, or several behind sentinels.
#[derive(Debug, Clone)]
pub struct RedisSource {
    /// Where it is.
    pub servers: RedisServers,
    /// `user`, of an ACL; none: the default user.
    pub user: Option<String>,
    /// What `password_file` holds.
    pub password: Option<SecretText>,
    /// `tls`, and what belongs to it.
    pub tls: Option<RedisTls>,
    /// `server`: a `redis-server` or `valkey-server` that loads what was restored.
    pub server: Option<PathBuf>,
}

/// Where Redis is.
#[derive(Debug, Clone)]
pub enum RedisServers {
    /// `address`: a host and a port, or the path of a socket.
    One(RedisAddress),
    /// `sentinels` know it as `master`.
    Sentinels {
        /// Where they are.
        addresses: Vec<RedisAddress>,
        /// Name of the master.
        master: String,
        /// `sentinel_user`.
        user: Option<String>,
        /// What `sentinel_password_file` holds.
        password: Option<SecretText>,
    },
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// Host and port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// TLS to Redis: the certificate and its name are always checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisTls {
    /// `ca_file`; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// `server_name`, where it is not the host of the address.
    pub server_name: Option<String>,
    /// `cert_file` and `key_file`: who we are.
    pub client: Option<(PathBuf, PathBuf)>,
}

pub(super) fn read(reader: &mut Reader<'_>, secrets: Secrets) -> Option<RedisSource> {
    let servers = servers(reader, secrets);
    let user = reader.text("user");
    let password = secret(reader, "password_file", secrets);
    if user.is_some() && !reader.is_set("password_file") {
        reader.complain("user", "has no password", "Name a file with it in \"password_file\".");
    }
    let tls = tls(reader);
    let server = reader.path("server");
    Some(RedisSource {
        servers: servers?,
        user,
        password,
        tls,
        server,
    })
}

fn servers(reader: &mut Reader<'_>, secrets: Secrets) -> Option<RedisServers> {
    let (address, sentinels) = (reader.text("address"), reader.list("sentinels"));
    let (master, user) = (reader.text("master"), reader.text("sentinel_user"));
    let password = secret(reader, "sentinel_password_file", secrets);
    match (address, sentinels.as_slice()) {
        (Some(address), []) => {
            for name in ["master", "sentinel_user", "sentinel_password_file"] {
                if reader.is_set(name) {
                    reader.complain(
                        name,
                        "is for sentinels",
                        "Write \"sentinels\" instead of \"address\", or leave it out.",
                    );
                }
            }
            one(reader, "address", &address, PORT).map(RedisServers::One)
        }
        (None, [_, ..]) => {
            let found: Vec<_> = sentinels
                .iter()
                .map(|text| one(reader, "sentinels", text, SENTINEL_PORT))
                .collect();
            if master.is_none() {
                reader.complain(
                    "master",
                    "is not set",
                    "Write the name that the sentinels give the master, often \"mymaster\".",
                );
            }
            Some(RedisServers::Sentinels {
                addresses: found.into_iter().collect::<Option<_>>()?,
                master: master?,
                user,
                password,
            })
        }
        (None, []) => {
            let hint =
                "Write a host and a port, \"127.0.0.1:6379\", the path of a socket, or \"sentinels\" and \"master\".";
            reader.complain("address", "is not set", hint);
            None
        }
        (Some(_), [_, ..]) => {
            reader.complain(
                "address",
                "is set beside \"sentinels\"",
                "One of them says where the server is: leave the other out.",
            );
            None
        }
    }
}

/// A host with or without a port, or a path.
fn one(reader: &mut Reader<'_>, name: &str, text: &str, port: u16) -> Option<RedisAddress> {
    let address = parse(text, port);
    if address.is_none() {
        let hint = format!("Write HOST:PORT (\"127.0.0.1:{port}\", \"[::1]:{port}\"), or the path of a socket.");
        reader.complain(
            name,
            &format!("holds \"{}\", which is no address", text.escape_debug()),
            hint,
        );
    }
    address
}

fn parse(text: &str, port: u16) -> Option<RedisAddress> {
    if text.starts_with('/') {
        return Some(RedisAddress::Unix(text.into()));
    }
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '@', ' ', '[', ']']);
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, port),
        Some((host, rest)) => (host, rest.strip_prefix(':')?.parse().ok()?),
        None => match text.rsplit_once(':') {
            // Without brackets nobody knows where the address ends.
            Some((host, _)) if host.contains(':') => return None,
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, port),
        },
    };
    is_host(host).then(|| RedisAddress::Tcp(host.to_owned(), port))
}

fn tls(reader: &mut Reader<'_>) -> Option<RedisTls> {
    let (is_on, ca_file, server_name) = (reader.flag("tls"), reader.path("ca_file"), reader.text("server_name"));
    let client = match (reader.path("cert_file"), reader.path("key_file")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            reader.complain(
                "cert_file",
                "is set without \"key_file\"",
                "Name the file with its private key.",
            );
            None
        }
        (None, Some(_)) => {
            reader.complain(
                "key_file",
                "is set without \"cert_file\"",
                "Name the file with the certificate.",
            );
            None
        }
    };
    if is_on == Some(true) {
        return Some(RedisTls {
            ca_file,
            server_name,
            client,
        });
    }
    // Who names a certificate believes that it is looked at.
    for name in ["ca_file", "server_name", "cert_file", "key_file"] {
        if reader.is_set(name) {
            reader.complain(name, "is set, and \"tls\" is not", "Write tls = true, or leave it out.");
        }
    }
    None
}

fn secret(reader: &mut Reader<'_>, name: &str, secrets: Secrets) -> Option<SecretText> {
    if !reader.is_set(name) {
        return None;
    }
    match secrets {
        Secrets::Read => reader.secret(name),
        Secrets::Leave => {
            reader.path(name);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port_or_a_path() {
        let tcp = |host: &str, port| Some(RedisAddress::Tcp(host.to_owned(), port));
        assert_eq!(parse("cache", 6379), tcp("cache", 6379));
        assert_eq!(parse("10.0.0.1:7000", 6379), tcp("10.0.0.1", 7000));
        assert_eq!(parse("[::1]:7000", 6379), tcp("::1", 7000));
        assert_eq!(parse("[::1]", 6379), tcp("::1", 6379));
        assert_eq!(
            parse("/run/redis.sock", 6379),
            Some(RedisAddress::Unix("/run/redis.sock".into()))
        );
        for bad in [
            "",
            ":7000",
            "::1",
            "redis://cache",
            "a:b",
            "a:99999",
            "user@host:1",
            "[::1]7",
        ] {
            assert_eq!(parse(bad, 6379), None, "{bad}");
        }
    }
}
