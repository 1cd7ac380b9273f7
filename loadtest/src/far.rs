//! A store that is far away: a port that leads to another one, and takes its time in both directions.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pieces on their way in one direction.
const LANE: usize = 4096;
const PIECE_BYTES: usize = 64 << 10;

/// Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Far {
    /// A way to a local port; an answer comes `round_trip` later than it would.
    pub(crate) async fn to(port: u16, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let here = listener.local_addr()?.port();
        let delay = round_trip / 2;
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                        return;
                    };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(carry(near_in, far_out, delay), carry(far_in, near_out, delay));
                });
            }
        });
        Ok(Far { port: here, task })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every byte arrives so much later; many may be on their way.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (lane, mut arrivals) = mpsc::channel::<(Instant, Vec<u8>)>(LANE);
    let read = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(got) = from.read(&mut buffer).await {
            let piece = buffer.get(..got).unwrap_or_default().to_vec();
            if got == 0 || lane.send((Instant::now() + delay, piece)).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = arrivals.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        // An error means that the other end is gone already.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
