//! The file table: every file, directory and link of a backup (FORMAT 8.3).

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::chunk::{ChunkReference, ContentReference};
use crate::error::StoreError;
use crate::session::to_cbor;

/// File, directory or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EntryType {
    /// A regular file.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Directory,
    /// A symbolic link.
    #[n(2)]
    Link,
    /// A named pipe, a socket or a device: [`Attributes::device`].
    #[n(3)]
    Other,
}

/// How a file is stored and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EntryClass {
    /// Pages in place.
    #[n(0)]
    Relation,
    /// Content-defined chunks.
    #[n(1)]
    Content,
    /// `global/pg_control`: content, placed last.
    #[n(2)]
    Control,
    /// A configuration file outside the data directory; its path is absolute.
    #[n(3)]
    Configuration,
}

/// What a file system knows of an entry beside its mode; of components only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attributes {
    /// Number of the owner.
    #[n(0)]
    pub uid: u32,
    /// Number of the group.
    #[n(1)]
    pub gid: u32,
    /// Name of the owner, where there was one.
    #[n(2)]
    pub user: Option<String>,
    /// Name of the group.
    #[n(3)]
    pub group: Option<String>,
    /// Last change of the content, nanoseconds since 1970.
    #[n(4)]
    pub modified_ns: i64,
    /// Extended attributes, sorted by name.
    #[n(5)]
    #[cbor(default)]
    pub extended: Vec<(ByteVec, ByteVec)>,
    /// The entry before that is the same file: its path.
    #[n(6)]
    pub same_as: Option<ByteVec>,
    /// File type bits and device number of an [`EntryType::Other`].
    #[n(7)]
    pub device: Option<(u32, u64)>,
    /// How an unchanged file is recognised.
    #[n(8)]
    pub stamp: Option<Stamp>,
}

/// What changes when a file does: a file that has the same as before, and had it for a while, need not be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Stamp {
    /// Device.
    #[n(0)]
    pub device: u64,
    /// Inode.
    #[n(1)]
    pub inode: u64,
    /// Last change of content or attributes, nanoseconds since 1970.
    #[n(2)]
    pub changed_ns: i64,
    /// When the content was read last, nanoseconds since 1970 by the same clock.
    #[n(3)]
    pub read_ns: i64,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileEntry {
    /// Path bytes, relative to the data directory (absolute for configuration files).
    #[n(0)]
    pub path: ByteVec,
    /// What it is.
    #[n(1)]
    pub entry_type: EntryType,
    /// Permission bits (12).
    #[n(2)]
    pub mode: u32,
    /// Bytes.
    #[n(3)]
    pub size: u64,
    /// How it is stored.
    #[n(4)]
    pub class: EntryClass,
    /// Extents of a relation file; absent when it has no pages.
    #[n(5)]
    pub extents: Option<ChunkReference>,
    /// Page digests.
    #[n(6)]
    pub digests: Option<ChunkReference>,
    /// Content chunks, in order.
    #[n(7)]
    #[cbor(default)]
    pub content: Vec<ContentReference>,
    /// Target of a link.
    #[n(8)]
    pub target: Option<ByteVec>,
    /// Chunk list, in place of `content`.
    #[n(9)]
    pub content_list: Option<ChunkReference>,
    /// CRC-32C of the file's bytes, for PostgreSQL's own `backup_manifest`; absent where an older writer did not note it.
    #[n(10)]
    pub crc32c: Option<u32>,
    /// Of an entry of a component.
    #[n(11)]
    pub attributes: Option<Box<Attributes>>,
}

impl FileEntry {
    /// An entry without content: directory, link, empty file.
    #[must_use]
    pub fn bare(path: Vec<u8>, entry_type: EntryType, mode: u32) -> Self {
        FileEntry {
            path: path.into(),
            entry_type,
            mode,
            size: 0,
            class: EntryClass::Content,
            extents: None,
            digests: None,
            content: Vec::new(),
            target: None,
            content_list: None,
            crc32c: None,
            attributes: None,
        }
    }
}

/// Encodes one piece of the table.
///
/// # Errors
/// Never for this type.
pub fn encode_piece(entries: &[FileEntry]) -> Result<Vec<u8>, StoreError> {
    to_cbor(&entries.iter().collect::<Vec<_>>())
}

/// Decodes one piece of the table.
///
/// # Errors
/// It makes no sense.
pub fn decode_piece(name: &str, bytes: &[u8]) -> Result<Vec<FileEntry>, StoreError> {
    minicbor::decode(bytes).map_err(|error| StoreError::damaged(name, format!("file table: {error}")))
}

/// True when a piece of a table ends behind this entry, its `count`th: where the path hashes to a boundary, so that one new file
/// changes one piece and the others stay the same chunks; at the latest after the format's most entries.
#[must_use]
pub fn ends_piece(path: &[u8], count: usize) -> bool {
    let most = crate::limits::FILE_TABLE_PIECE_ENTRIES;
    let is_boundary = || blake3::hash(path).as_bytes().first().is_some_and(|byte| *byte == 0);
    count >= most || (count >= most / 8 && is_boundary())
}

/// Encodes a chunk list.
///
/// # Errors
/// Never for this type.
pub fn encode_chunk_list(list: &[ContentReference]) -> Result<Vec<u8>, StoreError> {
    to_cbor(&list.to_vec())
}

/// Decodes a chunk list.
///
/// # Errors
/// It makes no sense.
pub fn decode_chunk_list(name: &str, bytes: &[u8]) -> Result<Vec<ContentReference>, StoreError> {
    minicbor::decode(bytes).map_err(|error| StoreError::damaged(name, format!("chunk list: {error}")))
}
