//! Names of tables: as they are typed, as they are printed, and which one was meant.

use crate::error::{RestoreError, Result};

/// A table as `--table` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    /// Without one, any schema.
    pub(crate) schema: Option<Vec<u8>>,
    pub(crate) name: Vec<u8>,
}

impl TableName {
    /// Reads `schema.table`, each folded to lower case unless it is in double quotes, as SQL has it.
    pub(crate) fn parse(text: &str) -> Result<TableName> {
        let bad = || {
            RestoreError::usage(
                format!("invalid --table \"{}\"", text.escape_debug()),
                "Write it as in SQL: public.orders, or 'public.\"Orders\"'.",
            )
        };
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = identifier(rest).ok_or_else(bad)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err(bad()),
            }
        }
        match <[Vec<u8>; 2]>::try_from(parts) {
            Ok([schema, name]) => Ok(TableName {
                schema: Some(schema),
                name,
            }),
            Err(parts) => match <[Vec<u8>; 1]>::try_from(parts) {
                Ok([name]) => Ok(TableName { schema: None, name }),
                Err(_) => Err(bad()),
            },
        }
    }

    /// Is it this table?
    pub(crate) fn is(&self, schema: &[u8], name: &[u8]) -> bool {
        self.name == name && self.schema.as_ref().is_none_or(|asked| asked == schema)
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => f.write_str(&show(schema, &self.name)),
            None => f.write_str(&quote(&self.name)),
        }
    }
}

fn identifier(text: &str) -> Option<(Vec<u8>, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['.', '"']).unwrap_or(text.len());
        let (part, after) = text.split_at_checked(end)?;
        return (!part.is_empty()).then(|| (part.to_lowercase().into_bytes(), after));
    };
    let mut out = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        out.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                out.push('"');
                rest = after;
            }
            None => return (!out.is_empty()).then(|| (out.into_bytes(), after)),
        }
    }
}

/// `schema.table`, in quotes where SQL needs them.
pub(crate) fn show(schema: &[u8], name: &[u8]) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// One identifier, printable.
pub(crate) fn quote(name: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    let text = String::from_utf8_lossy(name);
    if name.iter().all(is_plain) && !name.first().is_none_or(u8::is_ascii_digit) {
        return text.into_owned();
    }
    let printable: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("\"{}\"", printable.replace('"', "\"\""))
}

/// The three nearest of many names, nearest first, as far as they are near.
#[derive(Debug, Default)]
pub(crate) struct Nearest(Vec<(usize, String)>);

/// Names that are listed.
const NEAREST_MAX: usize = 3;

impl Nearest {
    /// Looks at one name.
    pub(crate) fn offer(&mut self, asked: &str, name: &str) {
        let last_of = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
        // Another schema is as near as a wrong letter.
        let distance = distance(asked, name).min(distance(&last_of(asked), &last_of(name)) + 1);
        if distance > (asked.chars().count() / 3).max(1) {
            return;
        }
        self.0.push((distance, name.to_owned()));
        self.0.sort();
        self.0.truncate(NEAREST_MAX);
    }

    /// They as a list; empty when none is near.
    pub(crate) fn list(&self) -> String {
        self.0
            .iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Letters that must be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut above_left = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(&b) {
            let here = (above_left + usize::from(a != *b)).min(*cell + 1).min(left + 1);
            above_left = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_printed_as_in_sql() {
        for (text, shown) in [
            ("public.orders", "public.orders"),
            ("Public.Orders", "public.orders"),
            ("public.\"Orders\"", "public.\"Orders\""),
            ("\"a.b\".\"c\"\"d\"", "\"a.b\".\"c\"\"d\""),
            ("orders", "orders"),
        ] {
            let name = TableName::parse(text).unwrap();
            assert_eq!(name.to_string(), shown);
            assert_eq!(TableName::parse(shown).unwrap(), name);
        }
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a", "\"\"", "a\"b\"", "\"a\"b"] {
            assert_eq!(
                TableName::parse(text).unwrap_err().exit_code(),
                crate::exit::USAGE,
                "{text}"
            );
        }
        assert_eq!(quote(b"1\n\xFF"), "\"1?\u{FFFD}\"");
    }

    #[test]
    fn a_name_without_a_schema_is_meant_in_any() {
        let orders = TableName::parse("orders").unwrap();
        assert!(orders.is(b"public", b"orders") && orders.is(b"shop", b"orders"));
        let orders = TableName::parse("shop.orders").unwrap();
        assert!(!orders.is(b"public", b"orders") && !orders.is(b"shop", b"order"));
    }

    #[test]
    fn near_names_are_told_nearest_first() {
        let mut nearest = Nearest::default();
        for name in [
            "public.customers",
            "public.order",
            "shop.orders",
            "public.orders_old",
            "public.ordesr",
        ] {
            nearest.offer("public.orders", name);
        }
        assert_eq!(nearest.list(), "public.order, shop.orders, public.ordesr");
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
