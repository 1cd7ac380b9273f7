//! Takes typed values out of the raw layer and remembers each value, its origin and each problem.

use std::path::PathBuf;
use std::time::Duration;

use crate::effective::{Effective, REDACTED};
use crate::error::Problem;
use crate::files;
use crate::keys::{Key, Kind, Section, join};
use crate::origin::Origin;
use crate::raw::Raw;
use crate::secret::SecretText;
use crate::units::ByteSize;
use crate::value::{self, Value};

/// What the check collects on its way. With a problem in it, there is no configuration, so a
/// value that could not be read may be replaced by anything.
pub(crate) struct Outcome {
    pub(crate) problems: Vec<Problem>,
    pub(crate) effective: Vec<Effective>,
}

impl Outcome {
    pub(crate) fn effective(&mut self, key: String, value: impl Into<String>, origin: Origin) {
        self.effective.push(Effective {
            key,
            value: value.into(),
            origin,
        });
    }

    pub(crate) fn redacted(&mut self, key: String, origin: Origin) {
        self.effective(key, REDACTED, origin);
    }
}

/// Reads the keys of one table.
pub(crate) struct Reader<'a> {
    raw: &'a Raw,
    section: &'static Section,
    path: String,
    pub(crate) out: &'a mut Outcome,
}

impl<'a> Reader<'a> {
    /// The reader of the table `section`, which stands below the path `above`.
    pub(crate) fn new(raw: &'a Raw, above: &str, section: &'static Section, out: &'a mut Outcome) -> Self {
        Self {
            raw,
            section,
            path: join(above, section.name),
            out,
        }
    }

    /// The reader of a table whose name the user has chosen, by its whole path.
    pub(crate) fn at(raw: &'a Raw, path: &str, section: &'static Section, out: &'a mut Outcome) -> Self {
        Self {
            raw,
            section,
            path: path.to_owned(),
            out,
        }
    }

    /// The full name of a key here.
    pub(crate) fn full(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Whether somebody set this key.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.raw.entries.contains_key(&self.full(name))
    }

    /// Adds a problem with one key here.
    pub(crate) fn complain(&mut self, name: &str, what: &str, hint: impl Into<String>) {
        let full = self.full(name);
        let message = format!("\"{full}\" {what}");
        self.out.problems.push(Problem::new(message).hint(hint).at(&full));
    }

    /// Records a default that follows from other keys.
    pub(crate) fn derived(&mut self, name: &str, value: impl Into<String>) {
        self.out.effective(self.full(name), value, Origin::Default);
    }

    fn value(&mut self, name: &str) -> Option<Value> {
        let Some(key) = self.section.key(name) else {
            self.complain(name, "is no known key", "This is a defect of Seawall; report it.");
            return None;
        };
        let full = self.full(name);
        let (value, origin) = match self.raw.entries.get(&full) {
            Some(entry) => match value::read(&key.kind, &entry.value) {
                Ok(value) => (value, entry.origin.clone()),
                Err(misfit) => {
                    let typed = typed(key, &entry.value);
                    let from = match &entry.origin {
                        Origin::Environment(variable) => format!(" (from {variable})"),
                        Origin::File | Origin::Default => String::new(),
                    };
                    let message = format!("\"{full}\"{from} {}{typed}", misfit.what);
                    self.out
                        .problems
                        .push(Problem::new(message).hint(misfit.hint).at(&full));
                    return None;
                }
            },
            None => (value::read_default(&key.kind, key.default?)?, Origin::Default),
        };
        self.out.effective(full, value.to_string(), origin);
        Some(value)
    }

    /// The value of a text, a choice.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn path(&mut self, name: &str) -> Option<PathBuf> {
        match self.value(name)? {
            Value::Path(path) => Some(path),
            _ => None,
        }
    }

    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    pub(crate) fn count(&mut self, name: &str) -> Option<usize> {
        match self.value(name)? {
            Value::Count(count) => usize::try_from(count).ok(),
            _ => None,
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(items)) => items,
            _ => Vec::new(),
        }
    }

    /// The value of a key that has a default.
    pub(crate) fn duration(&mut self, name: &str) -> Duration {
        match self.value(name) {
            Some(Value::Duration(duration)) => duration,
            _ => Duration::ZERO,
        }
    }

    /// The value of a key that has a default.
    pub(crate) fn size(&mut self, name: &str) -> ByteSize {
        match self.value(name) {
            Some(Value::Size(size)) => size,
            _ => ByteSize::new(0),
        }
    }

    /// The secret in the file that this key names.
    pub(crate) fn secret(&mut self, name: &str) -> Option<SecretText> {
        let path = self.path(name)?;
        match files::read_secret(&self.full(name), &path) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                self.out.problems.push(problem);
                None
            }
        }
    }
}

/// What was typed, where it helps and cannot be a secret.
fn typed(key: &Key, value: &toml::Value) -> String {
    // A URL can have a password in it.
    match (&key.kind, value) {
        (Kind::SecretFile, _) => String::new(),
        (_, toml::Value::String(text)) if text.is_empty() || text.contains('@') => String::new(),
        (_, toml::Value::String(text)) => format!(": \"{}\"", text.escape_debug()),
        (_, toml::Value::Integer(number)) => format!(": {number}"),
        _ => String::new(),
    }
}
