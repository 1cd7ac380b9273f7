//! Paths as PostgreSQL writes them.

/// A path without `.`, without `..` where something stands before it, and without empty parts: what the server opens for a path in a
/// configuration file. Links play no part in it (src/port/path.c, `canonicalize_path`).
#[must_use]
pub fn canonical(path: &[u8]) -> Vec<u8> {
    let is_absolute = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if is_absolute => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    if is_absolute {
        [b"/", joined.as_slice()].concat()
    } else {
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_doubled_slashes_go() {
        for (path, expected) in [
            ("/etc/pg/main/../shared.conf", "/etc/pg/shared.conf"),
            ("/etc/pg/./conf.d//a.conf", "/etc/pg/conf.d/a.conf"),
            ("/../../a", "/a"),
            ("../x/../../y", "../../y"),
            ("a/b/", "a/b"),
            ("/", "/"),
            (".", ""),
        ] {
            assert_eq!(canonical(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
