//! Keys as text for paper: hexadecimal lines, each with a checksum of its own, so that a mistyped one is named. Whole, or split so that some of
//! several parts are needed (Shamir's scheme over GF(256), a part is useless alone).
//!
//! Payload: CBOR map 0 role (1 restore, 2 maintenance), 1 repository id 16, 2 cluster, 3 X25519 secret 32, 4 root 32 or absent, 5 signing seed 32 or absent.
//! What is printed: CBOR map 0 payload, or 1 threshold, 2 which split (first 4 bytes of the BLAKE3 of the payload), 3 part. Then 16 bytes a
//! line: number of the line, eight groups of four digits, and as the last group the first two bytes of the BLAKE3 of number (one byte) and bytes.
//! Lines that begin with `#` are for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use blahaj::{Share, Sharks};
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::file::{OpeningKeyFile, role_text};
use super::{OpeningKey, Role, VerifyingKey};
use crate::error::StoreError;
use crate::id::{RepositoryId, hex, unhex};
use crate::seal::Secret32;
use crate::session::to_cbor;

const LINE_BYTES: usize = 16;

#[derive(Encode, Decode)]
#[cbor(map)]
struct Payload {
    #[n(0)]
    role: Role,
    #[n(1)]
    repository: RepositoryId,
    #[n(2)]
    cluster: String,
    #[n(3)]
    secret: ByteArray<32>,
    #[n(4)]
    root: Option<ByteArray<32>>,
    #[n(5)]
    signing_seed: Option<ByteArray<32>>,
}

#[derive(Default, Encode, Decode)]
#[cbor(map)]
struct Printed {
    #[n(0)]
    whole: Option<ByteVec>,
    #[n(1)]
    threshold: Option<u8>,
    #[n(2)]
    split: Option<ByteArray<4>>,
    #[n(3)]
    part: Option<ByteVec>,
}

/// The key as one text.
///
/// # Errors
/// Never in practice.
pub fn print(role: Role, file: &OpeningKeyFile) -> Result<Zeroizing<String>, StoreError> {
    let printed = Printed {
        whole: Some(payload(role, file)?.to_vec().into()),
        ..Printed::default()
    };
    let title = format!(
        "{} key of cluster {}, repository {}",
        role_text(role),
        file.cluster,
        file.repository
    );
    lines(&title, &to_cbor(&printed)?)
}

/// The key as several texts, any `threshold` of which give it back.
///
/// # Errors
/// Fewer parts than are needed, or a threshold under two.
pub fn split(
    role: Role,
    file: &OpeningKeyFile,
    parts: u8,
    threshold: u8,
) -> Result<Vec<Zeroizing<String>>, StoreError> {
    if threshold < 2 || parts < threshold {
        return Err(StoreError::Limit {
            what: "the number of parts",
            detail: format!("{threshold} of {parts}; at least 2 must be needed, and at least as many made"),
        });
    }
    let payload = payload(role, file)?;
    let id = split_id(&payload);
    let shares = Sharks(threshold).dealer(&payload).take(usize::from(parts));
    let print = |(number, share): (usize, Share)| {
        let printed = Printed {
            threshold: Some(threshold),
            split: Some(id.into()),
            part: Some(Vec::from(&share).into()),
            ..Printed::default()
        };
        let title = format!(
            "part {number} of {parts} of the {} key of cluster {}, repository {}; {threshold} parts are needed",
            role_text(role),
            file.cluster,
            file.repository
        );
        lines(&title, &to_cbor(&printed)?)
    };
    (1..).zip(shares).map(print).collect()
}

