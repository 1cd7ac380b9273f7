//! Directories of files: text, records and noise of all sizes, links, and what changes in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files in one directory.
const IN_DIRECTORY: u64 = 250;

/// Numbers that are the same in each run (SplitMix64).
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Begins with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Numbers(seed)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }
}

/// Makes `count` files of up to `largest` bytes below `root`; their bytes in all. Most are small.
///
/// # Errors
/// One cannot be written.
pub fn make(root: &Path, count: u64, largest: u64, seed: u64) -> io::Result<u64> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = 0;
    for number in 0..count {
        let path = place(root, number);
        if number % IN_DIRECTORY == 0
            && let Some(directory) = path.parent()
        {
            fs::create_dir_all(directory)?;
        }
        match number % 200 {
            7 => std::os::unix::fs::symlink("0", &path)?,
            8 => fs::write(&path, [])?,
            _ => {
                let content = content(&mut numbers, largest);
                bytes += content.len() as u64;
                fs::write(&path, content)?;
            }
        }
    }
    Ok(bytes)
}

/// One file in a hundred is written anew, one gets more behind its end, one goes, and one comes.
///
/// # Errors
/// One cannot be written.
pub fn change(root: &Path, count: u64, largest: u64, seed: u64) -> io::Result<()> {
    use std::io::Write as _;
    let mut numbers = Numbers::new(seed);
    for number in (0..count).step_by(100) {
        fs::write(place(root, number + 20), content(&mut numbers, largest))?;
        let mut file = fs::File::options().append(true).open(place(root, number + 30))?;
        file.write_all(&content(&mut numbers, 4096))?;
        fs::remove_file(place(root, number + 40))?;
        fs::write(
            place(root, number + 50).with_extension("new"),
            content(&mut numbers, largest),
        )?;
    }
    Ok(())
}

fn place(root: &Path, number: u64) -> PathBuf {
    let directory = number / IN_DIRECTORY;
    root.join(format!("{}/{directory}", directory / 64))
        .join((number % IN_DIRECTORY).to_string())
}

/// Sizes are spread evenly over their orders of magnitude; a third is text, a third records, a third noise.
fn content(numbers: &mut Numbers, largest: u64) -> Vec<u8> {
    let most = 64 - largest.leading_zeros();
    let bits = 4 + numbers.below(u64::from(most.max(6)) - 4);
    let length = usize::try_from((1_u64 << bits) + numbers.below(1 << bits)).unwrap_or(0);
    let mut out = Vec::with_capacity(length + 64);
    let kind = numbers.below(3);
    while out.len() < length {
        let number = numbers.draw();
        match kind {
            0 => out.extend_from_slice(
                WORDS
                    .get(usize::try_from(number % 16).unwrap_or(0))
                    .copied()
                    .unwrap_or_default()
                    .as_bytes(),
            ),
            1 => out.extend_from_slice(format!("{{\"id\":{},\"at\":{}}}\n", number % 100_000, number >> 40).as_bytes()),
            _ => out.extend_from_slice(&number.to_le_bytes()),
        }
    }
    out.truncate(length);
    out
}

const WORDS: [&str; 16] = [
    "the ", "tide ", "comes ", "in ", "and ", "stone ", "after ", "stone ", "holds ", "back ", "what ", "was ",
    "open ", "water ", "before ", "\n",
];
