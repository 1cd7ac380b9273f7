//! PostgreSQL's own compression, the way back: `pglz_decompress` (src/common/pg_lzcompress.c).
//!
//! A control byte tells of the eight items behind it, lowest bit first: 0 is a byte as it is, 1 a tag of two or three
//! bytes that repeats what was written before.

use super::lz4::repeat;

/// Exactly `plain_bytes` out of all of `stored`; `None` where the bytes make no sense.
pub(super) fn decompress(stored: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    let mut rest = stored;
    let mut next = || {
        let (byte, after) = rest.split_first()?;
        rest = after;
        Some(*byte)
    };
    let mut out = Vec::with_capacity(plain_bytes);
    while out.len() < plain_bytes {
        let control = next()?;
        for bit in 0..8 {
            if out.len() == plain_bytes {
                break;
            }
            let first = next();
            if control >> bit & 1 == 0 {
                out.push(first?);
                continue;
            }
            let (first, second) = (first?, next()?);
            let mut len = usize::from(first & 0x0F) + 3;
            let distance = usize::from(first & 0xF0) << 4 | usize::from(second);
            if len == 18 {
                len += usize::from(next()?);
            }
            // As PostgreSQL does it: the last tag may reach over the end.
            let room = plain_bytes - out.len();
            repeat(&mut out, distance, len.min(room))?;
        }
    }
    rest.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_repetitions_come_back() {
        // "abc", then 6 bytes from 3 before, then "d".
        let stored = [0b0000_1000, b'a', b'b', b'c', 3, 3, b'd'];
        assert_eq!(decompress(&stored, 10).unwrap(), b"abcabcabcd");
        // 'x' and a run of 18 + 5 of it.
        let stored = [0b10, b'x', 0x0F, 1, 5];
        assert_eq!(decompress(&stored, 24).unwrap(), [b'x'; 24]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let stored = [0b0000_1000, b'a', b'b', b'c', 3, 3, b'd'];
        for len in 0..stored.len() {
            assert_eq!(decompress(&stored[..len], 10), None, "{len}");
        }
        assert_eq!(decompress(&stored, 11), None);
        assert_eq!(decompress(&stored, 9), None);
        assert_eq!(decompress(&[1, 0, 0], 3), None, "no distance");
        assert_eq!(decompress(&[1, 0, 1], 3), None, "before the start");
        assert!(decompress(&[], 0).unwrap().is_empty());
    }
}
