//! A full synchronisation, as a replica asks for it.
//!
//! Source: "How Redis replication works" at redis.io/docs/latest/operate/oss_and_stack/management/replication, and
//! redis.io/docs/latest/commands/psync. `REPLCONF rdb-only 1` (since Redis 7.0) says that we want the file alone: the server does not gather
//! later changes for us, and closes behind the file. An older one refuses the option, which changes nothing.
//!
//! Valkey 9 takes a replica that does not name its version for one of before 9: it writes an older format, and gives up where a key does not
//! fit into that (seen: fields of hashes that expire). So we name its own version: what it wrote is loaded by its like.

use bytes::Bytes;

use super::info::Info;
use super::link::Link;
use super::payload::{Payload, PayloadError};
use super::refusal;
use super::resp::{self, Reply};
use crate::ComponentError;

/// What is gathered before it goes on.
const GATHER_BYTES: usize = 64 << 10;
const DOING: &str = "receiving its data";

/// A file that is coming.
pub struct Transfer {
    link: Link,
    payload: Payload,
    /// Which history the data belongs to, and where in it.
    pub replication: (String, String),
}

impl Transfer {
    /// Asks for everything.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn begin(mut link: Link, info: &Info) -> Result<Self, ComponentError> {
        introduce(&mut link, info.get("valkey_version")).await?;
        link.send(&resp::command(&["PSYNC", "?", "-1"]), "PSYNC").await?;
        // It comes when the snapshot begins: another one may have to end first.
        let answer = link.answer("PSYNC").await?;
        let words: Vec<&str> = answer.text().unwrap_or_default().split(' ').collect();
        match (&answer, words.as_slice()) {
            (_, ["FULLRESYNC", id, offset]) => Ok(Transfer {
                replication: ((*id).to_owned(), (*offset).to_owned()),
                payload: Payload::Announced,
                link,
            }),
            (Reply::Error(no), _) => Err(refusal::refused(link.server(), "PSYNC", no)),
            _ => Err(refusal::strange(link.server(), "PSYNC", "its answer is not FULLRESYNC")),
        }
    }

    /// The next bytes; none: the file is whole.
    ///
    /// # Errors
    /// It is not whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ComponentError> {
        loop {
            if self.is_worth_taking() {
                match self.payload.take(self.link.buffer()) {
                    Ok(Some(bytes)) => return Ok(Some(bytes)),
                    Ok(None) if matches!(self.payload, Payload::Whole) => return Ok(None),
                    Ok(None) => {}
                    Err(PayloadError::Refused(no)) => return Err(refusal::refused(self.link.server(), "to send", &no)),
                    Err(PayloadError::Strange) => {
                        return Err(refusal::strange(self.link.server(), DOING, "what comes is no file"));
                    }
                }
            }
            self.link.read(DOING).await?;
        }
    }

    /// Small pieces wait for each other, up to the end.
    fn is_worth_taking(&mut self) -> bool {
        let have = self.link.buffer().len();
        match &self.payload {
            Payload::Announced | Payload::Whole => true,
            Payload::Counted(left) => have as u64 >= (GATHER_BYTES as u64).min(*left),
            Payload::Marked(mark) => have >= GATHER_BYTES || self.link.buffer().ends_with(mark),
        }
    }

    /// Words about what does not fit.
    pub fn damaged(&self, why: impl std::fmt::Display) -> ComponentError {
        ComponentError::System {
            what: format!("redis at {}, {DOING}", self.link.server()),
            detail: why.to_string(),
            hint: "Try it again. If it stays, something between here and there changes bytes: another replica tells."
                .into(),
        }
    }
}

/// What a replica can do, and that this one wants no more than the file.
async fn introduce(link: &mut Link, valkey_version: &str) -> Result<(), ComponentError> {
    link.must(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
    option(link, &["REPLCONF", "rdb-only", "1"]).await?;
    if !valkey_version.is_empty() {
        option(link, &["REPLCONF", "version", valkey_version]).await?;
    }
    Ok(())
}

/// Says something that a server need not understand.
async fn option(link: &mut Link, words: &[&str]) -> Result<(), ComponentError> {
    match link.ask(words).await? {
        Reply::Error(no) if !no.starts_with("ERR") => Err(refusal::refused(link.server(), "REPLCONF", &no)),
        _ => Ok(()),
    }
}

/// Whether PSYNC is permitted; nothing is begun.
///
/// A server checks permission first, and refuses to synchronise while an answer is on its way (`syncCommand` in `replication.c`): so PING is
/// asked in the same breath. The offset is no number, for which versions since 7 refuse as well.
///
/// # Errors
/// It is not permitted, or not possible now.
pub async fn probe(link: &mut Link) -> Result<(), ComponentError> {
    link.must(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
    let both = [resp::command(&["PING"]), resp::command(&["PSYNC", "?", "x"])].concat();
    link.send(&both, "PSYNC").await?;
    if let Reply::Error(no) = link.answer("PING").await? {
        return Err(refusal::refused(link.server(), "PING", &no));
    }
    match link.answer("PSYNC").await? {
        Reply::Error(no) if no.starts_with("ERR") && !no.starts_with("ERR unknown command") => Ok(()),
        Reply::Error(no) => Err(refusal::refused(link.server(), "PSYNC", &no)),
        // It began after all; it ends when the connection is closed.
        _ => Ok(()),
    }
}
