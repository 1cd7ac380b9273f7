//! The end of a session: what came in is made durable, within a limit, and only then confirmed.

use std::time::Duration;

use store::crash::{self, CrashPoint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ReceiveError, Receiver, StreamEnd, stopped};
use crate::ship::Shipped;

/// How often a session that waits for the store says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

impl Receiver<'_> {
    /// Ships what there is and waits until all of it is durable; false when the wait ended first.
    pub(super) async fn settle(&mut self, mut wait: Settle<'_>) -> Result<bool, ReceiveError> {
        while self.pending.is_some() {
            self.take_pending()?;
            if self.pending.is_some() {
                let Some(report) = self.next_report(&mut wait).await else {
                    return Ok(false);
                };
                self.take_settling_report(report)?;
            }
        }
        self.ship_tail()?;
        while self.shipper.in_flight() > 0 || self.tail_waits {
            let Some(report) = self.next_report(&mut wait).await else {
                return Ok(false);
            };
            self.take_settling_report(report)?;
        }
        Ok(self.progress.is_settled())
    }

    async fn next_report(&mut self, wait: &mut Settle<'_>) -> Option<Shipped> {
        if let Settle::UntilStopped(stop) = wait {
            loop {
                tokio::select! {
                    biased;
                    report = self.reports.recv() => return report,
                    () = stopped(stop) => break,
                    // Whoever watches sees that this waits, and does not hang.
                    () = tokio::time::sleep(ALIVE_EVERY) => self.status.send_modify(|_| ()),
                }
            }
            *wait = Settle::Until(Instant::now() + self.options.shutdown_timeout);
        }
        let Settle::Until(limit) = wait else { return None };
        tokio::time::timeout_at(*limit, self.reports.recv())
            .await
            .ok()
            .flatten()
    }

    /// As [`Receiver::take_report`], when the server may be gone already: nothing is sent.
    fn take_settling_report(&mut self, report: Shipped) -> Result<(), ReceiveError> {
        self.shipper.settle(&report);
        let tail_waits = std::mem::take(&mut self.tail_waits);
        report.outcome?;
        self.progress.make_durable(report.start, report.end);
        self.lag.settle(self.progress.archived().lsn(), (self.clock)());
        self.publish();
        if tail_waits {
            self.ship_tail()?;
        }
        Ok(())
    }

    pub(super) async fn stop(mut self) -> Result<StreamEnd, ReceiveError> {
        let limit = Instant::now() + self.options.shutdown_timeout;
        let settled = self.settle(Settle::Until(limit)).await?;
        crash::point(CrashPoint::BeforeLastStatus);
        let status = self.status_now();
        self.stream.send_status(status).await?;
        // Ending the copy in order tells the server that we leave; it sends what is under way, which we drop unconfirmed.
        let ended = tokio::time::timeout(Duration::from_secs(2), self.stream.finish()).await;
        if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "the server did not end the stream in order");
        }
        Ok(StreamEnd::Stopped { settled })
    }
}

/// How long to wait for the last pieces.
pub(super) enum Settle<'a> {
    /// For good, until we are asked to stop; then for the shutdown timeout.
    UntilStopped(&'a mut watch::Receiver<bool>),
    /// Until then.
    Until(Instant),
}
