//! The one place for the repository's limits (law 7). Sizes in bytes, counts as numbers.

/// A relation chunk holds at most this many pages (128 KiB): measured to compress as well as 1 MiB pieces.
pub const RELATION_CHUNK_PAGES_MAX: usize = 16;
/// Bytes of one PostgreSQL page; other block sizes are refused at the door.
pub const PAGE_BYTES: usize = 8192;
/// Bytes of a full relation chunk.
pub const RELATION_CHUNK_BYTES_MAX: usize = RELATION_CHUNK_PAGES_MAX * PAGE_BYTES;
/// Content chunks: FastCDC minimum, nominal and maximum size.
pub const CONTENT_CHUNK_BYTES: (usize, usize, usize) = (64 << 10, 256 << 10, 1 << 20);
/// The same for content whose rows change here and there (docs/decisions/0029-dumps.md).
pub const FINE_CHUNK_BYTES: (usize, usize, usize) = (16 << 10, 64 << 10, 256 << 10);
/// A metadata chunk (extents, digests, file table) may not be longer than this.
pub const METADATA_CHUNK_BYTES_MAX: usize = 64 << 20;
/// No pack is longer, unless it is one chunk, and nearly all full ones are padded to this: with manifest, index and metadata there is still a request for 16 MiB at most.
pub const PACK_BYTES: usize = 20 << 20;
/// The same for packs of metadata: their footers are read back as a whole, and maps are small.
pub const METADATA_PACK_BYTES: usize = 4 << 20;
/// A reader refuses larger packs.
pub const PACK_BYTES_MAX: u64 = 256 << 20;
/// A reader refuses packs with more chunks.
pub const PACK_CHUNKS_MAX: usize = 4 << 20;
/// Longest WAL range of one object.
pub const WAL_OBJECT_BYTES_MAX: u64 = 16 << 20;
/// Plaintext limit of small control objects (lineages, leases, keys, histories, holes, pins).
pub const CONTROL_OBJECT_BYTES_MAX: usize = 4 << 20;
/// Plaintext limit of other single-frame objects (manifests, indexes, WAL).
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Limit of the session block and of the sealed header.
pub const ENVELOPE_PART_BYTES_MAX: usize = 65_536;
/// One GET of this many bytes holds the clear part, session block, header and signature of every object we write.
pub const ENVELOPE_PEEK_BYTES: u64 = 8192;
/// Page maps: deltas upon deltas before a whole one is written.
pub const PAGE_MAP_DEPTH_MAX: u16 = 8;
/// Entries of one piece of the file table.
pub const FILE_TABLE_PIECE_ENTRIES: usize = 512;
/// Content references kept inside a file entry; more go into a chunk list.
pub const INLINE_CONTENT_REFERENCES_MAX: usize = 64;
/// Small objects of one directory that are read at once.
pub const READS_IN_FLIGHT: usize = 8;
/// Objects that are locked on at once.
pub const LOCKS_IN_FLIGHT: usize = 16;
/// zstd level of relation and content chunks, chosen by measurement (docs/decisions/0003).
pub const RELATION_ZSTD_LEVEL: i32 = 1;
/// zstd level of WAL and metadata.
pub const WAL_ZSTD_LEVEL: i32 = 3;

/// Largest WAL segment of a server (`--wal-segsize`, PostgreSQL docs, initdb).
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