/// The key that was printed: from its one text, or from enough parts in any order. Several texts may follow each other in one.
///
/// # Errors
/// A line is missing or mistyped; parts are missing or of different keys.
pub fn read(text: &str) -> Result<(Role, OpeningKeyFile), StoreError> {
    let printed = texts(text)?;
    if let Some(whole) = printed.iter().find_map(|printed| printed.whole.as_ref()) {
        return parse(whole);
    }
    let [first, ..] = printed.as_slice() else {
        return Err(unreadable("there is no line of a key in it"));
    };
    if printed.iter().any(|part| part.split != first.split) {
        return Err(unreadable(
            "the parts are of different keys, or of two splits of one key",
        ));
    }
    let threshold = first.threshold.unwrap_or_default();
    let parts: BTreeSet<&[u8]> = printed
        .iter()
        .filter_map(|printed| Some(printed.part.as_ref()?.as_slice()))
        .collect();
    let shares = parts.iter().map(|part| Share::try_from(*part).map_err(unreadable));
    let shares: Vec<Share> = shares.collect::<Result<_, _>>()?;
    if shares.len() < usize::from(threshold) {
        return Err(unreadable(&format!(
            "{threshold} parts are needed, and {} are here",
            shares.len()
        )));
    }
    let payload = Sharks(threshold).recover(&shares).map_err(unreadable)?;
    let payload = Zeroizing::new(payload);
    if Some(split_id(&payload)) != first.split.map(|id| *id) {
        return Err(unreadable(
            "the parts do not give a key: one of them is not what was printed",
        ));
    }
    parse(&payload)
}

fn payload(role: Role, file: &OpeningKeyFile) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let payload = Payload {
        role,
        repository: file.repository,
        cluster: file.cluster.clone(),
        secret: (*file.key.secret().expose()).into(),
        root: file.root.map(|root| root.0.into()),
        signing_seed: file.signing_seed.as_ref().map(|seed| (*seed.expose()).into()),
    };
    Ok(Zeroizing::new(to_cbor(&payload)?))
}

fn parse(payload: &[u8]) -> Result<(Role, OpeningKeyFile), StoreError> {
    let payload: Payload = minicbor::decode(payload).map_err(|_| unreadable("it is not a key"))?;
    let file = OpeningKeyFile {
        repository: payload.repository,
        cluster: payload.cluster,
        key: OpeningKey::from_secret(Secret32::new(*payload.secret))?,
        root: payload.root.map(|root| VerifyingKey(*root)),
        signing_seed: payload.signing_seed.map(|seed| Secret32::new(*seed)),
    };
    Ok((payload.role, file))
}

fn split_id(payload: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = *blake3::hash(payload).as_bytes();
    [a, b, c, d]
}

fn lines(title: &str, bytes: &[u8]) -> Result<Zeroizing<String>, StoreError> {
    let failed = |_| StoreError::Codec("cannot print a key".into());
    let mut out = Zeroizing::new(format!("# seawall: {title}\n"));
    for (number, line) in (1u8..).zip(bytes.chunks(LINE_BYTES)) {
        write!(out, "{number:2} ").map_err(failed)?;
        for group in line.chunks(2) {
            write!(out, " {}", *Zeroizing::new(hex(group))).map_err(failed)?;
        }
        writeln!(out, "  {}", hex(&checksum(number, line))).map_err(failed)?;
    }
    Ok(out)
}

fn checksum(number: u8, line: &[u8]) -> [u8; 2] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[number]).update(line);
    let [a, b, ..] = *hasher.finalize().as_bytes();
    [a, b]
}

/// The texts that follow each other: each begins with a line 1.
fn texts(text: &str) -> Result<Vec<Printed>, StoreError> {
    let mut bodies: Vec<Zeroizing<Vec<u8>>> = Vec::new();
    let mut expected = 1u8;
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (number, bytes) = parse_line(line)?;
        if number == 1 {
            bodies.push(Zeroizing::default());
            expected = 1;
        }
        if number != expected {
            return Err(unreadable(&format!("line {expected} is missing before line {number}")));
        }
        expected = expected.saturating_add(1);
        if let Some(body) = bodies.last_mut() {
            body.extend_from_slice(&bytes);
        }
    }
    let printed = bodies.iter().map(|body| minicbor::decode(body));
    printed
        .map(|printed| printed.map_err(|_| unreadable("a line is missing at the end, or it is not a key")))
        .collect()
}

fn parse_line(line: &str) -> Result<(u8, Zeroizing<Vec<u8>>), StoreError> {
    let mut words = line.split_whitespace();
    let number = words.next().and_then(|number| number.parse::<u8>().ok());
    let number = number.ok_or_else(|| unreadable("a line does not begin with its number"))?;
    let mistyped = || unreadable(&format!("line {number} was mistyped"));
    let digits: Zeroizing<String> = Zeroizing::new(words.collect());
    let (bytes, sum) = digits
        .split_at_checked(digits.len().saturating_sub(4))
        .ok_or_else(mistyped)?;
    let pairs = bytes.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        unhex::<1>(pair).map(|[byte]| byte)
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    let bytes = Zeroizing::new(bytes.ok_or_else(mistyped)?);
    if hex(&checksum(number, &bytes)) == sum.to_ascii_lowercase() {
        Ok((number, bytes))
    } else {
        Err(mistyped())
    }
}

