//! One value, read as its key wants it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value as Toml;

use crate::keys::Kind;
use crate::units::{self, ByteSize};

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Path(PathBuf),
    Flag(bool),
    Count(u64),
    Duration(Duration),
    Size(ByteSize),
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Path(path) => write!(f, "{}", path.display()),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Count(count) => write!(f, "{count}"),
            Value::Duration(duration) => f.write_str(&units::print_duration(*duration)),
            Value::Size(size) => write!(f, "{size}"),
            Value::List(items) => write!(f, "{items:?}"),
        }
    }
}

/// Why a value does not fit: "is not ..." and what to do instead.
pub(crate) struct Misfit {
    pub(crate) what: String,
    pub(crate) hint: String,
}

fn misfit<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Misfit> {
    Err(Misfit {
        what: what.into(),
        hint: hint.into(),
    })
}

/// Reads a value as its key wants it.
pub(crate) fn read(kind: &Kind, value: &Toml) -> Result<Value, Misfit> {
    match kind {
        Kind::Text => text(value).map(|text| Value::Text(text.to_owned())),
        Kind::Path | Kind::SecretFile => path(value),
        Kind::Flag => match value.as_bool() {
            Some(flag) => Ok(Value::Flag(flag)),
            None => misfit("is not a truth value", "Write true or false, without quotes."),
        },
        Kind::Count { min, max } => count(value, *min, *max),
        Kind::Duration { min, max } => {
            let read = value.as_str().ok_or(units::hint_duration());
            match read.and_then(units::parse_duration) {
                Ok(it) if (*min..=*max).contains(&it) => Ok(Value::Duration(it)),
                Ok(_) => {
                    let (min, max) = (units::print_duration(*min), units::print_duration(*max));
                    misfit("is out of range", format!("Use {min} to {max}."))
                }
                Err(hint) => misfit("is not a duration", hint),
            }
        }
        Kind::Size { min, max } => {
            let read = value.as_str().ok_or(units::hint_size());
            match read.and_then(units::parse_size) {
                Ok(it) if (*min..=*max).contains(&it) => Ok(Value::Size(it)),
                Ok(_) => misfit("is out of range", format!("Use {min} to {max}.")),
                Err(hint) => misfit("is not a size", hint),
            }
        }
        Kind::Choice(choices) => match text(value)? {
            text if choices.contains(&text) => Ok(Value::Text(text.to_owned())),
            _ => misfit("is not one of its values", format!("Use {}.", choices.join(", "))),
        },
        Kind::List => {
            let items = value.as_array().map(|items| {
                let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<String>>>()
            });
            match items.flatten() {
                Some(items) => Ok(Value::List(items)),
                None => misfit("is not a list of texts", "Write [\"one\", \"two\"]."),
            }
        }
        Kind::Schedule => match crate::schedule::Schedule::parse(text(value)?) {
            Ok(schedule) => Ok(Value::Text(schedule.to_string())),
            Err(hint) => misfit("is neither a cron expression nor an interval", hint),
        },
        Kind::Listen => match text(value)? {
            text if text == "off" || text.parse::<std::net::SocketAddr>().is_ok() => Ok(Value::Text(text.to_owned())),
            _ => misfit(
                "is not an address with a port",
                "Write \"127.0.0.1:9808\", \"[::1]:9808\", or \"off\".",
            ),
        },
        Kind::Ports => ports(value),
        Kind::Refused(hint) => misfit("is not accepted", *hint),
        Kind::Unsupported(hint) => misfit("is not supported", *hint),
    }
}

fn text(value: &Toml) -> Result<&str, Misfit> {
    match value.as_str() {
        Some("") => misfit("is empty", "Leave the key out to get its default."),
        Some(text) if text.contains('\0') => misfit("has a zero byte", "Write it without."),
        Some(text) => Ok(text),
        None => misfit("is not a text", "Put the value in double quotes."),
    }
}

fn path(value: &Toml) -> Result<Value, Misfit> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() {
        return Ok(Value::Path(path));
    }
    // The service and the administrator's shell do not start in the same directory.
    misfit("is not an absolute path", "Write the path from \"/\" on.")
}

fn count(value: &Toml, min: i64, max: i64) -> Result<Value, Misfit> {
    let Some(number) = value.as_integer() else {
        return misfit("is not a whole number", "Write the number without quotes.");
    };
    match u64::try_from(number) {
        Ok(count) if (min..=max).contains(&number) => Ok(Value::Count(count)),
        _ => misfit("is out of range", format!("Use {min} to {max}.")),
    }
}

/// One port as a number, or the list of ports as libpq writes it.
fn ports(value: &Toml) -> Result<Value, Misfit> {
    let text = match value {
        Toml::Integer(port) => port.to_string(),
        other => text(other)?.to_owned(),
    };
    match pg::conninfo::parse_ports(Some(&text)) {
        Ok(_) => Ok(Value::Text(text)),
        Err(_) => misfit(
            "is not a port",
            "Write a number from 1 to 65535, or a text with one for each host: \"5432,5433\".",
        ),
    }
}

/// Reads a default, which the table of keys has as text.
pub(crate) fn read_default(kind: &Kind, text: &str) -> Option<Value> {
    let value = match kind {
        Kind::Count { .. } => Toml::Integer(text.parse().ok()?),
        Kind::Flag => Toml::Boolean(text.parse().ok()?),
        _ => Toml::String(text.to_owned()),
    };
    read(kind, &value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{CLUSTER, NOTIFY, ROOT};

    #[test]
    fn every_default_fits_its_own_key() {
        let all = [&ROOT, &CLUSTER, &NOTIFY].map(|section| section.flatten(""));
        for (path, key) in all.into_iter().flatten() {
            if let Some(default) = key.default {
                let read = read_default(&key.kind, default);
                let read = read.unwrap_or_else(|| panic!("{path}.{}", key.name));
                // Sizes and durations print in the largest unit that divides them.
                let same = read_default(&key.kind, &read.to_string());
                assert_eq!(same, Some(read), "{path}.{}", key.name);
            }
        }
    }
}
