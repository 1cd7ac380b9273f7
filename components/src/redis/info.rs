//! What INFO says: `name:value` a line, sections apart by `#`.
//!
//! Source: redis.io/docs/latest/commands/info.

use std::collections::{BTreeMap, HashMap};

use super::summary::Keys;

/// An answer to INFO.
#[derive(Clone, Debug, Default)]
pub struct Info(HashMap<String, String>);

impl Info {
    /// Reads the text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Info(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A value; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    /// Name and version of the program. Valkey also names a version of Redis that it is like.
    #[must_use]
    pub fn version(&self) -> String {
        match self.get("valkey_version") {
            "" => self.get("redis_version").to_owned(),
            version => format!("valkey {version}"),
        }
    }

    /// True while a snapshot is made for a replica (`slave0:ip=...,state=wait_bgsave`): whoever asks now gets that one, begun before.
    #[must_use]
    pub fn is_saving_for_another(&self) -> bool {
        let waits = |value: &String| value.split(',').any(|part| part == "state=wait_bgsave");
        self.get("rdb_bgsave_in_progress") == "1" && self.0.values().any(waits)
    }

    /// Keys by database: `db0:keys=1,expires=0,avg_ttl=0`.
    #[must_use]
    pub fn databases(&self) -> BTreeMap<u64, Keys> {
        let line = |(name, value): (&String, &String)| {
            let database = name.strip_prefix("db")?.parse().ok()?;
            let of = |wanted: &str| {
                let mut parts = value.split(',').filter_map(|part| part.split_once('='));
                parts.find(|(name, _)| *name == wanted)?.1.parse().ok()
            };
            let (keys, expiring) = (of("keys")?, of("expires").unwrap_or(0));
            Some((database, Keys { keys, expiring }))
        };
        self.0.iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_databases_found() {
        let info = Info::new(
            "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.1\r\ndb_size:x\r\ndb3:keys=5,expires=2,avg_ttl=0\r\n",
        );
        assert_eq!(info.version(), "valkey 8.1.1");
        let keys = Keys { keys: 5, expiring: 2 };
        assert_eq!(info.databases(), [(3, keys)].into());
        assert_eq!((info.get("role"), info.number("db3")), ("", None));
        assert!(!info.is_saving_for_another());
        let saving = "rdb_bgsave_in_progress:1\r\nslave0:ip=::1,port=0,state=wait_bgsave,offset=0,lag=0\r\n";
        assert!(Info::new(saving).is_saving_for_another());
        assert!(!Info::new(&saving.replace("wait_bgsave", "online")).is_saving_for_another());
    }
}
