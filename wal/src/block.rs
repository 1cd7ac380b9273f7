//! Block references of a record: which pages it changes, their images, their data, and the record's main data.
//!
//! Place in the path: who follows relations through WAL asks [`crate::reader`] for whole records and decodes their
//! bodies here. Pure: no I/O. Lengths are those that foreign bytes claim; every one is checked, nothing is allocated
//! by them but one entry a block header that is really there.
//!
//! Format: `access/xlogrecord.h`; order of the tests: `DecodeXLogRecord` in `xlogreader.c`.

mod image;
mod lz4;
mod pglz;

pub use self::image::{Compression, ImageError, PageImage};
use crate::page::Fields;
use crate::record::MalformedRecord;

/// `BLCKSZ`, the only block size supported.
const BLOCK_BYTES: u16 = 8192;
/// `XLR_MAX_BLOCK_ID` and the reserved ids.
const BLOCK_ID_MAX: u8 = 32;
const BLOCK_ID_DATA_SHORT: u8 = 255;
const BLOCK_ID_DATA_LONG: u8 = 254;
const BLOCK_ID_ORIGIN: u8 = 253;
const BLOCK_ID_TOPLEVEL_XID: u8 = 252;
/// `BKPBLOCK_FORK_MASK`, `_HAS_IMAGE`, `_HAS_DATA`, `_WILL_INIT`, `_SAME_REL`.
const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

const CUT: MalformedRecord = MalformedRecord("its headers are cut off");

/// `RelFileNode`, later `RelFileLocator` (`storage/relfilelocator.h`): the files of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationLocator {
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Oid of the database; 0 for shared relations.
    pub database: u32,
    /// Number that names the files.
    pub relfilenode: u32,
}

impl std::fmt::Display for RelationLocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.relfilenode)
    }
}

impl RelationLocator {
    pub(crate) fn take(fields: &mut Fields<'_>) -> Option<RelationLocator> {
        Some(RelationLocator {
            tablespace: fields.u32()?,
            database: fields.u32()?,
            relfilenode: fields.u32()?,
        })
    }
}

/// One page that a record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockReference<'a> {
    /// Its number in the record.
    pub id: u8,
    /// The fork: 0 is the main one (`ForkNumber`, `common/relpath.h`).
    pub fork: u8,
    /// The relation.
    pub relation: RelationLocator,
    /// Block number in the fork.
    pub block: u32,
    /// Replay begins with an empty page (`BKPBLOCK_WILL_INIT`).
    pub will_init: bool,
    /// The whole page.
    pub image: Option<PageImage<'a>>,
    /// What the resource manager says about this page.
    pub data: &'a [u8],
}

/// A record's body, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBody<'a> {
    /// The pages, ids rising.
    pub blocks: Vec<BlockReference<'a>>,
    /// What belongs to no page.
    pub main: &'a [u8],
}

impl<'a> RecordBody<'a> {
    /// The page with this number.
    pub fn block(&self, id: u8) -> Option<&BlockReference<'a>> {
        self.blocks.iter().find(|block| block.id == id)
    }

    /// Takes a body apart; `magic` tells the version, as the flags of page images moved in PostgreSQL 15.
    pub fn decode(body: &'a [u8], magic: u16) -> Result<RecordBody<'a>, MalformedRecord> {
        let mut fields = Fields::new(body);
        let mut blocks: Vec<(BlockReference<'a>, usize, usize)> = Vec::new();
        let (mut announced, mut main_bytes) = (0usize, 0usize);
        while fields.remaining() > announced {
            let (id, bytes) = match fields.u8().ok_or(CUT)? {
                BLOCK_ID_ORIGIN => (None, fields.skip(2).ok_or(CUT).map(|()| 0)?),
                BLOCK_ID_TOPLEVEL_XID => (None, fields.skip(4).ok_or(CUT).map(|()| 0)?),
                BLOCK_ID_DATA_SHORT => (None, usize::from(fields.u8().ok_or(CUT)?)),
                BLOCK_ID_DATA_LONG => (None, fields.u32().ok_or(CUT)? as usize),
                id if id <= BLOCK_ID_MAX => {
                    let header = block_header(id, &mut fields, blocks.last().map(|(block, _, _)| block), magic)?;
                    let bytes = header.1 + header.2;
                    blocks.push(header);
                    (Some(id), bytes)
                }
                _ => return Err(MalformedRecord("it has a header of an unknown kind")),
            };
            announced = announced.saturating_add(bytes);
            if id.is_none() && bytes > 0 {
                main_bytes = bytes;
                break; // by convention the main data is last
            }
        }
        if fields.remaining() != announced {
            return Err(MalformedRecord("its headers announce another length than it has"));
        }
        let mut rest = body.get(body.len() - announced..).unwrap_or_default();
        let mut take = |bytes: usize| {
            let (taken, after) = rest.split_at_checked(bytes).ok_or(CUT)?;
            rest = after;
            Ok::<_, MalformedRecord>(taken)
        };
        let mut out = Vec::with_capacity(blocks.len());
        for (mut block, image_bytes, data_bytes) in blocks {
            let image = take(image_bytes)?;
            if let Some(header) = &mut block.image {
                header.bytes = image;
            }
            block.data = take(data_bytes)?;
            out.push(block);
        }
        Ok(RecordBody {
            blocks: out,
            main: take(main_bytes)?,
        })
    }
}

/// The relation of a record's first page, read without taking the rest apart; `None` where it has no page.
pub fn first_relation(body: &[u8], magic: u16) -> Option<RelationLocator> {
    let mut fields = Fields::new(body);
    loop {
        match fields.u8()? {
            BLOCK_ID_ORIGIN => fields.skip(2)?,
            BLOCK_ID_TOPLEVEL_XID => fields.skip(4)?,
            id if id <= BLOCK_ID_MAX => {
                return block_header(id, &mut fields, None, magic)
                    .ok()
                    .map(|(block, _, _)| block.relation);
            }
            _ => return None,
        }
    }
}

/// One `XLogRecordBlockHeader` behind its id, and the bytes of its image and of its data.
fn block_header<'a>(
    id: u8,
    fields: &mut Fields<'_>,
    last: Option<&BlockReference<'a>>,
    magic: u16,
) -> Result<(BlockReference<'a>, usize, usize), MalformedRecord> {
    if last.is_some_and(|last| id <= last.id) {
        return Err(MalformedRecord("its block references are out of order"));
    }
    let flags = fields.u8().ok_or(CUT)?;
    let data_bytes = fields.u16().ok_or(CUT)?;
    if (flags & HAS_DATA != 0) != (data_bytes > 0) {
        return Err(MalformedRecord(
            "a block reference has data and says that it has none, or the reverse",
        ));
    }
    let (image, image_bytes) = match flags & HAS_IMAGE != 0 {
        true => PageImage::header(fields, magic).map(|(image, bytes)| (Some(image), bytes))?,
        false => (None, 0),
    };
    let relation = match (flags & SAME_REL != 0, last) {
        (false, _) => RelationLocator::take(fields).ok_or(CUT)?,
        (true, Some(last)) => last.relation,
        (true, None) => return Err(MalformedRecord("its first block reference has no relation")),
    };
    let block = BlockReference {
        id,
        fork: flags & FORK_MASK,
        relation,
        block: fields.u32().ok_or(CUT)?,
        will_init: flags & WILL_INIT != 0,
        image,
        data: &[],
    };
    Ok((block, usize::from(image_bytes), usize::from(data_bytes)))
}

#[cfg(test)]
mod tests;
