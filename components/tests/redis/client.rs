//! A client of our own for tests: binary arguments, binary answers, everything within a time.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Text(Vec<u8>),
    Error(String),
    Integer(i64),
    List(Vec<Value>),
    Nothing,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "\"{}\"", text[..text.len().min(200)].escape_ascii()),
            Value::Error(text) => write!(f, "error {text}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::List(items) => f.debug_list().entries(items).finish(),
            Value::Nothing => f.write_str("nothing"),
        }
    }
}

impl Value {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Value::Text(text) => text,
            other => panic!("{other:?} is no text"),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            other => panic!("{other:?} is no list"),
        }
    }

    pub fn number(&self) -> i64 {
        match self {
            Value::Integer(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn open(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Whatever the answer is.
    pub fn try_ask(&mut self, words: &[&[u8]]) -> std::io::Result<Value> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.len()).into_bytes());
            out.extend_from_slice(word);
            out.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&out)?;
        self.answer()
    }

    /// The answer, which is not "no".
    pub fn bytes(&mut self, words: &[&[u8]]) -> Value {
        match self.try_ask(words).unwrap() {
            Value::Error(error) => panic!("{}: {error}", words[0].escape_ascii()),
            value => value,
        }
    }

    /// The same for a line of words.
    pub fn ask(&mut self, line: &str) -> Value {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.bytes(&words)
    }

    fn answer(&mut self) -> std::io::Result<Value> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let line = line.strip_suffix(b"\r\n").ok_or_else(closed)?;
        let (kind, rest) = line.split_first().ok_or_else(closed)?;
        let rest = String::from_utf8_lossy(rest).into_owned();
        Ok(match kind {
            b'+' => Value::Text(rest.into_bytes()),
            b'-' => Value::Error(rest),
            b':' => Value::Integer(rest.parse().unwrap()),
            _ if rest == "-1" => Value::Nothing,
            b'$' => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut text)?;
                text.truncate(text.len() - 2);
                Value::Text(text)
            }
            b'*' => {
                let items = (0..rest.parse::<usize>().unwrap()).map(|_| self.answer());
                Value::List(items.collect::<std::io::Result<_>>()?)
            }
            _ => panic!("{}", line.escape_ascii()),
        })
    }
}
