//! Keys of every type, and all that is to be the same of them afterwards.

use std::collections::BTreeMap;

use store::testing::bytes_of;

use crate::client::{Client, Value};

/// Databases that are used.
pub const DATABASES: [u32; 2] = [0, 3];
/// Far away: 2100.
const LATER_MS: &str = "4102444800123";

/// What a server of this version has.
#[derive(Clone, Copy)]
pub struct Has {
    pub functions: bool,
    pub field_expiry: bool,
}

/// Keys of every type in both databases.
pub fn fill(client: &mut Client, has: Has) {
    for database in DATABASES {
        client.ask(&format!("SELECT {database}"));
        strings(client);
        collections(client);
        streams(client);
        if has.field_expiry {
            for name in ["hash", "hash large"] {
                let key = format!("fields of {name}");
                client.bytes(&[b"COPY", name.as_bytes(), key.as_bytes()]);
                client.bytes(&[
                    b"HPEXPIREAT",
                    key.as_bytes(),
                    LATER_MS.as_bytes(),
                    b"FIELDS",
                    b"1",
                    b"f0",
                ]);
            }
        }
    }
    if has.functions {
        let code = b"#!lua name=mine\nredis.register_function('one', function() return 1 end)";
        client.bytes(&[b"FUNCTION", b"LOAD", code]);
    }
}

fn strings(client: &mut Client) {
    for (key, value) in [
        (b"string".as_slice(), b"value".as_slice()),
        (b"", b"the empty key"),
        (b"empty", b""),
        (b"\x00\xff\r\n binary \x80", b"\r\n\x00\xfe"),
        (b"tiny", b"-7"),
        (b"short", b"-30000"),
        (b"integer", b"2000000000"),
        (b"long", b"9000000000000000000"),
        (b"compressible", &[b'x'; 200_000]),
        (b"large", &bytes_of(5, 5_000_000)),
    ] {
        client.bytes(&[b"SET", key, value]);
    }
    client.ask("SET later v");
    client.ask(&format!("PEXPIREAT later {LATER_MS}"));
    client.ask("SETBIT bits 70000 1");
    client.ask("PFADD loglog a b c d e f g");
}

fn collections(client: &mut Client) {
    client.ask("RPUSH list a b 3 -4");
    client.ask("SADD integers 1 2 3 70000 9000000000");
    client.ask("SADD set a b c 4");
    client.ask("ZADD sorted 1 a 2.5 b -inf c inf d");
    client.ask("HSET hash f0 v0 f1 1 f2 v2");
    client.ask("GEOADD places 13.361389 38.115556 Palermo 15.087269 37.502669 Catania");
    client.bytes(&[b"RPUSH", b"list large", &bytes_of(9, 100_000)]);
    for number in 0..3000_u32 {
        let text = format!("element {number} {}", "y".repeat(number as usize % 90));
        let text = text.as_bytes();
        client.bytes(&[b"RPUSH", b"list large", text]);
        client.bytes(&[b"SADD", b"set large", text]);
        client.bytes(&[b"HSET", b"hash large", format!("f{number}").as_bytes(), text]);
        client.bytes(&[
            b"ZADD",
            b"sorted large",
            format!("{}", f64::from(number) / 7.0).as_bytes(),
            text,
        ]);
    }
    client.ask(&format!("PEXPIREAT set {LATER_MS}"));
}

fn streams(client: &mut Client) {
    for number in 1..500_u32 {
        client.bytes(&[
            b"XADD",
            b"stream",
            format!("{number}-1").as_bytes(),
            b"field",
            b"value",
            b"n",
            b"1",
        ]);
    }
    client.ask("XDEL stream 5-1 499-1");
    client.ask("XGROUP CREATE stream group 0");
    client.ask("XGROUP CREATE stream other 10-1");
    client.ask("XREADGROUP GROUP group one COUNT 20 STREAMS stream >");
    client.ask("XREADGROUP GROUP group two COUNT 3 STREAMS stream >");
    client.ask("XACK stream group 1-1 2-1");
    client.ask("XADD emptied 1-1 f v");
    client.ask("XDEL emptied 1-1");
}

/// Other content than before: changed, gone, new.
pub fn change(client: &mut Client) {
    client.ask("SELECT 0");
    client.ask("SET string other");
    client.ask("DEL list compressible");
    client.ask("RPUSH new 1 2 3");
    client.ask("XADD stream 600-1 field more");
    client.ask("PERSIST set");
    client.ask("SELECT 3");
    client.ask("HSET hash f9 v9");
    client.ask("XACK stream group 3-1");
}

/// All that is to be the same, by database and key.
pub fn look(client: &mut Client) -> BTreeMap<(u32, Vec<u8>), Vec<Value>> {
    let mut all = BTreeMap::new();
    for database in DATABASES {
        client.ask(&format!("SELECT {database}"));
        for key in client.bytes(&[b"KEYS", b"*"]).items() {
            let key = key.bytes();
            let kind = client.bytes(&[b"TYPE", key]);
            let mut seen = vec![kind.clone(), client.bytes(&[b"DEBUG", b"DIGEST-VALUE", key])];
            let left = client.bytes(&[b"PTTL", key]).number();
            seen.push(Value::Integer(if left < 0 {
                left
            } else {
                expires_at(client, key, left)
            }));
            match kind.bytes() {
                // Tables are written in an order of their own.
                b"hash" => seen.extend(fields_expire(client, key)),
                b"string" | b"list" => seen.push(client.bytes(&[b"DUMP", key])),
                b"stream" => {
                    seen.push(client.bytes(&[b"DUMP", key]));
                    seen.push(client.bytes(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]));
                }
                _ => {}
            }
            all.insert((database, key.to_vec()), seen);
        }
    }
    if let Ok(functions @ Value::List(_)) = client.try_ask(&[b"FUNCTION", b"LIST", b"WITHCODE"]) {
        all.insert((u32::MAX, b"functions".to_vec()), vec![functions]);
    }
    all
}

/// To the millisecond where the server says it; else to the nearest minute, by its clock: what is set here lies close to a full one.
fn expires_at(client: &mut Client, key: &[u8], left: i64) -> i64 {
    match client.try_ask(&[b"PEXPIRETIME", key]) {
        Ok(Value::Integer(at)) => at,
        _ => {
            let now_s: i64 = client.ask("TIME").items()[0].text().parse().unwrap();
            (now_s * 1000 + left + 30_000) / 60_000
        }
    }
}

fn fields_expire(client: &mut Client, key: &[u8]) -> Option<Value> {
    match client.try_ask(&[b"HPEXPIRETIME", key, b"FIELDS", b"2", b"f0", b"f1"]) {
        Ok(times @ Value::List(_)) => Some(times),
        _ => None,
    }
}
