//! Random bits from the operating system. The only place that asks for them.
//!
//! A user-space generator would repeat itself after a virtual machine is cloned; the kernel's is asked each time.

use crate::error::StoreError;

/// Fills `buffer` from the kernel's generator (`getrandom(2)`).
///
/// # Errors
/// The kernel refused.
pub fn fill(buffer: &mut [u8]) -> Result<(), StoreError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(got) => filled += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(StoreError::Entropy(error.into())),
        }
    }
    Ok(())
}

/// `N` fresh random bytes.
///
/// # Errors
/// As [`fill`].
pub fn bytes<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut out = [0; N];
    fill(&mut out)?;
    Ok(out)
}

/// A generator in the shape the HPKE crate asks for: BLAKE3's output stream over 32 bytes of the kernel, for one use.
pub(crate) struct OneUse(blake3::OutputReader);

impl OneUse {
    pub(crate) fn new() -> Result<Self, StoreError> {
        Ok(OneUse(blake3::Hasher::new_keyed(&bytes()?).finalize_xof()))
    }
}

impl hpke::rand_core::RngCore for OneUse {
    fn next_u32(&mut self) -> u32 {
        let mut out = [0; 4];
        self.0.fill(&mut out);
        u32::from_le_bytes(out)
    }

    fn next_u64(&mut self) -> u64 {
        let mut out = [0; 8];
        self.0.fill(&mut out);
        u64::from_le_bytes(out)
    }

    fn fill_bytes(&mut self, buffer: &mut [u8]) {
        self.0.fill(buffer);
    }
}

impl hpke::rand_core::CryptoRng for OneUse {}
