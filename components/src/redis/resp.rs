//! Commands and answers, version 2 of the protocol. Sans-IO: an answer, or "more bytes", never a panic.
//!
//! Source: the Redis serialization protocol specification, redis.io/docs/latest/develop/reference/protocol-spec.

/// Longest text in an answer: INFO of a server with very many databases has less.
const TEXT_BYTES_MAX: usize = 16 << 20;
/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest list.
const ITEMS_MAX: usize = 1 << 16;
/// Lists in lists.
const DEPTH_MAX: usize = 8;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A word: `OK`, `PONG`.
    Simple(String),
    /// It says no.
    Error(String),
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Several.
    List(Vec<Reply>),
    /// Nothing.
    Nothing,
}

impl Reply {
    /// What stands in it, where it is a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Simple(text) | Reply::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// It is not the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotResp;

/// A command as the server wants it: a list of texts.
#[must_use]
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}

/// The answer that begins here and how long it is; none where it is not all there.
///
/// # Errors
/// It is none, or longer than any that is expected.
pub fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NotResp> {
    reply_at(bytes, 0)
}

fn reply_at(bytes: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, NotResp> {
    let Some((line, behind)) = line(bytes)? else {
        return Ok(None);
    };
    let (kind, rest) = line.split_at_checked(1).ok_or(NotResp)?;
    match kind {
        "+" => Ok(Some((Reply::Simple(rest.to_owned()), behind))),
        "-" => Ok(Some((Reply::Error(rest.to_owned()), behind))),
        ":" => Ok(Some((Reply::Integer(rest.parse().map_err(|_| NotResp)?), behind))),
        "$" | "*" if rest == "-1" => Ok(Some((Reply::Nothing, behind))),
        "$" => {
            let length = length(rest, TEXT_BYTES_MAX)?;
            let Some(text) = bytes.get(behind..behind + length + 2) else {
                return Ok(None);
            };
            let text = text.strip_suffix(b"\r\n").ok_or(NotResp)?;
            let text = String::from_utf8_lossy(text).into_owned();
            Ok(Some((Reply::Text(text), behind + length + 2)))
        }
        "*" if depth < DEPTH_MAX => {
            let mut items = Vec::new();
            let mut at = behind;
            for _ in 0..length(rest, ITEMS_MAX)? {
                let Some((item, used)) = reply_at(bytes.get(at..).unwrap_or_default(), depth + 1)? else {
                    return Ok(None);
                };
                items.push(item);
                at += used;
            }
            Ok(Some((Reply::List(items), at)))
        }
        _ => Err(NotResp),
    }
}

fn length(text: &str, max: usize) -> Result<usize, NotResp> {
    text.parse().ok().filter(|length| *length <= max).ok_or(NotResp)
}

/// The line that begins here, and where the next one does.
///
/// # Errors
/// It is longer than any that is expected.
pub fn line(bytes: &[u8]) -> Result<Option<(String, usize)>, NotResp> {
    let within = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    match within.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = within.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            Ok(Some((String::from_utf8_lossy(line).into_owned(), end + 1)))
        }
        None if within.len() < LINE_BYTES_MAX => Ok(None),
        None => Err(NotResp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_kind_come_out_when_their_last_byte_is_there() {
        let all = b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$5\r\na\r\nbc\r\n$-1\r\n*1\r\n*0\r\n";
        for end in 0..all.len() {
            assert_eq!(reply(&all[..end]), Ok(None), "{end}");
        }
        let items = vec![
            Reply::Simple("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-7),
            Reply::Text("a\r\nbc".into()),
            Reply::Nothing,
            Reply::List(vec![Reply::List(vec![])]),
        ];
        let more = [all.as_slice(), b"+next\r\n"].concat();
        assert_eq!(reply(&more), Ok(Some((Reply::List(items), all.len()))));
    }

    #[test]
    fn what_is_none_is_refused() {
        for wrong in [
            "HTTP/1.1 400\r\n",
            "\r\n",
            "$99999999999\r\n",
            "*-3\r\n",
            ":x\r\n",
            "$1\r\nabc",
        ] {
            assert_eq!(reply(wrong.as_bytes()), Err(NotResp), "{wrong}");
        }
        assert_eq!(reply("*1\r\n".repeat(20).as_bytes()), Err(NotResp));
        assert_eq!(reply(&vec![b'+'; LINE_BYTES_MAX]), Err(NotResp));
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        assert_eq!(
            command(&["PSYNC", "?", "-1"]),
            b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"
        );
    }
}