fn unreadable(reason: &str) -> StoreError {
    StoreError::KeyFile {
        path: "the printed key".into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OpeningKeyFile {
        OpeningKeyFile {
            repository: RepositoryId::from_parts(1, [1; 10]),
            cluster: "main".into(),
            key: OpeningKey::generate().unwrap(),
            root: Some(VerifyingKey([7; 32])),
            signing_seed: Some(Secret32::generate().unwrap()),
        }
    }

    fn same(read: &(Role, OpeningKeyFile), file: &OpeningKeyFile) {
        assert_eq!(read.0, Role::Restore);
        assert_eq!(read.1.repository, file.repository);
        assert_eq!(read.1.cluster, file.cluster);
        assert_eq!(read.1.key.public(), file.key.public());
        assert_eq!(read.1.root, file.root);
        let seed = |file: &OpeningKeyFile| *file.signing_seed.as_ref().unwrap().expose();
        assert_eq!(seed(&read.1), seed(file));
    }

    #[test]
    fn what_was_printed_is_read_again_whatever_its_case_and_spaces() {
        let file = file();
        let text = print(Role::Restore, &file).unwrap();
        same(&read(&text).unwrap(), &file);
        same(&read(&text.to_uppercase()).unwrap(), &file);
        same(&read(&text.replace('\n', "\r\n\n").replace("  ", "\t")).unwrap(), &file);
        let reader = OpeningKeyFile {
            signing_seed: None,
            ..file
        };
        let text = print(Role::Maintenance, &reader).unwrap();
        let (role, read) = read(&text).unwrap();
        assert!(role == Role::Maintenance && read.signing_seed.is_none());
    }

    #[test]
    fn a_line_that_was_mistyped_or_left_out_is_named() {
        let text = print(Role::Restore, &file()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let why = |text: &str| read(text).unwrap_err().to_string();
        for (at, line) in lines.iter().enumerate().skip(1) {
            let wrong = line
                .char_indices()
                .rev()
                .find(|(_, digit)| digit.is_ascii_hexdigit())
                .unwrap();
            let digit = if wrong.1 == '0' { "1" } else { "0" };
            let mut typed = (*line).to_owned();
            typed.replace_range(wrong.0..=wrong.0, digit);
            let mut all = lines.clone();
            all[at] = &typed;
            assert!(why(&all.join("\n")).contains(&format!("line {at} was mistyped")));
            let mut all = lines.clone();
            all.remove(at);
            let reason = why(&all.join("\n"));
            let is_named =
                reason.contains(&format!("line {at} is missing")) || reason.contains("a line is missing at the end");
            assert!(
                is_named || (at == 1 && reason.contains("line 1 is missing")),
                "{reason}"
            );
        }
        assert!(why("# nothing").contains("no line of a key"));
    }

    #[test]
    fn any_three_of_five_parts_give_the_key_and_two_do_not() {
        let file = file();
        let parts = split(Role::Restore, &file, 5, 3).unwrap();
        let text = |of: &[usize]| -> String { of.iter().map(|at| parts[*at].as_str()).collect() };
        for of in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
            same(&read(&text(&of)).unwrap(), &file);
        }
        same(&read(&text(&[0, 1, 2, 3, 4])).unwrap(), &file);
        let why = |text: &str| read(text).unwrap_err().to_string();
        assert!(why(&text(&[0, 1])).contains("3 parts are needed, and 2 are here"));
        assert!(why(&text(&[0, 1, 1])).contains("3 parts are needed, and 2 are here"));
        let others = split(Role::Restore, &file, 3, 2).unwrap();
        let other_key = split(Role::Restore, &self::file(), 5, 3).unwrap();
        assert!(why(&format!("{}{}", text(&[0, 1]), *other_key[2])).contains("different keys"));
        assert!(why(&format!("{}{}", text(&[0, 1]), *others[2])).contains("do not give a key"));
        assert!(split(Role::Restore, &file, 2, 3).is_err() && split(Role::Restore, &file, 3, 1).is_err());
    }
}
