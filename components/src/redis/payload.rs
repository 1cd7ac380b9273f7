//! Where the file begins and ends in what a server sends behind `+FULLRESYNC`. Sans-IO.
//!
//! Sources: redis.io/docs/latest/operate/oss_and_stack/management/replication (disk-based and diskless); the form on the wire, which no page
//! gives, from `readSyncBulkPayload` of the servers' `replication.c`: newlines while the server prepares, then `$<length>`, or `$EOF:` and 40
//! bytes that come again behind the file. Behind them nothing comes until the replica has confirmed.

use bytes::{Bytes, BytesMut};

use super::resp;

/// Bytes of the mark that ends a transfer of unknown length.
const MARK_BYTES: usize = 40;

/// What a server sends.
#[derive(Debug)]
pub enum Payload {
    /// The line that says how it comes has not come.
    Announced,
    /// So many bytes are to come.
    Counted(u64),
    /// All up to the mark.
    Marked(Vec<u8>),
    /// It has come.
    Whole,
}

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// The server says no.
    Refused(String),
    /// It says something else.
    Strange,
}

impl Payload {
    /// Takes of the file what is in the buffer; none: more bytes are needed.
    ///
    /// # Errors
    /// What comes is no file.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, PayloadError> {
        if matches!(self, Payload::Announced) && !self.begin(buffer)? {
            return Ok(None);
        }
        let taken = match self {
            Payload::Announced | Payload::Whole => return Ok(None),
            Payload::Counted(left) => {
                let now = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= now as u64;
                let is_whole = *left == 0;
                let taken = buffer.split_to(now).freeze();
                if is_whole {
                    *self = Payload::Whole;
                }
                taken
            }
            Payload::Marked(mark) if buffer.ends_with(mark) => {
                let taken = buffer.split_to(buffer.len() - MARK_BYTES).freeze();
                buffer.clear();
                *self = Payload::Whole;
                taken
            }
            // The last bytes may be the beginning of the mark.
            Payload::Marked(_) => buffer.split_to(buffer.len().saturating_sub(MARK_BYTES)).freeze(),
        };
        Ok((!taken.is_empty()).then_some(taken))
    }

    /// True when the file has begun.
    fn begin(&mut self, buffer: &mut BytesMut) -> Result<bool, PayloadError> {
        while let Some((line, behind)) = resp::line(buffer).map_err(|_| PayloadError::Strange)? {
            let _ = buffer.split_to(behind);
            if line.is_empty() {
                continue;
            }
            if let Some(refusal) = line.strip_prefix('-') {
                return Err(PayloadError::Refused(refusal.to_owned()));
            }
            let announced = line.strip_prefix('$').ok_or(PayloadError::Strange)?;
            *self = match announced.strip_prefix("EOF:") {
                Some(mark) if mark.len() == MARK_BYTES => Payload::Marked(mark.as_bytes().to_vec()),
                Some(_) => return Err(PayloadError::Strange),
                None => match announced.parse().map_err(|_| PayloadError::Strange)? {
                    0 => return Err(PayloadError::Strange),
                    bytes => Payload::Counted(bytes),
                },
            };
            return Ok(true);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "0123456789abcdef0123456789abcdef01234567";

    /// What comes out where the bytes come in two parts.
    fn taken(sent: &[u8], at: usize) -> (Vec<u8>, bool) {
        let (mut payload, mut buffer, mut out) = (Payload::Announced, BytesMut::new(), Vec::new());
        for part in [&sent[..at], &sent[at..]] {
            buffer.extend_from_slice(part);
            while let Some(bytes) = payload.take(&mut buffer).unwrap() {
                out.extend_from_slice(&bytes);
            }
        }
        (out, matches!(payload, Payload::Whole))
    }

    #[test]
    fn both_forms_are_read_wherever_the_bytes_are_cut() {
        let content = format!("REDIS {MARK} 0123 and the beginning of it: {}", &MARK[..39]);
        let counted = format!("\n\n\n${}\r\n{content}", content.len());
        let marked = format!("\n\n$EOF:{MARK}\r\n{content}{MARK}");
        for sent in [counted, marked.clone()] {
            for at in 0..=sent.len() {
                // The mark in the content is only taken for the end where the bytes are cut behind it, which no server does.
                if sent == marked && sent[..at].ends_with(MARK) && at > 60 && at < sent.len() {
                    continue;
                }
                assert_eq!(taken(sent.as_bytes(), at), (content.clone().into_bytes(), true), "{at}");
            }
            assert!(!taken(&sent.as_bytes()[..sent.len() - 1], 5).1);
        }
    }

    #[test]
    fn a_refusal_is_told_from_what_is_strange() {
        let begun = |sent: &str| Payload::Announced.take(&mut BytesMut::from(sent));
        assert_eq!(begun("\n-ERR no\r\n"), Err(PayloadError::Refused("ERR no".into())));
        for strange in ["+OK\r\n", "$0\r\n", "$x\r\n", "$EOF:short\r\n"] {
            assert_eq!(begun(strange), Err(PayloadError::Strange), "{strange}");
        }
        assert_eq!(begun("\n\n"), Ok(None));
    }
}
