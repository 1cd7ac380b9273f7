//! The checksum at the end of an RDB file: CRC-64 of Jones, eight bytes a step.
//!
//! Source: "CRC-64/REDIS" in the catalogue of parametrised CRC algorithms (width 64, polynomial ad93d23594c935a9, reflected, initial value and
//! final XOR zero, check e9c6d914c4b8d9ca), which names the `crc64.c` of Redis. Slicing: Kounavis and Berry, "A Systematic Approach to
//! Building High Performance Software-based CRC Generators", 2005.

/// The polynomial with its bits in the other order.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// What a byte does to the sum that lies so many bytes before its end.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    // Evaluated by the compiler: an index out of range does not compile.
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut behind = 1;
    while behind < 8 {
        byte = 0;
        while byte < 256 {
            let before = tables[behind - 1][byte];
            tables[behind][byte] = (before >> 8) ^ tables[0][(before & 255) as usize];
            byte += 1;
        }
        behind += 1;
    }
    tables
}

/// The sum of what gave `sum`, with `bytes` behind it.
#[must_use]
pub fn update(mut sum: u64, bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let all = (sum ^ u64::from_le_bytes(*eight)).to_le_bytes();
        sum = 0;
        for (byte, table) in all.iter().zip(TABLES.iter().rev()) {
            sum ^= table[usize::from(*byte)];
        }
    }
    for byte in rest {
        sum = (sum >> 8) ^ TABLES[0][usize::from((sum ^ u64::from(*byte)) as u8)];
    }
    sum
}

/// A sum over a file whose last eight bytes are the sum itself.
#[derive(Debug, Default)]
pub struct Sum {
    sum: u64,
    /// The last bytes so far: they may be what was written.
    tail: Vec<u8>,
    before_tail: u8,
}

impl Sum {
    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let into = (self.tail.len() + bytes.len()).saturating_sub(8);
        let of_tail = into.min(self.tail.len());
        let (summed, kept) = bytes.split_at_checked(into - of_tail).unwrap_or((bytes, &[]));
        let of_tail: Vec<u8> = self.tail.drain(..of_tail).collect();
        if let Some(last) = summed.last().or(of_tail.last()) {
            self.before_tail = *last;
        }
        self.sum = update(update(self.sum, &of_tail), summed);
        self.tail.extend_from_slice(kept);
    }

    /// What comes of all but the last eight bytes.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.sum
    }

    /// What the last eight bytes say.
    #[must_use]
    pub fn written(&self) -> Option<u64> {
        self.tail.as_slice().try_into().ok().map(u64::from_le_bytes)
    }

    /// The byte before them.
    #[must_use]
    pub fn before_written(&self) -> u8 {
        self.before_tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        assert_eq!(update(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let bytes: Vec<u8> = (0..=255)
            .cycle()
            .take(1000)
            .map(|byte: u8| byte.wrapping_mul(37))
            .collect();
        let whole = update(0, &bytes);
        for at in 0..bytes.len() {
            let (before, behind) = bytes.split_at(at);
            assert_eq!(update(update(0, before), behind), whole);
        }
    }
}
