//! What is written down of a capture, and what of it a file or a server says again.

use std::collections::BTreeMap;

use super::info::Info;
use super::summary::{Keys, Summary};

/// What a whole file says by itself: the same for the one that was captured and the one that was restored.
pub fn of_file(summary: &Summary) -> BTreeMap<String, String> {
    let mut facts: BTreeMap<String, String> = [
        ("bytes", summary.bytes.to_string()),
        ("rdb_version", summary.version.to_string()),
        (
            "checksum",
            if summary.is_summed { "verified" } else { "none" }.to_owned(),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(unknown) = summary.unknown {
        facts.insert("unknown_type".into(), unknown.to_string());
        return facts;
    }
    let total = |of: fn(&Keys) -> u64| summary.databases.values().map(of).sum::<u64>().to_string();
    facts.insert("keys".into(), total(|keys| keys.keys));
    facts.insert("keys_expiring".into(), total(|keys| keys.expiring));
    facts.insert("functions".into(), summary.functions.to_string());
    for (database, keys) in &summary.databases {
        facts.insert(format!("db{database}_keys"), keys.keys.to_string());
        facts.insert(format!("db{database}_keys_expiring"), keys.expiring.to_string());
    }
    facts
}

/// What the server said when the capture began. Where keys could not be counted, its own count stands instead.
pub fn of_server(info: &Info, summary: &Summary, replication: &(String, String)) -> BTreeMap<String, String> {
    let mut facts: BTreeMap<String, String> = [
        ("server_version", info.version()),
        ("role", info.get("role").to_owned()),
        ("replication_id", replication.0.clone()),
        ("replication_offset", replication.1.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if summary.unknown.is_some() {
        for (database, keys) in info.databases() {
            facts.insert(format!("db{database}_keys_about"), keys.keys.to_string());
        }
    }
    facts
}

/// What a restored file has other than the one that was captured.
pub fn differences(captured: &BTreeMap<String, String>, restored: &Summary) -> Vec<String> {
    let now = of_file(restored);
    let differs = now.iter().filter(|(name, now)| captured.get(*name) != Some(now));
    let differs = differs.map(|(name, now)| {
        let then = captured.get(name).map_or("none", String::as_str);
        format!("{name}: {then} were captured, {now} are in the file")
    });
    differs.collect()
}

/// What a server that loaded the file lacks, beyond what expired since. `info` must come from one answer: then its counts fit together.
pub fn missing(file: &Summary, info: &Info) -> Vec<String> {
    if file.unknown.is_some() {
        return Vec::new();
    }
    let loaded = info.databases();
    let (mut differs, mut missing) = (Vec::new(), 0);
    // Fields of hashes expire as well, and a hash goes with its last one.
    let fields = info
        .number("expired_subkeys")
        .or(info.number("expired_fields"))
        .unwrap_or(0);
    for database in file
        .databases
        .keys()
        .chain(loaded.keys().filter(|id| !file.databases.contains_key(id)))
    {
        let of = |databases: &BTreeMap<u64, Keys>| databases.get(database).copied().unwrap_or_default();
        let (then, now) = (of(&file.databases), of(&loaded));
        let lost = then.keys.saturating_sub(now.keys);
        missing += lost;
        if now.keys > then.keys || lost > then.expiring + fields {
            differs.push(format!(
                "db{database}: {} keys were captured, {} of them expire; the server has {}",
                then.keys, then.expiring, now.keys
            ));
        }
    }
    // Since 7.0 a server counts what it left out while it loaded; both numbers together are all that may be missing.
    if let Some(skipped) = info.number("rdb_last_load_keys_expired") {
        let expired = skipped + info.number("expired_keys").unwrap_or(0);
        if missing > expired + fields {
            differs.push(format!(
                "{missing} keys are missing, and {expired} expired since they were captured"
            ));
        }
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(keys: u64, expiring: u64) -> Summary {
        Summary {
            version: 10,
            databases: [(0, Keys { keys, expiring })].into(),
            functions: 0,
            unknown: None,
            is_summed: true,
            created_s: None,
            bytes: 100,
        }
    }

    #[test]
    fn what_expired_is_not_missing_and_everything_else_is() {
        let server = |keys: u64, expired: &str| Info::new(&format!("db0:keys={keys},expires=0\n{expired}"));
        let newer = "rdb_last_load_keys_expired:2\nexpired_keys:1\n";
        assert_eq!(missing(&file(10, 3), &server(7, newer)), Vec::<String>::new());
        assert_eq!(missing(&file(10, 4), &server(6, newer)).len(), 1);
        assert_eq!(missing(&file(10, 3), &server(6, "")).len(), 1);
        assert_eq!(missing(&file(10, 3), &server(7, "")), Vec::<String>::new());
        assert_eq!(missing(&file(10, 0), &server(11, newer)).len(), 1);
        assert_eq!(missing(&file(10, 0), &Info::new("db1:keys=10\n")).len(), 2);
    }

    #[test]
    fn another_file_is_told_from_the_one_that_was_captured() {
        let captured = of_file(&file(10, 3));
        assert_eq!(differences(&captured, &file(10, 3)), Vec::<String>::new());
        assert_eq!(
            differences(&captured, &file(9, 3)),
            [
                "db0_keys: 10 were captured, 9 are in the file",
                "keys: 10 were captured, 9 are in the file"
            ]
        );
    }
}
