//! How much of a dump is new in the next one, by the size of the chunks: `dump_chunks EARLIER LATER`. The figures of docs/decisions/0029-dumps.md.

use std::collections::HashSet;

type Failed = Box<dyn std::error::Error>;

/// Least, nominal and most, in KiB; the fourth is what the repository uses (`store::limits::CONTENT_CHUNK_BYTES`).
const SIZES: [(usize, usize, usize); 6] = [
    (2, 8, 32),
    (8, 32, 128),
    (16, 64, 256),
    (64, 256, 1024),
    (128, 512, 2048),
    (256, 1024, 4096),
];
/// What an index, a file table and a footer of a pack take for a chunk, about.
const BYTES_BESIDE: u64 = 100;

fn main() -> Result<(), Failed> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [earlier, later] = paths.as_slice() else {
        return Err("write two files: an earlier dump, and a later one".into());
    };
    let (earlier, later) = (std::fs::read(earlier)?, std::fs::read(later)?);
    println!("nominal KiB, chunks, new MB, new and compressed MB, first dump compressed MB");
    for (least, nominal, most) in SIZES {
        let cut = |content: &[u8]| -> Vec<(usize, usize)> {
            fastcdc::v2020::FastCDC::new(content, least << 10, nominal << 10, most << 10)
                .map(|chunk| (chunk.offset, chunk.offset + chunk.length))
                .collect()
        };
        let mut seen = HashSet::new();
        let first = new_bytes(&earlier, &cut(&earlier), &mut seen)?;
        let chunks = cut(&later);
        let next = new_bytes(&later, &chunks, &mut seen)?;
        println!(
            "{nominal}, {}, {:.1}, {:.1}, {:.1}",
            chunks.len(),
            mb(next.0),
            mb(next.1),
            mb(first.1)
        );
    }
    Ok(())
}

/// Bytes of chunks that were not seen before: as they are, and as they are stored.
fn new_bytes(
    content: &[u8],
    chunks: &[(usize, usize)],
    seen: &mut HashSet<blake3::Hash>,
) -> Result<(u64, u64), Failed> {
    let (mut plain, mut stored) = (0, 0);
    for (from, to) in chunks {
        let chunk = content.get(*from..*to).unwrap_or_default();
        stored += BYTES_BESIDE;
        if seen.insert(blake3::hash(chunk)) {
            plain += chunk.len() as u64;
            stored += zstd::bulk::compress(chunk, 1)?.len() as u64;
        }
    }
    Ok((plain, stored))
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
