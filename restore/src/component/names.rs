//! Paths as they are typed, and as `--list` prints them: what no text can hold is escaped there, and taken back here.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use components::Stored;
use components::restore::is_at_or_below;

use crate::error::Result;

/// As in the backup: without a slash before or behind it.
pub(crate) fn plain(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    bytes.strip_suffix(b"/").unwrap_or(bytes).to_vec()
}

/// The path that is meant: as it was typed where the backup has that, otherwise as `--list` prints it.
///
/// # Errors
/// The repository failed, or a piece of the table is damaged.
pub(crate) async fn resolve(stored: &Stored, path: &Path) -> Result<Vec<u8>> {
    let typed = plain(path);
    match unescaped(&typed) {
        // Only what would be printed so: `a\x2db` is no way to write `a-b`.
        Some(other)
            if other != typed
                && other.escape_ascii().to_string().as_bytes() == typed
                && !is_there(stored, &typed).await? =>
        {
            Ok(other)
        }
        _ => Ok(typed),
    }
}

/// True where a backup has that path, or something below it.
pub(crate) async fn is_there(stored: &Stored, path: &[u8]) -> Result<bool> {
    let mut stored = stored.clone();
    while let Some(piece) = stored.next_piece().await? {
        if piece.iter().any(|entry| is_at_or_below(&entry.path, path)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What [`slice::escape_ascii`] has made a text of; none: it has not.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            same @ (b'\\' | b'\'' | b'"') => same,
            b'x' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            _ => return None,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_taken_back() {
        let all: Vec<u8> = (1..=255).collect();
        for name in [all.as_slice(), b"a\\x41", b"plain", b"\xff\xfe", b"it's \"quoted\""] {
            let printed = name.escape_ascii().to_string();
            assert_eq!(unescaped(printed.as_bytes()).as_deref(), Some(name), "{printed}");
        }
        for text in ["a\\", "a\\q", "\\x4", "\\xzz"] {
            assert_eq!(unescaped(text.as_bytes()), None, "{text}");
        }
    }
}
