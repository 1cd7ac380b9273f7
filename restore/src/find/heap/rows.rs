//! Looking at the rows.

use wal::block::RecordBody;

use super::{Heap, Tuple};

impl Heap {
    /// The rows that count, as far as the files of the backup tell: `committed` knows how a transaction ended.
    pub(crate) fn live(&self, committed: impl Fn(u32) -> bool) -> impl Iterator<Item = &[u8]> {
        let counts = move |tuple: &&Tuple| {
            let is_inserted = tuple.is_inserted || committed(tuple.xmin);
            is_inserted && !tuple.is_deleted && (tuple.xmax == 0 || !committed(tuple.xmax))
        };
        self.tuples().filter(counts).map(|tuple| &*tuple.columns)
    }

    /// All rows that stand on its pages, whoever made them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.tuples().map(|tuple| &*tuple.columns)
    }

    fn tuples(&self) -> impl Iterator<Item = &Tuple> {
        self.pages.values().flat_map(|page| page.tuples.values())
    }

    /// Transactions of which the rows do not say how they ended.
    pub(crate) fn undecided(&self) -> impl Iterator<Item = u32> {
        let of = |tuple: &Tuple| {
            let xmin = Some(tuple.xmin).filter(|_| !tuple.is_inserted);
            let xmax = Some(tuple.xmax).filter(|xmax| *xmax != 0 && !tuple.is_deleted);
            [xmin, xmax]
        };
        self.tuples().flat_map(of).flatten()
    }

    /// Rows on the pages that a record touches.
    pub(crate) fn touched<'a>(&'a self, body: &'a RecordBody<'_>) -> impl Iterator<Item = &'a [u8]> {
        let pages = body.blocks.iter().filter_map(|block| self.pages.get(&block.block));
        pages.flat_map(|page| page.tuples.values()).map(|tuple| &*tuple.columns)
    }
}
