//! Paths out of a manifest, which are hostile input until they passed here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::error::{RestoreError, Result};

/// Everything of ours in a restored data directory lies in here.
pub(crate) const OURS: &str = "seawall.restore";

/// Where an entry goes: a root that we opened, and the names below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// The tablespace, or the data directory.
    pub(crate) tablespace: Option<u32>,
    /// Names from the root down; empty for the root itself.
    pub(crate) names: Vec<Box<OsStr>>,
}

impl Place {
    /// A place in the data directory, given by us.
    pub(crate) fn ours(path: &str) -> Place {
        Place {
            tablespace: None,
            names: path.split('/').map(|name| OsStr::new(name).into()).collect(),
        }
    }

    /// Path relative to the data directory.
    pub(crate) fn path(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.names.iter().map(|name| name.as_bytes()).collect();
        let below = names.join(&b'/');
        match self.tablespace {
            Some(oid) => [format!("pg_tblspc/{oid}/").into_bytes(), below].concat(),
            None => below,
        }
    }

    /// For messages.
    pub(crate) fn show(&self) -> String {
        let names: Vec<_> = self
            .names
            .iter()
            .map(|name| name.to_string_lossy().escape_debug().to_string())
            .collect();
        match self.tablespace {
            Some(oid) => format!("pg_tblspc/{oid}/{}", names.join("/")),
            None => names.join("/"),
        }
    }
}

/// Why a path is refused; `None` when it is fine.
fn violation(path: &[u8]) -> Option<&'static str> {
    if path.first() == Some(&b'/') {
        return Some("is absolute");
    }
    if path.contains(&0) {
        return Some("holds a zero byte");
    }
    if path.len() > 4096 {
        return Some("is too long");
    }
    path.split(|byte| *byte == b'/').find_map(|name| match name {
        b"" => Some("has an empty part"),
        b"." | b".." => Some("has a part \".\" or \"..\""),
        name if name.len() > 255 => Some("has a part that is too long"),
        _ => None,
    })
}

fn names(path: &[u8]) -> Vec<Box<OsStr>> {
    path.split(|byte| *byte == b'/')
        .map(|name| OsStr::from_bytes(name).into())
        .collect()
}

fn refuse(path: &[u8], reason: &str) -> RestoreError {
    RestoreError::damaged("the file table", format!("path \"{}\" {reason}", path.escape_ascii()))
}

/// Where an entry of the data directory goes. `linked` are the tablespaces that lie outside of it.
pub(crate) fn place(path: &[u8], linked: &[u32]) -> Result<Place> {
    if path.is_empty() || path == b"." {
        return Ok(Place {
            tablespace: None,
            names: Vec::new(),
        });
    }
    if let Some(reason) = violation(path) {
        return Err(refuse(path, reason));
    }
    let names = names(path);
    if names.first().is_some_and(|name| **name == *OURS) {
        return Err(refuse(path, "is one of ours"));
    }
    let oid = match names.as_slice() {
        [first, second, ..] if **first == *"pg_tblspc" => second.to_str().and_then(|text| text.parse::<u32>().ok()),
        _ => None,
    };
    match oid.filter(|oid| linked.contains(oid)) {
        Some(oid) => Ok(Place {
            tablespace: Some(oid),
            names: names.into_iter().skip(2).collect(),
        }),
        None => Ok(Place {
            tablespace: None,
            names,
        }),
    }
}

/// Where a captured configuration file, whose path is absolute, is kept.
pub(crate) fn captured(path: &[u8]) -> Result<Place> {
    let rest = path.strip_prefix(b"/").ok_or_else(|| refuse(path, "is not absolute"))?;
    if let Some(reason) = violation(rest) {
        return Err(refuse(path, reason));
    }
    let mut place = Place::ours(OURS);
    place.names.push(OsStr::new("configuration").into());
    place.names.extend(names(rest));
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths_go_below_their_root() {
        assert_eq!(place(b"base/5/1259_fsm", &[]).unwrap().show(), "base/5/1259_fsm");
        assert_eq!(
            place(b"pg_tblspc/16384/PG_15_1/5/1", &[16384]).unwrap(),
            Place {
                tablespace: Some(16384),
                names: names(b"PG_15_1/5/1")
            }
        );
        assert_eq!(place(b"pg_tblspc/16385/PG_15_1", &[16384]).unwrap().tablespace, None);
        assert_eq!(
            place(b"pg_tblspc/16384", &[16384]).unwrap(),
            Place {
                tablespace: Some(16384),
                names: Vec::new()
            }
        );
        assert_eq!(place(b"a b'c\n", &[]).unwrap().names.len(), 1);
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            &b"/etc/passwd"[..],
            b"../x",
            b"base/../../x",
            b"base//x",
            b"base/",
            b"base/./x",
            b"a\0b",
            b"pg_tblspc/../x",
            b"pg_tblspc/16384/../x",
            b"seawall.restore/INCOMPLETE",
        ] {
            assert!(place(path, &[16384]).is_err(), "{}", path.escape_ascii());
        }
        assert!(place(&[b'a'; 300], &[]).is_err());
    }

    #[test]
    fn captured_files_stay_in_our_directory() {
        assert_eq!(
            captured(b"/etc/postgresql/pg_hba.conf").unwrap().show(),
            "seawall.restore/configuration/etc/postgresql/pg_hba.conf"
        );
        for path in [&b"etc/x"[..], b"/../x", b"//x", b"/"] {
            assert!(captured(path).is_err());
        }
    }
}
