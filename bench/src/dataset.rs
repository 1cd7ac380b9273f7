//! Relation pages made in the process: one data set near to life, one that compresses absurdly well. Report both.

use pg::page::{PAGE_BYTES, checksum};

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataset {
    /// Rows of a UUID, a JSON document and words: about 3 : 1.
    Mix,
    /// Rows like those of `pgbench_accounts`: about 30 : 1.
    Accounts,
}

impl Dataset {
    /// For names of results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dataset::Mix => "mix",
            Dataset::Accounts => "accounts",
        }
    }

    /// `pages` pages with right headers and checksums.
    #[must_use]
    pub fn pages(self, pages: u32) -> Vec<u8> {
        let mut random = Random(0x5EA_0A11 + self as u64);
        let mut out = Vec::with_capacity(pages as usize * PAGE_BYTES);
        let mut row = 0;
        for block in 0..pages {
            let mut page = Page::new(block);
            loop {
                let tuple = match self {
                    Dataset::Mix => mix_row(&mut random, row),
                    Dataset::Accounts => account_row(row),
                };
                if !page.add(&tuple, row) {
                    break;
                }
                row += 1;
            }
            out.extend_from_slice(&page.finish(block));
        }
        out
    }
}

/// splitmix64: the same bytes on every machine.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

struct Page {
    bytes: Vec<u8>,
    lower: usize,
    upper: usize,
}

impl Page {
    fn new(block: u32) -> Self {
        let mut bytes = vec![0; PAGE_BYTES];
        put(&mut bytes, 4, &(0x0100_0000 + block * 64).to_le_bytes());
        Page {
            bytes,
            lower: 24,
            upper: PAGE_BYTES,
        }
    }

    /// Adds a tuple and its line pointer; false when the page is full.
    fn add(&mut self, data: &[u8], row: u64) -> bool {
        let length = 24 + data.len();
        let at = (self.upper.saturating_sub(length)) / 8 * 8;
        if self.upper < length || at < self.lower + 4 {
            return false;
        }
        let pointer = u32::try_from(at | (1 << 15) | (length << 17)).unwrap_or(0);
        put(&mut self.bytes, self.lower, &pointer.to_le_bytes());
        put(
            &mut self.bytes,
            at,
            &u32::try_from(700 + row / 5000 % 1_000_000).unwrap_or(0).to_le_bytes(),
        );
        put(&mut self.bytes, at + 18, &[4, 0, 2, 9, 24, 0]);
        put(&mut self.bytes, at + 24, data);
        self.lower += 4;
        self.upper = at;
        true
    }

    fn finish(mut self, block: u32) -> Vec<u8> {
        for (at, value) in [
            (12, self.lower),
            (14, self.upper),
            (16, PAGE_BYTES),
            (18, PAGE_BYTES | 4),
        ] {
            put(&mut self.bytes, at, &u16::try_from(value).unwrap_or(0).to_le_bytes());
        }
        let sum = checksum(&self.bytes, block);
        put(&mut self.bytes, 8, &sum.to_le_bytes());
        self.bytes
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

const WORDS: [&str; 32] = [
    "order",
    "customer",
    "shipping",
    "invoice",
    "pending",
    "delivered",
    "return",
    "blue",
    "large",
    "north",
    "harbour",
    "engine",
    "paper",
    "winter",
    "market",
    "silver",
    "account",
    "region",
    "payment",
    "refund",
    "window",
    "garden",
    "stone",
    "river",
    "copper",
    "linen",
    "express",
    "standard",
    "fragile",
    "gift",
    "priority",
    "archive",
];

fn word(random: &mut Random) -> &'static str {
    let at = usize::try_from(random.number() % 32).unwrap_or(0);
    WORDS.get(at).copied().unwrap_or_default()
}

fn mix_row(random: &mut Random, row: u64) -> Vec<u8> {
    let mut out = row.to_le_bytes().to_vec();
    out.extend_from_slice(&random.number().to_le_bytes());
    out.extend_from_slice(&random.number().to_le_bytes());
    out.extend_from_slice(&(800_000_000_000_000 + row * 1_313_131 + random.number() % 1_000_000).to_le_bytes());
    let json = format!(
        "{{\"id\": {}, \"status\": \"{}\", \"amount\": {}.{:02}, \"tags\": [\"{}\", \"{}\"], \"note\": \"{} {} {}\", \"ref\": \"{:016x}\"}}",
        random.number() % 10_000_000,
        word(random),
        random.number() % 5000,
        random.number() % 100,
        word(random),
        word(random),
        word(random),
        word(random),
        word(random),
        random.number(),
    );
    out.extend_from_slice(json.as_bytes());
    out
}

fn account_row(row: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(97);
    out.extend_from_slice(&u32::try_from(row % u64::from(u32::MAX)).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&u32::try_from(row / 100_000).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(0xAB);
    out.extend_from_slice(&[b' '; 84]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::page::{PageState, check};

    #[test]
    fn generated_pages_are_pages() {
        for dataset in [Dataset::Mix, Dataset::Accounts] {
            for (block, page) in (0..).zip(dataset.pages(50).chunks(PAGE_BYTES)) {
                assert_eq!(check(page, block, true), PageState::Ok, "{} {block}", dataset.name());
            }
        }
    }
}
