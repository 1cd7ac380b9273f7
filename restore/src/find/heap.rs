//! The rows of one catalog as they lie on its pages, followed through WAL; which of them count is settled when transactions end.
//!
//! A page of a backup may be newer than where its WAL begins. The first record that touches it from there on has an image of it, or
//! makes it anew (full-page writes are on while a backup is taken), so from then on it is what it was. Until then its rows are indexed by
//! all their transactions, also those that ended: their commit may still be ahead.
//!
//! Bounded by the size of the catalog: a row stands where it stands on its page, and a new one there takes its place.

mod rows;

use std::collections::{BTreeMap, HashMap, HashSet};

use pg::heap::{HeapTuple, Xid};
use pg::lsn::Lsn;
use pg::page::page_lsn;
use wal::block::{BlockReference, RecordBody, RelationLocator};
use wal::heap::HeapChange;

/// Block number, and number on the page.
type Tid = (u32, u16);

#[derive(Debug)]
struct Tuple {
    /// Who inserted it; 0 when that is long ago.
    xmin: u32,
    /// Who deleted or replaced it, 0: nobody.
    xmax: u32,
    /// The page says that the first of them committed, and the second.
    is_inserted: bool,
    is_deleted: bool,
    columns: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Page {
    lsn: Lsn,
    tuples: BTreeMap<u16, Tuple>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Heap {
    /// Its files.
    pub(crate) file: RelationLocator,
    pages: HashMap<u32, Page>,
    by_xid: HashMap<u32, Vec<Tid>>,
}

/// What a transaction did to the rows: those that were, those that are, and those that it made and ended itself.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) before: Vec<Box<[u8]>>,
    pub(crate) after: Vec<Box<[u8]>>,
    pub(crate) between: Vec<Box<[u8]>>,
}

/// How a row got where it is, for who looks at rows before their transaction ends.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Inserted, or a new version.
    New(Box<[u8]>),
    /// Written over in place.
    Inplace(Box<[u8]>),
}

/// A record whose rows cannot be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) &'static str);

impl Heap {
    /// Without rows.
    pub(crate) fn new(file: RelationLocator) -> Self {
        Heap {
            file,
            pages: HashMap::new(),
            by_xid: HashMap::new(),
        }
    }

    /// Takes a page out of the backup.
    pub(crate) fn load(&mut self, block: u32, bytes: &[u8]) -> Result<(), pg::heap::HeapError> {
        self.put_page(block, bytes, true)
    }

    fn put_page(&mut self, block: u32, bytes: &[u8], with_ended: bool) -> Result<(), pg::heap::HeapError> {
        let tuples = pg::heap::tuples(bytes)?;
        let page = Page {
            lsn: page_lsn(bytes),
            tuples: BTreeMap::new(),
        };
        self.pages.insert(block, page);
        for tuple in &tuples {
            self.put_tuple(block, tuple, with_ended);
        }
        Ok(())
    }

    fn put_tuple(&mut self, block: u32, tuple: &HeapTuple<'_>, with_ended: bool) {
        if tuple.xmin == Xid::None {
            return;
        }
        let number = |xid| match xid {
            Xid::None | Xid::Frozen => 0,
            Xid::Committed(xid) | Xid::Unknown(xid) => xid,
        };
        let may_end = |xid| matches!(xid, Xid::Unknown(_)) || with_ended && matches!(xid, Xid::Committed(_));
        let (xmin, xmax, tid) = (number(tuple.xmin), number(tuple.xmax), (block, tuple.offset));
        if may_end(tuple.xmin) {
            self.by_xid.entry(xmin).or_default().push(tid);
        }
        if may_end(tuple.xmax) && xmax != xmin {
            self.by_xid.entry(xmax).or_default().push(tid);
        }
        let put = Tuple {
            xmin,
            xmax,
            is_inserted: !matches!(tuple.xmin, Xid::Unknown(_)),
            is_deleted: matches!(tuple.xmax, Xid::Committed(_)),
            columns: tuple.columns.into(),
        };
        self.put(tid, put);
    }

    fn put(&mut self, (block, offset): Tid, tuple: Tuple) {
        self.pages.entry(block).or_default().tuples.insert(offset, tuple);
    }

    fn get(&self, (block, offset): Tid) -> Option<&Tuple> {
        self.pages.get(&block)?.tuples.get(&offset)
    }

