//! `synchronous_standby_names`: which standbys a commit waits for.
//!
//! Pure. The grammar is the server's own (src/backend/replication/syncrep_gram.y,
//! syncrep_scanner.l): `a, "b"`, `2 (a, b)`, `FIRST 2 (a, b)`, `ANY 1 (a, b)`. `2 (..)` means
//! `FIRST 2 (..)` and is printed so. What the server accepts is accepted here, what it refuses is an
//! error (a vertical tab is a blank since version 16, and always here); what is printed means the
//! same to the server as what was read.

use std::fmt;
use std::iter::Peekable;
use std::str::{CharIndices, FromStr};

/// How many of the names a commit waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Only names: the first of them that is connected.
    List,
    /// The first so many that are connected.
    First(u32),
    /// Any so many.
    Any(u32),
}

/// The setting, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyNames {
    /// How many of them.
    pub method: Method,
    /// In the order of the setting; none when no commit waits. `*` stands for every name.
    pub names: Vec<String>,
}

/// Why a text is not a value of `synchronous_standby_names`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandbyNamesError {
    /// A quote that nothing closes.
    #[error("unterminated quoted name in synchronous_standby_names")]
    Unterminated,
    /// Something that does not belong where it is.
    #[error("syntax error in synchronous_standby_names at byte {at}")]
    Syntax {
        /// Where.
        at: usize,
    },
    /// No standby, or more than the server can count.
    #[error("number of synchronous standbys \"{number}\" is out of range")]
    Number {
        /// The number.
        number: String,
    },
}

impl StandbyNames {
    /// True when a commit may wait for a standby of this `application_name`. Like the server
    /// (`SyncRepGetStandbyPriority`, `pg_strcasecmp`): ASCII letters without regard to case.
    pub fn contains(&self, name: &str) -> bool {
        self.names
            .iter()
            .any(|own| own == "*" || own.eq_ignore_ascii_case(name))
    }

    /// The setting without this name: everything else as it was, and the number at most as large
    /// as there are names left. Empty when none is left. `None` when a `*` stands for the name,
    /// because then it cannot be taken out.
    pub fn without(&self, name: &str) -> Option<String> {
        let names: Vec<String> = self
            .names
            .iter()
            .filter(|own| !own.eq_ignore_ascii_case(name))
            .cloned()
            .collect();
        if names.iter().any(|own| own == "*") {
            return None;
        }
        let most = match u32::try_from(names.len()) {
            Ok(left) if names.len() < self.names.len() => left,
            _ => u32::MAX,
        };
        let method = match self.method {
            Method::List => Method::List,
            Method::First(number) => Method::First(number.min(most)),
            Method::Any(number) => Method::Any(number.min(most)),
        };
        Some(StandbyNames { method, names }.to_string())
    }
}

impl fmt::Display for StandbyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return Ok(());
        }
        let end = match self.method {
            Method::List => "",
            Method::First(number) => {
                write!(f, "FIRST {number} (")?;
                ")"
            }
            Method::Any(number) => {
                write!(f, "ANY {number} (")?;
                ")"
            }
        };
        for (index, name) in self.names.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            if needs_no_quotes(name) {
                f.write_str(name)?;
            } else {
                write!(f, "\"{}\"", name.replace('"', "\"\""))?;
            }
        }
        f.write_str(end)
    }
}

fn needs_no_quotes(name: &str) -> bool {
    let is_number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let is_identifier = name.chars().next().is_some_and(starts_identifier) && name.chars().all(continues_identifier);
    name == "*" || is_number || (is_identifier && keyword(name).is_none())
}

