//! Buffers that the kernel fills at full speed.
//!
//! A large allocation begins 16 bytes behind a page. Copying from the page cache to there runs at a quarter of the speed on processors
//! on which `rep movsb` is slow for a target that lies a few bytes behind its source modulo 4 KiB (measured on an AMD EPYC: 2.5 instead of
//! 11 GB/s; 32 bytes behind a page are as good as none). So these begin at a page.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// `PAGE_SIZE` of the kernel, or a part of it where that is larger.
const ALIGNMENT: usize = 4096;
/// Buffers up to this length are used again.
const POOLED_BYTES_MAX: usize = 4 << 20;
/// And from this length on: who keeps a shorter one for long would keep much more memory than it uses.
const POOLED_BYTES_MIN: usize = 2 << 20;
/// As many are kept: those that a restore has in flight.
const POOLED: usize = 8;

/// Bytes that begin at a page of memory. Its length is fixed.
#[derive(Debug, Default)]
pub struct PageBuffer {
    /// Never grown: it would move.
    memory: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the memory goes when it is done with.
    pool: Option<Pool>,
}

impl PageBuffer {
    /// Zeros.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + ALIGNMENT];
        PageBuffer::within(memory, bytes, None)
    }

    fn within(memory: Vec<u8>, bytes: usize, pool: Option<Pool>) -> Self {
        // It may not be known, in theory.
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let end = start + bytes;
        PageBuffer {
            memory,
            start,
            end,
            pool,
        }
    }

    /// The bytes, shared.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// Memory that is used again, by whichever thread: an allocator keeps what a thread freed for that thread, and fresh memory costs a page
/// fault every 4 KiB. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// A buffer of that length. What is in it is not said.
    #[must_use]
    pub fn take(&self, bytes: usize) -> PageBuffer {
        if !(POOLED_BYTES_MIN..=POOLED_BYTES_MAX).contains(&bytes) {
            return PageBuffer::new(bytes);
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = kept.unwrap_or_else(|| vec![0; POOLED_BYTES_MAX + ALIGNMENT]);
        PageBuffer::within(memory, bytes, Some(self.clone()))
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        let Some(Pool(kept)) = self.pool.take() else { return };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < POOLED {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

/// Where they lie already.
impl From<Vec<u8>> for PageBuffer {
    fn from(memory: Vec<u8>) -> Self {
        let end = memory.len();
        PageBuffer {
            memory,
            start: 0,
            end,
            pool: None,
        }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }
}

impl AsRef<[u8]> for PageBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_and_is_as_long_as_asked_for() {
        for bytes in [0, 1, 4096, 1 << 20] {
            let mut buffer = PageBuffer::new(bytes);
            assert_eq!(buffer.len(), bytes);
            assert_eq!(buffer.as_ptr().align_offset(4096), 0);
            buffer.fill(7);
            let at = buffer.as_ptr();
            let frozen = buffer.freeze();
            assert_eq!((frozen.len(), frozen.as_ptr()), (bytes, at));
            assert!(frozen.iter().all(|byte| *byte == 7));
        }
        assert_eq!(&*PageBuffer::from(vec![1, 2]), [1, 2]);
    }

    #[test]
    fn memory_is_used_again_when_the_last_who_holds_it_lets_go() {
        let pool = Pool::default();
        let mut buffer = pool.take(POOLED_BYTES_MAX);
        buffer.fill(7);
        let at = buffer.as_ptr();
        let frozen = buffer.freeze();
        let part = frozen.slice(100..200);
        drop(frozen);
        assert_ne!(pool.take(POOLED_BYTES_MAX).as_ptr(), at);
        assert_eq!(part, vec![7; 100]);
        drop(part);
        let kept = pool.0.lock().unwrap().len();
        assert_eq!(kept, 2);
        let buffers: Vec<PageBuffer> = (0..20).map(|_| pool.take(POOLED_BYTES_MIN)).collect();
        assert!(buffers.iter().any(|buffer| buffer.as_ptr() == at));
        assert!(buffers.iter().all(|buffer| buffer.len() == POOLED_BYTES_MIN));
        drop(buffers);
        assert_eq!(pool.0.lock().unwrap().len(), POOLED);
        // Longer ones are not kept.
        drop(pool.take(POOLED_BYTES_MAX + 1));
        assert_eq!(pool.0.lock().unwrap().len(), POOLED);
    }
}
