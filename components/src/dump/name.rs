//! Names of the files in a backup.

/// Roles, tablespaces and their settings.
pub const GLOBALS: &str = "globals.sql";
/// Behind the name of a database: what `pg_dump` wrote.
pub const DUMP: &str = ".dump";
/// Behind the name of a database: its tables, and how many rows each has.
pub const COUNTS: &str = ".counts.json";

/// The path of the dump of a database.
#[must_use]
pub fn dump_of(database: &str) -> String {
    percent(database) + DUMP
}

/// The path of its counts.
#[must_use]
pub fn counts_of(database: &str) -> String {
    percent(database) + COUNTS
}

/// All but letters, digits, `_`, `-` and a dot that is not the first as `%` and two digits of base 16: no two names become the same.
pub(super) fn percent(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(char::from(byte)),
            b'.' if at > 0 => out.push('.'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_database_leaves_the_directory() {
        assert_eq!(dump_of("app_1.x"), "app_1.x.dump");
        assert_eq!(dump_of("../a/b%"), "%2E.%2Fa%2Fb%25.dump");
        assert_eq!(counts_of("größe"), "gr%C3%B6%C3%9Fe.counts.json");
    }
}
