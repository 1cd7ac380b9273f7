//! What the end of a transaction says beside its time: subtransactions, and the files that go with it.
//!
//! Place in the path: who follows relations through WAL decodes whole commit and abort records here; [`crate::commit`]
//! reads no more than time and id. Format: `access/xact.h`, `ParseCommitRecord` and `ParseAbortRecord` in
//! `xactdesc.c`. Pure: no I/O.

use crate::block::RelationLocator;
use crate::page::Fields;
use crate::record::MalformedRecord;

/// `XLOG_XACT_HAS_INFO`.
const HAS_INFO: u8 = 0x80;
/// `XACT_XINFO_HAS_DBINFO`, `_HAS_SUBXACTS`, `_HAS_RELFILELOCATORS`.
const HAS_DBINFO: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;

const SHORT: MalformedRecord = MalformedRecord("it is too short for the end of a transaction");

/// What a commit or abort record lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XactEnd {
    /// Transaction ids of its subtransactions: in a commit those that count, in an abort those that end with it.
    pub subxacts: Vec<u32>,
    /// Files that are removed.
    pub dropped: Vec<RelationLocator>,
}

impl XactEnd {
    /// Decodes the main data of a record of `RM_XACT_ID` with this `xl_info` that is a commit or an abort, also of a
    /// prepared transaction.
    pub fn parse(info: u8, main: &[u8]) -> Result<XactEnd, MalformedRecord> {
        let mut fields = Fields::new(main);
        fields.skip(8).ok_or(SHORT)?; // xact_time
        let mut end = XactEnd::default();
        if info & HAS_INFO == 0 {
            return Ok(end);
        }
        let xinfo = fields.u32().ok_or(SHORT)?;
        if xinfo & HAS_DBINFO != 0 {
            fields.skip(8).ok_or(SHORT)?;
        }
        if xinfo & HAS_SUBXACTS != 0 {
            end.subxacts = array(&mut fields, 4, |fields| fields.u32())?;
        }
        if xinfo & HAS_RELATIONS != 0 {
            end.dropped = array(&mut fields, 12, RelationLocator::take)?;
        }
        Ok(end)
    }
}

/// A count and so many items; no more is allocated than bytes are there.
fn array<T>(
    fields: &mut Fields<'_>,
    item_bytes: usize,
    take: impl Fn(&mut Fields<'_>) -> Option<T>,
) -> Result<Vec<T>, MalformedRecord> {
    let count = fields.u32().ok_or(SHORT)? as usize;
    if count > fields.remaining() / item_bytes {
        return Err(SHORT);
    }
    (0..count).map(|_| take(fields).ok_or(SHORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn subtransactions_and_files_are_read() {
        let bare = XactEnd::parse(0, &[0; 8]).unwrap();
        assert_eq!(bare, XactEnd::default());
        let main = words(&[0, 0, 7, 5, 1663, 2, 11, 12, 1, 1663, 5, 16384, 99]);
        let end = XactEnd::parse(HAS_INFO, &main).unwrap();
        assert_eq!(end.subxacts, [11, 12]);
        assert_eq!(end.dropped.len(), 1);
        assert_eq!(end.dropped[0].to_string(), "1663/5/16384");
    }

    #[test]
    fn counts_that_lie_are_malformed() {
        let main = words(&[0, 0, 7, 5, 1663, 2, 11, 12, 1, 1663, 5, 16384]);
        for len in 0..main.len() {
            assert!(XactEnd::parse(HAS_INFO, &main[..len]).is_err(), "{len}");
        }
        assert!(XactEnd::parse(HAS_INFO, &words(&[0, 0, 2, u32::MAX, 1])).is_err());
        assert!(XactEnd::parse(HAS_INFO, &words(&[0, 0, 4, 3, 1, 2, 3])).is_err());
    }
}
