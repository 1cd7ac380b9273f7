//! What an RDB file says of itself before its keys, as names and values: only when it was made is kept.
//!
//! Source: "Auxiliary fields" of the RDB file format at rdb.fnordig.de. `ctime` is the time of the server's host when the snapshot began.

/// Longest text that is looked at.
pub const KEPT_MAX: usize = 256;

/// The text that is being read, and what came of those before.
#[derive(Debug, Default)]
pub struct Kept {
    text: Vec<u8>,
    is_created: bool,
    /// Seconds since 1970.
    pub created_s: Option<i64>,
}

impl Kept {
    /// The next bytes of a text.
    pub fn add(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// A text that was written as a signed number.
    pub fn add_integer(&mut self, bytes: &[u8]) {
        let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.text = i64::from_le_bytes(wide).to_string().into_bytes();
    }

    /// The text was a name.
    pub fn end_name(&mut self) {
        self.is_created = self.text == b"ctime";
        self.text.clear();
    }

    /// The text was the value of that name.
    pub fn end_value(&mut self) {
        if self.is_created {
            let text = std::str::from_utf8(&self.text).ok();
            self.created_s = text.and_then(|text| text.parse().ok());
        }
        self.text.clear();
    }
}
