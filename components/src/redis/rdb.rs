//! An RDB file as it passes: counts its keys, sees its end, and holds its checksum against its bytes.
//!
//! Sans-IO: bytes in, in pieces of any size; a few hundred bytes of memory, whatever the file holds. It never blocks and never panics.
//!
//! What is stepped over is in `grammar`. Behind a byte that is not there nothing can be counted, and only the checksum is still held against
//! the bytes: [`Summary::unknown`] says so.

use std::collections::BTreeMap;

use super::crc64::Sum;
use super::grammar::{self, Family, Part};
use super::kept::{KEPT_MAX, Kept};
use super::length::{Carry, Length};
pub use super::summary::{Keys, RdbError, Summary};

/// No file has more databases: the setting of the server goes no further than this makes sense.
const DATABASES_MAX: usize = 1 << 16;
/// From this version on a checksum stands at the end.
const VERSION_MIN: u32 = 5;

/// What is to come; the next one lies at the end of the list.
#[derive(Clone, Copy, Debug)]
enum Task {
    Magic,
    Opcode,
    Part(Part),
    Skip(u64),
    Keep(usize),
    Repeat(u64, &'static [Part]),
    KeptName,
    KeptValue,
}

/// A file that passes.
#[derive(Debug, Default)]
pub struct Rdb {
    todo: Vec<Task>,
    /// Beginning of something that is read as a whole.
    carry: Carry,
    family: Family,
    version: u32,
    databases: BTreeMap<u64, Keys>,
    database: u64,
    expires: bool,
    functions: u64,
    unknown: Option<u8>,
    kept: Kept,
    bytes: u64,
    sum: Sum,
}

impl Rdb {
    /// From its first byte on.
    #[must_use]
    pub fn new() -> Self {
        Rdb {
            todo: vec![Task::Magic],
            ..Rdb::default()
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The file cannot be whole.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RdbError> {
        self.bytes += bytes.len() as u64;
        self.sum.add(bytes);
        let mut rest = bytes;
        while self.unknown.is_none() {
            let Some(task) = self.todo.pop() else {
                return match rest.is_empty() {
                    true => Ok(()),
                    false => Err(RdbError::BehindEnd),
                };
            };
            if !self.step(task, &mut rest)? {
                break;
            }
        }
        Ok(())
    }

    /// The file has ended; what it says.
    ///
    /// # Errors
    /// It is not whole, or its bytes are not those that were written.
    pub fn finish(self) -> Result<Summary, RdbError> {
        let has_end = match self.unknown {
            None => self.todo.is_empty(),
            Some(_) => self.sum.before_written() == grammar::END,
        };
        let is_summed = match self.sum.written() {
            Some(_) if !has_end => return Err(RdbError::CutShort),
            None => return Err(RdbError::CutShort),
            Some(0) => false,
            Some(sum) if sum == self.sum.counted() => true,
            Some(_) => return Err(RdbError::WrongChecksum),
        };
        Ok(Summary {
            version: self.version,
            databases: self.databases,
            functions: self.functions,
            unknown: self.unknown,
            is_summed,
            created_s: self.kept.created_s,
            bytes: self.bytes,
        })
    }

    /// Does one thing; false: it needs more bytes, and was put back.
    fn step(&mut self, task: Task, rest: &mut &[u8]) -> Result<bool, RdbError> {
        match task {
            Task::Skip(left) => {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                *rest = rest.get(now..).unwrap_or_default();
                return Ok(self.again_if(left - now as u64, Task::Skip));
            }
            Task::Keep(left) => {
                let (now, behind) = rest.split_at_checked(left).unwrap_or((rest, &[]));
                self.kept.add(now);
                *rest = behind;
                let left = left - now.len();
                return Ok(self.again_if(left as u64, |_| Task::Keep(left)));
            }
            Task::Repeat(left, parts) => {
                if left > 1 {
                    self.todo.push(Task::Repeat(left - 1, parts));
                }
                self.push(parts);
                return Ok(true);
            }
            Task::KeptName => {
                self.kept.end_name();
                return Ok(true);
            }
            Task::KeptValue => {
                self.kept.end_value();
                return Ok(true);
            }
            Task::Magic | Task::Opcode | Task::Part(_) => {}
        }
        let is_done = match task {
            Task::Magic => self.magic(rest)?,
            Task::Part(part) => self.part(part, rest)?,
            _ => self.opcode(rest),
        };
        if !is_done {
            self.todo.push(task);
        }
        Ok(is_done)
    }

    /// Puts what is left of a task back; false where there is something.
    fn again_if(&mut self, left: u64, task: impl Fn(u64) -> Task) -> bool {
        if left > 0 {
            self.todo.push(task(left));
        }
        left == 0
    }

    /// The first of them comes next.
    fn push(&mut self, parts: &'static [Part]) {
        self.todo.extend(parts.iter().rev().map(|part| Task::Part(*part)));
    }

    /// `REDIS` and four digits, or `VALKEY` and three.
    fn magic(&mut self, rest: &mut &[u8]) -> Result<bool, RdbError> {
        if !self.carry.need(9, rest) {
            return Ok(false);
        }
        let magic = self.carry.bytes();
        let digits = match (magic.strip_prefix(b"REDIS"), magic.strip_prefix(b"VALKEY")) {
            (Some(digits), _) => digits,
            (None, Some(digits)) => {
                self.family = Family::Valkey;
                digits
            }
            (None, None) => return Err(RdbError::NotRdb),
        };
        let version = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        self.version = version.ok_or(RdbError::NotRdb)?;
        if self.version < VERSION_MIN {
            return Err(RdbError::TooOld(self.version));
        }
        self.carry.clear();
        self.todo.push(Task::Opcode);
        Ok(true)
    }

    fn opcode(&mut self, rest: &mut &[u8]) -> bool {
        let Some((byte, behind)) = rest.split_first() else {
            return false;
        };
        *rest = behind;
        if *byte == grammar::END {
            self.todo.push(Task::Skip(8));
            return true;
        }
        self.todo.push(Task::Opcode);
        if let Some(parts) = grammar::opcode(self.family, *byte) {
            self.expires |= matches!(*byte, grammar::EXPIRES | grammar::EXPIRES_MS);
            self.functions += u64::from(*byte == grammar::FUNCTION);
            self.push(parts);
        } else if let Some(parts) = grammar::value(self.family, *byte) {
            let database = self.databases.entry(self.database).or_default();
            database.keys += 1;
            database.expiring += u64::from(std::mem::take(&mut self.expires));
            self.push(parts);
            self.todo.push(Task::Part(Part::Text));
        } else {
            self.unknown = Some(*byte);
        }
        true
    }

    fn part(&mut self, part: Part, rest: &mut &[u8]) -> Result<bool, RdbError> {
        match part {
            Part::Bytes(bytes) => self.todo.push(Task::Skip(bytes)),
            Part::TextDouble => {
                let Some((length, behind)) = rest.split_first() else {
                    return Ok(false);
                };
                *rest = behind;
                // The three highest are values of their own.
                if *length < 253 {
                    self.todo.push(Task::Skip(u64::from(*length)));
                }
            }
            Part::Text => match self.carry.length(rest)? {
                None => return Ok(false),
                Some(Length::Plain(bytes) | Length::Compressed(bytes)) => self.todo.push(Task::Skip(bytes)),
                Some(Length::Integer(bytes)) => self.todo.push(Task::Skip(bytes as u64)),
            },
            Part::AuxName | Part::AuxValue => {
                let behind = if part == Part::AuxName {
                    Task::KeptName
                } else {
                    Task::KeptValue
                };
                return self.kept_text(behind, rest);
            }
            Part::Number | Part::Times(_) | Part::SelectDatabase | Part::ModuleParts => {
                let Some(length) = self.carry.length(rest)? else {
                    return Ok(false);
                };
                let Length::Plain(number) = length else {
                    return Err(RdbError::BadLength);
                };
                self.number(part, number)?;
            }
        }
        Ok(true)
    }

    fn number(&mut self, part: Part, number: u64) -> Result<(), RdbError> {
        match part {
            Part::Times(parts) if number > 0 => self.todo.push(Task::Repeat(number, parts)),
            Part::ModuleParts => match grammar::module_value(number) {
                Some(parts) => self.push(parts),
                None => return Err(RdbError::BadLength),
            },
            Part::SelectDatabase => {
                self.database = number;
                self.databases.entry(number).or_default();
                if self.databases.len() > DATABASES_MAX {
                    return Err(RdbError::TooManyDatabases);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A text that is kept where it is short and plain.
    fn kept_text(&mut self, behind: Task, rest: &mut &[u8]) -> Result<bool, RdbError> {
        let Some((length, used)) = self.carry.peek_length(rest)? else {
            return Ok(false);
        };
        match length {
            Length::Integer(bytes) => {
                // The integer lies behind the byte that announced it.
                if !self.carry.need(used + bytes, rest) {
                    return Ok(false);
                }
                let integer = self.carry.bytes().get(used..).unwrap_or_default();
                self.kept.add_integer(integer);
                self.todo.push(behind);
            }
            Length::Plain(bytes) => match usize::try_from(bytes) {
                Ok(bytes) if bytes <= KEPT_MAX => self.todo.extend([behind, Task::Keep(bytes)]),
                _ => self.todo.extend([behind, Task::Skip(bytes)]),
            },
            Length::Compressed(bytes) => self.todo.extend([behind, Task::Skip(bytes)]),
        }
        self.carry.clear();
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
