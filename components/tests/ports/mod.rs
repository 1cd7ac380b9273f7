//! Ports for servers: the leases are those of the end-to-end tests.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;

static LEASED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that no other test gets.
pub fn free_port() -> u16 {
    let user = std::fs::metadata("/proc/self").unwrap().uid();
    let leases = std::env::temp_dir().join(format!("seawall-test-ports-{user}"));
    std::fs::create_dir_all(&leases).unwrap();
    let mut leased = LEASED.lock().unwrap();
    for port in 15_000..32_000_u16 {
        let mut options = OpenOptions::new();
        let lease = options.create(true).truncate(false).write(true);
        let lease = lease.open(leases.join(port.to_string())).unwrap();
        if lease.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            leased.push(lease);
            return port;
        }
    }
    panic!("all ports for tests are taken");
}
