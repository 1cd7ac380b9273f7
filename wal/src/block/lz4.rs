//! A block of LZ4, the way back: sequences of literals and repetitions (lz4, doc/lz4_Block_format.md), as PostgreSQL
//! writes page images with `LZ4_compress_default` (`XLogCompressBackupBlock`, xloginsert.c).

/// Shortest repetition.
const MATCH_BYTES_MIN: usize = 4;

/// Exactly `plain_bytes` out of all of `stored`; `None` where the bytes make no sense.
pub(super) fn decompress(stored: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    let mut rest = stored;
    let mut out = Vec::with_capacity(plain_bytes);
    loop {
        let token = take_u8(&mut rest)?;
        let literals = length(&mut rest, token >> 4)?;
        let (plain, after) = rest.split_at_checked(literals)?;
        if plain.len() > plain_bytes - out.len() {
            return None;
        }
        out.extend_from_slice(plain);
        rest = after;
        if rest.is_empty() {
            return (out.len() == plain_bytes).then_some(out);
        }
        let distance = usize::from(take_u8(&mut rest)?) | usize::from(take_u8(&mut rest)?) << 8;
        let len = length(&mut rest, token & 0x0F)?.checked_add(MATCH_BYTES_MIN)?;
        if len > plain_bytes - out.len() {
            return None;
        }
        repeat(&mut out, distance, len)?;
    }
}

fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

/// Four bits; 15 of them go on in bytes until one is not 255.
fn length(rest: &mut &[u8], nibble: u8) -> Option<usize> {
    let mut len = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = take_u8(rest)?;
            len += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(len)
}

/// Appends `len` bytes from `distance` before the end; they may overlap with what is written.
pub(super) fn repeat(out: &mut Vec<u8>, distance: usize, len: usize) -> Option<()> {
    let start = out.len().checked_sub(distance).filter(|_| distance > 0)?;
    for from in start..start + len {
        out.push(*out.get(from)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_repetitions_come_back() {
        // 3 literals, 4 + 3 bytes from 3 before; then 5 literals.
        let stored = [0x33, b'a', b'b', b'c', 3, 0, 0x50, b'v', b'w', b'x', b'y', b'z'];
        assert_eq!(decompress(&stored, 15).unwrap(), b"abcabcabcavwxyz");
        // 1 literal and 4 + 15 + 2 more of it.
        let stored = [0x1F, b'x', 1, 0, 2, 0x00];
        assert_eq!(decompress(&stored, 22).unwrap(), [b'x'; 22]);
        let long: Vec<u8> = (0..300).map(|i| i as u8).collect();
        let stored = [&[0xF0, 255, 30][..], &long].concat();
        assert_eq!(decompress(&stored, 300).unwrap(), long);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let stored = [0x33, b'a', b'b', b'c', 3, 0, 0x50, b'v', b'w', b'x', b'y', b'z'];
        for len in 0..stored.len() {
            assert_eq!(decompress(&stored[..len], 15), None, "{len}");
        }
        assert_eq!(decompress(&stored, 14), None);
        assert_eq!(decompress(&stored, 16), None);
        assert_eq!(decompress(&[0x10, b'a', 0, 0, 0], 5), None, "no distance");
        assert_eq!(decompress(&[0x10, b'a', 2, 0, 0], 5), None, "before the start");
        assert_eq!(decompress(&[0xF0, 255, 255, 255], 5), None);
    }
}
