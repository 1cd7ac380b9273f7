//! What a server says when it says no, and what to do about it.
//!
//! Sources: redis.io/docs/latest/operate/oss_and_stack/management/security (protected mode, AUTH) and .../security/acl (NOPERM); the error
//! codes as the servers print them.

use std::io;

use super::dial::Address;
use crate::ComponentError;

/// What a user must be allowed.
pub const RIGHTS: &str = "ACL SETUSER name on >password resetkeys +psync +replconf +ping +info";

/// First word of a refusal, and what helps.
const HINTS: [(&str, &str); 12] = [
    (
        "WRONGPASS",
        "User name or password is wrong: see \"user\" and \"password\" of the component.",
    ),
    (
        "NOAUTH",
        "The server wants a password: name one with \"password\" of the component.",
    ),
    ("NOPERM", ""),
    (
        "LOADING",
        "The server is still loading its own data. Wait until `INFO persistence` says loading:0.",
    ),
    (
        "DENIED",
        "The server is in protected mode: give it a password, or let it listen on an address of its own (\"bind\").",
    ),
    (
        "NOMASTERLINK",
        "It is a replica without its master: it would give old data. Restore the link, or name the master.",
    ),
    (
        "MASTERDOWN",
        "It is a replica without its master: it would give old data. Restore the link, or name the master.",
    ),
    (
        "MISCONF",
        "The server cannot save. Its log says why: often a full disk.",
    ),
    (
        "BUSY",
        "A script has been running for too long: wait for it, or end it with SCRIPT KILL.",
    ),
    (
        "ERR max",
        "Raise \"maxclients\" of the server, or close connections that nobody needs.",
    ),
    (
        "ERR unknown command",
        "The command is renamed or taken away, as services do that run Redis for others: then their own snapshots are the way.",
    ),
    (
        "ERR AUTH",
        "The server has no password: leave \"password\" of the component out, or set one on the server.",
    ),
];

/// The server said no.
pub fn refused(server: &Address, asked: &str, answer: &str) -> ComponentError {
    let hint = HINTS.iter().find(|(word, _)| answer.starts_with(word));
    let hint = match hint {
        Some(("NOPERM", _)) => format!("Allow the user all of it: {RIGHTS}"),
        Some((_, hint)) => (*hint).to_owned(),
        None => "The server's log may say more.".to_owned(),
    };
    ComponentError::System {
        what: format!("redis at {server} refused {asked}"),
        detail: answer.chars().take(300).collect(),
        hint,
    }
}

/// The connection failed.
pub fn broken(server: &Address, doing: &str, error: &io::Error) -> ComponentError {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "Is the server running, and does it listen there? `INFO server` on its host prints tcp_port."
        }
        io::ErrorKind::NotFound => "There is no such socket, or no such host.",
        io::ErrorKind::PermissionDenied => "The socket is not open to this user (\"unixsocketperm\" of the server).",
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            "Does the server speak TLS on this port, and who signed its certificate?"
        }
        _ => "The server's log, and the network between, may say why.",
    };
    ComponentError::System {
        what: format!("redis at {server}, {doing}"),
        detail: error.to_string(),
        hint: hint.to_owned(),
    }
}

/// It answered something that it should not.
pub fn strange(server: &Address, doing: &str, detail: impl Into<String>) -> ComponentError {
    ComponentError::System {
        what: format!("redis at {server}, {doing}"),
        detail: detail.into(),
        hint: "Is it Redis or Valkey that answers there?".to_owned(),
    }
}

/// Nothing came for too long.
pub fn silent(server: &Address, doing: &str, seconds: u64) -> ComponentError {
    ComponentError::System {
        what: format!("redis at {server}, {doing}"),
        detail: format!("nothing came for {seconds} s"),
        hint: "Does the server hang (`SLOWLOG GET`), or is the network between lost?".to_owned(),
    }
}
