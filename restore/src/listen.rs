//! Is the place free where the restored server will listen? Asked before the files come, not after.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{RestoreError, Result};

/// A port of this host answers at once, or nobody is there.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// Where the restored server will listen: what was asked for, else what the backed-up server had.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    port: u16,
    sockets: Vec<PathBuf>,
    has_tcp: bool,
}

impl Place {
    /// `None` where nobody knows the port.
    fn of(port: Option<u16>, socket_dir: Option<&Path>, recorded: &BTreeMap<String, String>) -> Option<Self> {
        let recorded_port = || recorded.get("port").and_then(|port| port.parse().ok());
        let sockets = match (socket_dir, recorded.get("unix_socket_directories")) {
            (Some(directory), _) => vec![directory.to_owned()],
            (None, Some(list)) => list
                .split(',')
                .map(|one| PathBuf::from(one.trim().trim_matches('"')))
                .filter(|one| one.is_absolute())
                .collect(),
            (None, None) => Vec::new(),
        };
        Some(Place {
            port: port.or_else(recorded_port)?,
            sockets,
            has_tcp: recorded
                .get("listen_addresses")
                .is_none_or(|list| !list.trim().is_empty()),
        })
    }

    /// Who listens there already.
    fn taken(&self) -> Option<String> {
        let answers =
            |directory: &&PathBuf| UnixStream::connect(directory.join(format!(".s.PGSQL.{}", self.port))).is_ok();
        if let Some(directory) = self.sockets.iter().find(answers) {
            return Some(format!(
                "a server listens on port {} in \"{}\" already",
                self.port,
                directory.display()
            ));
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let is_taken = self.has_tcp && TcpStream::connect_timeout(&address, ANSWERS_WITHIN).is_ok();
        is_taken.then(|| format!("something listens on port {} of this host already", self.port))
    }
}

/// Refuses a port that is taken.
pub(crate) fn refuse_taken(
    port: Option<u16>,
    socket_dir: Option<&Path>,
    recorded: &BTreeMap<String, String>,
) -> Result<()> {
    match Place::of(port, socket_dir, recorded).and_then(|place| place.taken()) {
        None => Ok(()),
        Some(message) => Err(RestoreError::refused(
            message,
            "The restored server could not start. Name another port with --port N, and --socket-dir DIR.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_taken_is_found_and_what_was_asked_for_counts_first() {
        let scratch = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = scratch.path().display().to_string();
        let recorded = |listen: &str, port: u16| {
            BTreeMap::from([
                ("port".to_owned(), port.to_string()),
                ("unix_socket_directories".to_owned(), format!("{sockets}, @abstract")),
                ("listen_addresses".to_owned(), listen.to_owned()),
            ])
        };
        assert!(refuse_taken(None, None, &BTreeMap::new()).is_ok());
        assert!(refuse_taken(None, None, &recorded("*", port)).is_err());
        assert!(refuse_taken(None, None, &recorded("", port)).is_ok());
        assert!(refuse_taken(Some(1), None, &recorded("*", port)).is_ok());
        let _socket = UnixListener::bind(scratch.path().join(".s.PGSQL.7")).unwrap();
        assert!(refuse_taken(Some(7), None, &recorded("", 1)).is_err());
        assert!(refuse_taken(Some(7), Some(Path::new("/nowhere")), &recorded("", 1)).is_ok());
    }
}