    /// Follows a record that touches this catalog; what became visible to its own transaction goes to `seen`.
    pub(crate) fn apply(
        &mut self,
        xid: u32,
        end: Lsn,
        body: &RecordBody<'_>,
        change: &HeapChange<'_>,
        mut seen: impl FnMut(Seen),
    ) -> Result<(), Unreadable> {
        let is_ours = |block: &&BlockReference<'_>| block.fork == 0 && block.relation == self.file;
        let mut from_image = Vec::new();
        let mut stale = Vec::new();
        let blocks: Vec<BlockReference<'_>> = body.blocks.iter().filter(is_ours).copied().collect();
        for block in &blocks {
            if let Some(image) = block.image.as_ref().filter(|image| image.apply) {
                let page = image
                    .page()
                    .map_err(|_| Unreadable("in a page image that cannot be read"));
                let done = page.and_then(|page| {
                    self.put_page(block.block, &page, false)
                        .map_err(|_| Unreadable("on a page that makes no sense"))
                });
                if done.is_err() {
                    self.pages.remove(&block.block);
                }
                done?;
                from_image.push(block.id);
            } else if block.will_init {
                self.pages.insert(block.block, Page::default());
            } else if self.pages.get(&block.block).is_some_and(|page| page.lsn >= end) {
                stale.push(block.id);
            }
            let page = self.pages.entry(block.block).or_default();
            page.lsn = page.lsn.max(end);
        }
        let find = |id: u8| blocks.iter().find(|block| block.id == id);
        let Some(first) = find(0) else { return Ok(()) };
        let is_open = |id: u8| !from_image.contains(&id) && !stale.contains(&id);
        match change {
            HeapChange::Insert(rows) => {
                for (offset, row) in rows.iter().filter(|_| is_open(0)) {
                    let columns = row.whole(None).ok_or(Unreadable("in a row that is not whole"))?;
                    self.add(xid, (first.block, *offset), columns);
                }
                self.show(xid, first.block, &mut seen);
            }
            HeapChange::Delete { offset, .. } if is_open(0) => self.end(xid, (first.block, *offset)),
            HeapChange::Update { old, new, row } => {
                let old_block = find(1).unwrap_or(first);
                let old_tid = (old_block.block, *old);
                let is_old_open = is_open(old_block.id);
                if is_open(0) {
                    let row = row.as_ref().ok_or(Unreadable("in a row that is not there"))?;
                    let old_columns = self.get(old_tid).map(|tuple| &*tuple.columns);
                    let columns = row.whole(old_columns);
                    if is_old_open {
                        self.end(xid, old_tid);
                    }
                    let columns = columns.ok_or(Unreadable("in a row that goes on from one that is not known"))?;
                    self.add(xid, (first.block, *new), columns);
                } else if is_old_open {
                    self.end(xid, old_tid);
                }
                self.show(xid, first.block, &mut seen);
            }
            HeapChange::Inplace { offset, row } if !stale.contains(&0) => {
                let tuples = self.pages.get_mut(&first.block).map(|page| &mut page.tuples);
                let Some(tuple) = tuples.and_then(|tuples| tuples.get_mut(offset)) else {
                    return Ok(());
                };
                if is_open(0) {
                    tuple.columns = row.ok_or(Unreadable("in a row that is not there"))?.into();
                }
                seen(Seen::Inplace(tuple.columns.clone()));
            }
            HeapChange::Delete { .. } | HeapChange::Inplace { .. } | HeapChange::Other => {}
        }
        Ok(())
    }

    fn add(&mut self, xid: u32, tid: Tid, columns: Vec<u8>) {
        self.by_xid.entry(xid).or_default().push(tid);
        let put = Tuple {
            xmin: xid,
            xmax: 0,
            is_inserted: false,
            is_deleted: false,
            columns: columns.into(),
        };
        self.put(tid, put);
    }

    fn end(&mut self, xid: u32, (block, offset): Tid) {
        if let Some(tuple) = self.pages.get_mut(&block).and_then(|page| page.tuples.get_mut(&offset)) {
            tuple.xmax = xid;
            tuple.is_deleted = false;
            self.by_xid.entry(xid).or_default().push((block, offset));
        }
    }

    /// Rows of a transaction that stand on a page.
    fn show(&self, xid: u32, block: u32, seen: &mut impl FnMut(Seen)) {
        let tuples = self.pages.get(&block).into_iter().flat_map(|page| page.tuples.values());
        tuples
            .filter(|tuple| tuple.xmin == xid && tuple.xmax == 0)
            .for_each(|tuple| seen(Seen::New(tuple.columns.clone())));
    }

    /// What transactions did that commit together.
    pub(crate) fn commit(&mut self, xids: &HashSet<u32>) -> Changes {
        let mut tids: Vec<Tid> = xids
            .iter()
            .filter_map(|xid| self.by_xid.remove(xid))
            .flatten()
            .collect();
        tids.sort_unstable();
        tids.dedup();
        let mut changes = Changes::default();
        for tuple in tids.iter().filter_map(|tid| self.get(*tid)) {
            let list = match (xids.contains(&tuple.xmin), xids.contains(&tuple.xmax)) {
                (true, true) => &mut changes.between,
                (true, false) => &mut changes.after,
                (false, true) => &mut changes.before,
                (false, false) => continue,
            };
            list.push(tuple.columns.clone());
        }
        changes
    }

    /// Forgets what these transactions did.
    pub(crate) fn abort(&mut self, xids: &HashSet<u32>) {
        for tid in xids.iter().filter_map(|xid| self.by_xid.remove(xid)).flatten() {
            let Some(page) = self.pages.get_mut(&tid.0) else {
                continue;
            };
            match page.tuples.get_mut(&tid.1) {
                Some(tuple) if xids.contains(&tuple.xmin) => {
                    page.tuples.remove(&tid.1);
                }
                Some(tuple) if xids.contains(&tuple.xmax) => tuple.xmax = 0,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
