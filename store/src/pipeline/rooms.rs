//! Memory of packs that are durable, for the packs that come next: fresh memory costs a page fault every 4 KiB, for all that is stored.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// As many as were in memory at once, and no more.
#[derive(Clone, Debug)]
pub(super) struct Rooms {
    bytes: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Rooms {
    /// Rooms of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Rooms {
            bytes,
            free: Arc::default(),
        }
    }

    /// An empty one.
    pub(super) fn take(&self) -> Vec<u8> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Vec::with_capacity(self.bytes))
    }

    /// Takes the memory of a pack back, where it is large enough and nobody else holds it.
    pub(super) fn give(&self, pack: Bytes) {
        let Ok(mut room) = pack.try_into_mut() else { return };
        room.clear();
        let room = Vec::from(room);
        if room.capacity() >= self.bytes {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_empty_unless_it_is_held_or_too_small() {
        let rooms = Rooms::new(1000);
        let mut room = rooms.take();
        room.extend_from_slice(&[7; 900]);
        let at = room.as_ptr();
        let pack = Bytes::from(room);
        let part = pack.slice(100..);
        drop(pack);
        rooms.give(part);
        let again = rooms.take();
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
        assert!(again.capacity() >= 1000);
        let pack = Bytes::from(again);
        let held = pack.clone();
        rooms.give(pack);
        assert_eq!(held.len(), 0);
        rooms.give(Bytes::from(vec![1; 10]));
        assert!(rooms.take().capacity() >= 1000);
    }
}
