//! Redis as a component, and streams to it with a fault in what is read.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use components::redis::{Address, Dial, Plain, Redis, Servers, Stream, Waits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stage::Stage;

impl Stage {
    /// Without a password, and with a server that loads what is restored.
    pub fn redis(&self, server: Address, program: Option<&Path>) -> Redis {
        Redis {
            servers: Servers::One(server),
            login: None,
            dial: Arc::new(Plain),
            waits: Waits {
                answer_max: Duration::from_secs(20),
                silence_max: Duration::from_secs(30),
                load_max: Duration::from_secs(60),
            },
            spares_master: true,
            program: program.map(Path::to_owned),
            scratch: self.directory.path().to_owned(),
            now_us: Stage::clock(),
        }
    }
}

/// Something that is done once.
pub type Call = Box<dyn FnOnce() + Send>;

/// What happens to a stream behind so many bytes.
#[derive(Clone)]
pub enum Fault {
    /// It ends as if the server had closed it.
    Ends,
    /// Nothing comes any more.
    Hangs,
    /// A byte is another.
    Flips,
    /// Something happens, once.
    Calls(Arc<Mutex<Option<Call>>>),
}

/// Streams with a fault in what is read.
#[derive(Clone)]
pub struct Faulty {
    pub behind: u64,
    pub fault: Fault,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty")
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Dial for Faulty {
    async fn dial(&self, to: &Address) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(FaultyStream {
            stream: Plain.dial(to).await?,
            read: 0,
            faulty: self.clone(),
        }))
    }
}

struct FaultyStream {
    stream: Box<dyn Stream>,
    read: u64,
    faulty: Faulty,
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.faulty.behind.saturating_sub(self.read);
        match (&self.faulty.fault, left) {
            (Fault::Ends, 0) => return Poll::Ready(Ok(())),
            (Fault::Hangs, 0) => return Poll::Pending,
            (Fault::Calls(call), 0) => {
                if let Some(call) = call.lock().unwrap().take() {
                    call();
                }
            }
            _ => {}
        }
        let most = match left {
            0 => buffer.remaining(),
            left => buffer.remaining().min(usize::try_from(left).unwrap()),
        };
        let mut part = vec![0; most];
        let mut part = ReadBuf::new(&mut part);
        match Pin::new(&mut self.stream).poll_read(context, &mut part) {
            Poll::Ready(Ok(())) => {
                let bytes = part.filled_mut();
                if matches!(self.faulty.fault, Fault::Flips)
                    && left == bytes.len() as u64
                    && let Some(last) = bytes.last_mut()
                {
                    *last ^= 0x10;
                }
                self.read += bytes.len() as u64;
                buffer.put_slice(bytes);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