fn starts_identifier(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues_identifier(c: char) -> bool {
    starts_identifier(c) || c.is_ascii_digit() || c == '$'
}

fn keyword(word: &str) -> Option<Token> {
    if word.eq_ignore_ascii_case("any") {
        Some(Token::Any)
    } else if word.eq_ignore_ascii_case("first") {
        Some(Token::First)
    } else {
        None
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Name(String),
    Number(String),
    Any,
    First,
    Comma,
    Open,
    Close,
    End,
}

impl FromStr for StandbyNames {
    type Err = StandbyNamesError;

    fn from_str(text: &str) -> Result<Self, StandbyNamesError> {
        if text.is_empty() {
            return Ok(StandbyNames {
                method: Method::List,
                names: Vec::new(),
            });
        }
        let mut parser = Parser {
            tokens: scan(text)?,
            next: 0,
        };
        let method = match (parser.take(), parser.peek()) {
            (Token::Number(number), Token::Open) => Method::First(parse_number(&number)?),
            (Token::Any, _) => Method::Any(parser.number()?),
            (Token::First, _) => Method::First(parser.number()?),
            _ => {
                parser.next = 0;
                Method::List
            }
        };
        let parenthesis = method != Method::List;
        if parenthesis {
            parser.expect(Token::Open)?;
        }
        let mut names = vec![parser.name()?];
        while *parser.peek() == Token::Comma {
            parser.take();
            names.push(parser.name()?);
        }
        if parenthesis {
            parser.expect(Token::Close)?;
        }
        parser.expect(Token::End)?;
        Ok(StandbyNames { method, names })
    }
}

fn parse_number(number: &str) -> Result<u32, StandbyNamesError> {
    // The server keeps it in a C int.
    match number.parse::<i32>().ok().and_then(|it| u32::try_from(it).ok()) {
        Some(it) if it > 0 => Ok(it),
        _ => Err(StandbyNamesError::Number {
            number: number.to_owned(),
        }),
    }
}

/// The tokens, of which the last is always [`Token::End`], and where the next one is.
struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
}

impl Parser {
    fn at(&self) -> usize {
        self.tokens
            .get(self.next)
            .or(self.tokens.last())
            .map_or(0, |token| token.0)
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |token| &token.1)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn expect(&mut self, wanted: Token) -> Result<(), StandbyNamesError> {
        let at = self.at();
        (self.take() == wanted)
            .then_some(())
            .ok_or(StandbyNamesError::Syntax { at })
    }

    fn number(&mut self) -> Result<u32, StandbyNamesError> {
        let at = self.at();
        match self.take() {
            Token::Number(number) => parse_number(&number),
            _ => Err(StandbyNamesError::Syntax { at }),
        }
    }

    fn name(&mut self) -> Result<String, StandbyNamesError> {
        let at = self.at();
        match self.take() {
            Token::Name(name) | Token::Number(name) => Ok(name),
            _ => Err(StandbyNamesError::Syntax { at }),
        }
    }
}

fn scan(text: &str) -> Result<Vec<(usize, Token)>, StandbyNamesError> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let token = match c {
            ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C' => continue,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '*' => Token::Name("*".to_owned()),
            '"' => Token::Name(quoted(&mut chars)?),
            c if c.is_ascii_digit() => Token::Number(word(c, &mut chars, |c| c.is_ascii_digit())),
            c if starts_identifier(c) => {
                let name = word(c, &mut chars, continues_identifier);
                keyword(&name).unwrap_or(Token::Name(name))
            }
            _ => return Err(StandbyNamesError::Syntax { at }),
        };
        tokens.push((at, token));
    }
    tokens.push((text.len(), Token::End));
    Ok(tokens)
}

/// The longest word that begins with `first`.
fn word(first: char, chars: &mut Peekable<CharIndices<'_>>, goes_on: fn(char) -> bool) -> String {
    let mut word = String::from(first);
    while let Some((_, c)) = chars.next_if(|(_, c)| goes_on(*c)) {
        word.push(c);
    }
    word
}

/// What follows an opening quote, up to the closing one.
fn quoted(chars: &mut Peekable<CharIndices<'_>>) -> Result<String, StandbyNamesError> {
    let mut name = String::new();
    while let Some((_, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, c)| *c == '"').is_none() => return Ok(name),
            // The end of a text to the server.
            '\0' => break,
            c => name.push(c),
        }
    }
    Err(StandbyNamesError::Unterminated)
}

#[cfg(test)]
mod tests;
