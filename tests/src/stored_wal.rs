//! Which WAL a store holds, from the names of its objects alone (FORMAT 3), in arithmetic of its own: a judge of the agent that
//! shares nothing with it.

use std::collections::BTreeMap;

/// What the name of a WAL object or tail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalKey {
    pub lineage: String,
    pub timeline: u32,
    pub start: u64,
    pub end: u64,
    pub is_tail: bool,
}

impl WalKey {
    /// Reads `<prefix>/clusters/<cluster>/{wal,tail}/<lineage>/<TLI8>/<segment>/<LSN16>-<LSN16>.<EPOCH8>`.
    pub fn parse(key: &str) -> Option<Self> {
        let (_, below) = key.split_once("clusters/")?;
        let parts: Vec<&str> = below.split('/').collect();
        let [_, lane, lineage, timeline, _, last] = parts.as_slice() else {
            return None;
        };
        let (range, _) = last.split_once('.')?;
        let (start, end) = range.split_once('-')?;
        Some(Self {
            lineage: (*lineage).to_owned(),
            timeline: u32::from_str_radix(timeline, 16).ok()?,
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            is_tail: match *lane {
                "wal" => false,
                "tail" => true,
                _ => return None,
            },
        })
    }
}

/// WAL from one LSN on without a hole, as objects come in, in any order.
#[derive(Debug, Clone)]
pub struct StoredPrefix {
    end: u64,
    /// Behind a hole: start to end.
    ahead: BTreeMap<u64, u64>,
}

impl StoredPrefix {
    pub fn new(start: u64) -> Self {
        Self {
            end: start,
            ahead: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, start: u64, end: u64) {
        let known = self.ahead.entry(start).or_insert(end);
        *known = end.max(*known);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.end {
                break;
            }
            self.end = self.end.max(entry.remove());
        }
    }

    /// Byte after the last one that is stored without a hole.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Something is stored behind a hole.
    pub fn has_hole(&self) -> bool {
        !self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_ends_at_the_first_hole_in_whatever_order_objects_come() {
        let mut prefix = StoredPrefix::new(100);
        prefix.add(200, 300);
        prefix.add(350, 400);
        assert_eq!((prefix.end(), prefix.has_hole()), (100, true));
        prefix.add(50, 200);
        assert_eq!((prefix.end(), prefix.has_hole()), (300, true));
        prefix.add(300, 320);
        prefix.add(300, 349);
        assert_eq!(prefix.end(), 349);
        prefix.add(340, 360);
        assert_eq!((prefix.end(), prefix.has_hole()), (400, false));
        prefix.add(100, 200);
        assert_eq!((prefix.end(), prefix.has_hole()), (400, false));
    }

    #[test]
    fn names_of_wal_are_read_and_others_are_not() {
        let lineage = "01KAXD4Y8CQ0RSTA7F2N3V4W5X";
        let segment = "000000010000000000000003";
        let name =
            format!("e2e/clusters/main/tail/{lineage}/0000001A/{segment}/0000000000300000-0000000000302000.00000001");
        let key = WalKey::parse(&name).unwrap();
        assert_eq!(
            (key.start, key.end, key.timeline, key.is_tail),
            (0x30_0000, 0x30_2000, 0x1A, true)
        );
        assert_eq!(key.lineage, lineage);
        for other in [
            "e2e/seawall.json".to_owned(),
            format!("e2e/clusters/main/wal/{lineage}/00000002/history.00000001"),
            format!("e2e/clusters/main/packs/aa/{lineage}"),
        ] {
            assert_eq!(WalKey::parse(&other), None, "{other}");
        }
    }
}
