//! The fields of one message (docs, "Message Formats"). Every read is checked.

use bytes::{Buf, Bytes};

use super::{Authentication, FrameError, Message, ServerMessage};

/// The part of a message that is not read yet.
pub(super) struct Body {
    pub(super) tag: u8,
    pub(super) rest: Bytes,
}

impl Body {
    pub(super) fn message(mut self) -> Result<Message, FrameError> {
        Ok(match self.tag {
            b'R' => Message::Authentication(self.authentication()?),
            b'S' => Message::ParameterStatus(self.text()?, self.text()?),
            b'Z' => Message::ReadyForQuery,
            b'D' => Message::DataRow(self.row()?),
            b'C' => Message::CommandComplete(self.text()?),
            b'E' => Message::Error(self.server_message()?),
            b'N' => Message::Notice(self.server_message()?),
            b'W' => Message::CopyBoth,
            b'H' => Message::CopyOut,
            b'd' => Message::CopyData(self.rest),
            b'c' => Message::CopyDone,
            other => Message::Other(other),
        })
    }

    fn malformed(&self) -> FrameError {
        FrameError::Malformed { tag: self.tag }
    }

    fn take(&mut self, count: usize) -> Result<Bytes, FrameError> {
        if self.rest.len() < count {
            return Err(self.malformed());
        }
        Ok(self.rest.split_to(count))
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.rest.try_get_u8().map_err(|_| self.malformed())
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.rest.try_get_u16().map_err(|_| self.malformed())
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.rest.try_get_u32().map_err(|_| self.malformed())
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        self.rest.try_get_u64().map_err(|_| self.malformed())
    }

    pub(super) fn i64(&mut self) -> Result<i64, FrameError> {
        self.rest.try_get_i64().map_err(|_| self.malformed())
    }

    /// A text up to its zero byte; a server may speak any encoding, so invalid UTF-8 is replaced.
    fn text(&mut self) -> Result<String, FrameError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| self.malformed())?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn authentication(&mut self) -> Result<Authentication, FrameError> {
        Ok(match self.u32()? {
            0 => Authentication::Ok,
            3 => Authentication::Cleartext,
            5 => {
                let salt = self.take(4)?;
                let salt = <[u8; 4]>::try_from(salt.as_ref()).map_err(|_| self.malformed())?;
                Authentication::Md5(salt)
            }
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    let name = self.text()?;
                    if name.is_empty() {
                        break Authentication::Sasl(mechanisms);
                    }
                    mechanisms.push(name);
                }
            }
            11 => Authentication::SaslContinue(self.rest.clone()),
            12 => Authentication::SaslFinal(self.rest.clone()),
            other => Authentication::Other(other),
        })
    }

    fn row(&mut self) -> Result<Vec<Option<Bytes>>, FrameError> {
        let columns = self.u16()?;
        let mut row = Vec::new();
        for _ in 0..columns {
            let length = self.u32()?;
            row.push(if length == u32::MAX {
                None
            } else {
                Some(self.take(length as usize)?)
            });
        }
        Ok(row)
    }

    fn server_message(&mut self) -> Result<ServerMessage, FrameError> {
        let mut message = ServerMessage::default();
        loop {
            match self.u8()? {
                0 => return Ok(message),
                b'C' => message.sqlstate = self.text()?,
                b'V' => message.severity = self.text()?,
                b'S' => {
                    let localised = self.text()?;
                    if message.severity.is_empty() {
                        message.severity = localised;
                    }
                }
                b'M' => message.message = self.text()?,
                b'D' => message.detail = Some(self.text()?),
                b'H' => message.hint = Some(self.text()?),
                _ => drop(self.text()?),
            }
        }
    }
}
