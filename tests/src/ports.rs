//! Ports for the servers of tests. Programs run side by side, servers are killed and come back at the same port, and both clients and
//! whoever asks the kernel for "any port" take theirs from the range of ephemeral ports: so ours are below it, and each is leased by a
//! lock on a file for as long as the program lives that asked.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{Error, Result};
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

/// Below the ephemeral ports of Linux (`ip_local_port_range` begins at 32768) and above those of well-known servers.
const PORTS: Range<u16> = 15_000..32_000;

/// What this program has leased. The kernel lets go of the locks when it ends, however it ends.
static LEASED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Ports of the loopback interface on which nobody listens, all different, and that no other test gets while this program runs.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let user = std::fs::metadata("/proc/self")?.uid();
    let leases = std::env::temp_dir().join(format!("seawall-test-ports-{user}"));
    create_dir_all(&leases)?;
    let mut leased = LEASED
        .lock()
        .map_err(|_| Error::other("a test panicked while it leased a port"))?;
    let mut free = Vec::with_capacity(count);
    for port in PORTS {
        if free.len() == count {
            return Ok(free);
        }
        let lease = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(leases.join(port.to_string()))?;
        // A lock belongs to the open file: what this program has leased before is locked for it, too.
        if lease.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            leased.push(lease);
            free.push(port);
        }
    }
    Err(Error::other("all ports for tests are taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let mut ports = free_ports(3).unwrap();
        ports.extend(free_ports(3).unwrap());
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6);
        let port = ports[0];
        let file = std::env::temp_dir().join(format!(
            "seawall-test-ports-{}/{port}",
            std::fs::metadata("/proc/self").unwrap().uid()
        ));
        assert!(File::open(file).unwrap().try_lock().is_err());
    }
}
