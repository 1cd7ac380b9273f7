//! Which objects are verified together: every name has a place on a ring, and a share is an arc of it. What was verified when is then
//! three numbers, however many objects there are, and shares that follow each other read nothing twice.

use crate::object::ObjectName;
use crate::records::Proof;

/// An arc of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// First place.
    pub from: u64,
    /// Places; `u64::MAX` is the whole ring.
    pub len: u64,
}

impl Share {
    /// Everything.
    pub const ALL: Share = Share { from: 0, len: u64::MAX };

    /// One of `parts` equal shares, from a place on.
    #[must_use]
    pub fn one_of(parts: u32, from: u64) -> Self {
        match u64::MAX / u64::from(parts.max(1)) {
            u64::MAX => Share::ALL,
            // One more each, so that the last one closes the ring.
            len => Share { from, len: len + 1 },
        }
    }

    /// The one that was read.
    #[must_use]
    pub fn of(proof: &Proof) -> Self {
        Share {
            from: proof.from,
            len: proof.len,
        }
    }

    /// Where the next one begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.from.wrapping_add(self.len)
    }

    /// True when an object belongs to the share.
    #[must_use]
    pub fn holds(&self, name: &ObjectName) -> bool {
        self.len == u64::MAX || place(name).wrapping_sub(self.from) < self.len
    }
}

/// The first 8 bytes of the BLAKE3 of its name.
fn place(name: &ObjectName) -> u64 {
    let hash = blake3::hash(name.as_str().as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_follow_each_other_hold_every_object_once() {
        let names: Vec<_> = (0..2000).map(|n| ObjectName::new(format!("a/{n}")).unwrap()).collect();
        for parts in [1, 2, 7, 30] {
            let mut from = 0xF000_0000_0000_0000;
            let mut held = vec![0; names.len()];
            for _ in 0..parts {
                let share = Share::one_of(parts, from);
                from = share.end();
                for (count, name) in held.iter_mut().zip(&names) {
                    *count += u32::from(share.holds(name));
                }
            }
            assert!(held.iter().all(|count| *count == 1), "{parts} parts");
        }
        assert!(names.iter().all(|name| Share::ALL.holds(name)));
    }
}
