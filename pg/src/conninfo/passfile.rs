//! The password file: docs, "libpq: The Password File".
//!
//! Lines are `host:port:database:user:password`; a field that is only `*` matches anything, `\`
//! takes the meaning from a following `:` or `\`, and lines that start with `#` are comments. The
//! first line that matches counts.

use super::{DEFAULT_SOCKET_DIRECTORIES, Host, Password, Server};

/// The password for a connection, from the text of a password file.
pub fn passfile_lookup(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<Password> {
    let port = port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in [host, &port, database, user] {
            rest = match_field(rest, wanted)?;
        }
        Some(Password::new(unescape(rest)))
    })
}

/// The password for a server that has a line for the database, or for `replication`.
pub(super) fn password_from_file(text: &str, server: &Server, database: &str, user: &str) -> Option<Password> {
    let find = |name: &str| {
        passfile_lookup(text, name, server.port, database, user)
            .or_else(|| passfile_lookup(text, name, server.port, "replication", user))
    };
    match &server.host {
        Host::Tcp(name) => find(name),
        Host::Unix(directory) => {
            let default = DEFAULT_SOCKET_DIRECTORIES
                .iter()
                .any(|dir| directory.as_os_str() == *dir);
            if default {
                find("localhost")
            } else {
                find(directory.to_str()?)
            }
        }
    }
}

/// What follows the first field and its colon, when the field matches.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut expected = wanted.chars();
    let mut chars = line.chars();
    loop {
        let found = match chars.next()? {
            ':' => return expected.next().is_none().then_some(chars.as_str()),
            '\\' => chars.next()?,
            plain => plain,
        };
        if expected.next() != Some(found) {
            return None;
        }
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}
