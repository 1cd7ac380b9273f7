//! The way in to the restored server: over its socket, as the user of the operating system, by two lines that stand in its access
//! rules for the time of the start.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::{Server, failed};
use crate::error::Result;
use crate::owner;
use crate::paths::Place;
use crate::tree::Tree;

/// Ends each line that we put in.
const MARK: &str = "# seawall: while wal-restore --start looks on";
const MAP: &str = "seawall_restore";

/// Roles that may be there, the likely superuser first.
fn roles(server: &Server) -> Vec<String> {
    let mut roles = vec!["postgres".to_owned()];
    roles.extend(
        server
            .owner
            .iter()
            .map(|owner| owner.name.clone())
            .chain(owner::own_name())
            .chain(server.configured_user.clone()),
    );
    let mut seen = std::collections::HashSet::new();
    roles.retain(|role| !role.contains(['"', '\n', '\r']) && seen.insert(role.clone()));
    roles
}

/// Puts our lines in front.
pub(super) fn open(server: &Server, tree: &Tree) -> Result<()> {
    let users: Vec<String> = server
        .owner
        .iter()
        .map(|owner| owner.name.clone())
        .chain(owner::own_name())
        .collect();
    let mut map = String::new();
    for user in &users {
        for role in roles(server) {
            map.push_str(&format!("{MAP} \"{user}\" \"{role}\" {MARK}\n"));
        }
    }
    prepend(tree, "pg_ident.conf", &map)?;
    prepend(tree, "pg_hba.conf", &format!("local all all peer map={MAP} {MARK}\n"))
}

/// Takes our lines out again.
pub(super) fn close(tree: &Tree) -> Result<()> {
    prepend(tree, "pg_hba.conf", "")?;
    prepend(tree, "pg_ident.conf", "")
}

fn prepend(tree: &Tree, name: &str, lines: &str) -> Result<()> {
    let place = Place::ours(name);
    let old = tree.read_file(&place)?.unwrap_or_default();
    let new = without_ours(lines.as_bytes(), &old);
    if new == old {
        Ok(())
    } else {
        tree.write_file(&place, &new, 0o600)
    }
}

fn without_ours(lines: &[u8], old: &[u8]) -> Vec<u8> {
    let mut new = lines.to_vec();
    for line in old
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii_end().ends_with(MARK.as_bytes()))
    {
        new.extend_from_slice(line);
    }
    new
}

/// Socket directory (or host) and port, as the server wrote them down.
fn place_of(text: &str) -> Option<(String, u16)> {
    let lines: Vec<&str> = text.lines().collect();
    let port = lines.get(3)?.trim().parse().ok()?;
    let socket = lines.get(4)?.trim();
    let host = match (socket, lines.get(5).map(|line| line.trim()).unwrap_or_default()) {
        ("", "*" | "0.0.0.0") => "127.0.0.1",
        ("", host) => host,
        (socket, _) => socket,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Where we came in.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub(super) socket_dir: String,
    pub(super) port: u16,
    pub(super) role: String,
}

/// Connects, as whichever role is there.
pub(super) async fn connect(server: &Server, begun: Instant) -> Result<(Client, At)> {
    let text = std::fs::read_to_string(server.pgdata.join("postmaster.pid")).unwrap_or_default();
    let Some((host, port)) = place_of(&text) else {
        return Err(server.died("the restored server does not say where it listens"));
    };
    let mut last = String::new();
    loop {
        for role in roles(server) {
            let mut config = tokio_postgres::Config::new();
            config
                .host(&host)
                .port(port)
                .user(&role)
                .dbname("postgres")
                .application_name("wal-restore")
                .connect_timeout(Duration::from_secs(10));
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "connection to the restored server ended");
                        }
                    });
                    let at = At {
                        socket_dir: host,
                        port,
                        role,
                    };
                    return Ok((client, at));
                }
                Err(error) => {
                    last = super::client::said(&error);
                }
            }
        }
        if !server.is_running() {
            return Err(server.died("the restored server ended"));
        }
        if begun.elapsed() > server.limit || begun.elapsed() > Duration::from_secs(60) && !last.contains("starting up")
        {
            let hint =
                "It runs, and recovery pauses at the stop point. Look with psql, then promote it with pg_ctl promote.";
            return Err(failed(format!("cannot connect to the restored server: {last}"), hint));
        }
        tokio::time::sleep(super::POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_come_first_and_go_without_a_trace() {
        let old = b"# rules\nlocal all all scram-sha-256\nlast line without end";
        let line = format!("local all all peer map={MAP} {MARK}\n");
        let with = without_ours(line.as_bytes(), old);
        assert!(with.starts_with(b"local all all peer map"));
        assert_eq!(without_ours(line.as_bytes(), &with), with);
        assert_eq!(without_ours(b"", &with), old);
    }

    #[test]
    fn the_server_tells_where_it_listens() {
        let text = "77\n/data\n1700000000\n5433\n/run/pg\nlocalhost\n  1 2\nready\n";
        assert_eq!(place_of(text), Some(("/run/pg".into(), 5433)));
        assert_eq!(place_of("77\n/data\n1\n5433\n\n*\n"), Some(("127.0.0.1".into(), 5433)));
        assert_eq!(place_of("77\n/data\n"), None);
    }
}
