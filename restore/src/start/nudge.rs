//! A startup process that waits at its stop point looks only once a second whether it was promoted (PostgreSQL 14 to 18,
//! `recoveryPausesHere` in `xlogrecovery.c`): the signal of a promotion does not end its sleep. SIGUSR1 does, and means nothing else to it
//! as long as no reason for it is noted in shared memory (`procsignal_sigusr1_handler` in `procsignal.c`).

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio_postgres::Client;

/// The postmaster passes a promotion on within this, mostly; if not, a second is lost.
const NUDGES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];

/// The startup process, if it can be found; by a descriptor, so that nothing else is ever meant.
pub(super) struct Startup(Option<OwnedFd>);

impl Startup {
    pub(super) async fn find(client: &Client) -> Self {
        let first = pid(client).await;
        let descriptor = first.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Still the same one: the descriptor is its own.
        let is_it = pid(client).await == first;
        Startup(descriptor.filter(|_| is_it))
    }

    /// Lets it look whether it is promoted.
    pub(super) async fn nudge(&self) {
        let Some(process) = &self.0 else { return };
        for pause in NUDGES {
            tokio::time::sleep(pause).await;
            if pidfd_send_signal(process, Signal::USR1).is_err() {
                return;
            }
        }
    }
}

async fn pid(client: &Client) -> Option<Pid> {
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
    let row = client.query_opt(query, &[]).await.ok()??;
    Pid::from_raw(row.try_get(0).ok()?)
}
