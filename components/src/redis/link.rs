//! A connection: commands out, answers in, each within a time.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use store::object::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::dial::{Address, Dial, Stream};
use super::info::Info;
use super::refusal;
use super::resp::{self, Reply};
use crate::ComponentError;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 256 << 10;

/// Who we are to a server.
#[derive(Clone, Debug)]
pub struct Login {
    /// User of an access control list; none: the default user.
    pub user: Option<String>,
    /// The password.
    pub password: Secret,
}

/// How long we wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For a connection, and for an answer.
    pub answer_max: Duration,
    /// For the next byte of a transfer, keepalives among them.
    pub silence_max: Duration,
    /// For a server that loads a file that was restored.
    pub load_max: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits {
            answer_max: Duration::from_secs(10),
            // A server sends a newline every ten seconds while it prepares ("repl-ping-replica-period"), and gives up after sixty itself.
            silence_max: Duration::from_secs(60),
            load_max: Duration::from_secs(1800),
        }
    }
}

/// A connection.
pub struct Link {
    server: Address,
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    waits: Waits,
}

impl Link {
    /// Connects, and says who we are.
    ///
    /// # Errors
    /// It cannot be reached, or the password is wrong.
    pub async fn open(
        dial: &dyn Dial,
        server: &Address,
        login: Option<&Login>,
        waits: Waits,
    ) -> Result<Self, ComponentError> {
        let stream = match tokio::time::timeout(waits.answer_max, dial.dial(server)).await {
            Ok(stream) => stream.map_err(|error| refusal::broken(server, "connecting", &error))?,
            Err(_) => return Err(refusal::silent(server, "connecting", waits.answer_max.as_secs())),
        };
        let mut link = Link {
            server: server.clone(),
            stream,
            buffer: BytesMut::new(),
            waits,
        };
        match login {
            None => {}
            Some(Login { user: None, password }) => drop(link.must(&["AUTH", password.expose()]).await?),
            Some(Login {
                user: Some(user),
                password,
            }) => drop(link.must(&["AUTH", user, password.expose()]).await?),
        }
        Ok(link)
    }

    /// Where it goes.
    pub fn server(&self) -> &Address {
        &self.server
    }

    /// Asks; "no" is an answer, too.
    ///
    /// # Errors
    /// The connection broke, or nothing came.
    pub async fn ask(&mut self, words: &[&str]) -> Result<Reply, ComponentError> {
        let asked = words.first().copied().unwrap_or_default();
        let wait = self.waits.answer_max;
        let asking = async {
            self.send(&resp::command(words), asked).await?;
            self.answer(asked).await
        };
        match tokio::time::timeout(wait, asking).await {
            Ok(reply) => reply,
            Err(_) => Err(refusal::silent(&self.server, asked, wait.as_secs())),
        }
    }

    /// Asks; "no" is an error.
    ///
    /// # Errors
    /// The server refuses, the connection broke, or nothing came.
    pub async fn must(&mut self, words: &[&str]) -> Result<Reply, ComponentError> {
        match self.ask(words).await? {
            Reply::Error(no) => Err(refusal::refused(
                &self.server,
                words.first().copied().unwrap_or_default(),
                &no,
            )),
            reply => Ok(reply),
        }
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// As [`Self::must`].
    pub async fn info(&mut self) -> Result<Info, ComponentError> {
        let reply = self.must(&["INFO"]).await?;
        let text = reply
            .text()
            .ok_or_else(|| refusal::strange(&self.server, "INFO", "it is no text"))?;
        Ok(Info::new(text))
    }

    /// Sends bytes.
    pub(super) async fn send(&mut self, bytes: &[u8], doing: &str) -> Result<(), ComponentError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| refusal::broken(&self.server, doing, &error))
    }

    /// The next answer. Newlines before it only say that the server is there.
    pub(super) async fn answer(&mut self, doing: &str) -> Result<Reply, ComponentError> {
        loop {
            let idle = self.buffer.iter().take_while(|byte| **byte == b'\n').count();
            let _ = self.buffer.split_to(idle);
            let reply = resp::reply(&self.buffer)
                .map_err(|_| refusal::strange(&self.server, doing, "its answer is not the protocol of Redis"))?;
            if let Some((reply, used)) = reply {
                let _ = self.buffer.split_to(used);
                return Ok(reply);
            }
            self.read(doing).await?;
        }
    }

    /// What has come and was not taken.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// More bytes in the buffer.
    ///
    /// # Errors
    /// None came within the time, or the connection ended.
    pub(super) async fn read(&mut self, doing: &str) -> Result<(), ComponentError> {
        self.buffer.reserve(READ_BYTES);
        let wait = self.waits.silence_max;
        match tokio::time::timeout(wait, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => Err(refusal::silent(&self.server, doing, wait.as_secs())),
            Ok(Ok(0)) => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
                Err(refusal::broken(&self.server, doing, &error))
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refusal::broken(&self.server, doing, &error)),
        }
    }
}
