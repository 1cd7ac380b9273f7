//! Extended attributes, access control lists among them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

/// Bytes of a name list and of a value that are read; Linux allows no more (xattr(7)).
const BYTES_MAX: usize = 64 << 10;

/// Name and value, as a file table has them.
type Extended = Vec<(minicbor::bytes::ByteVec, minicbor::bytes::ByteVec)>;

/// All that can be read, sorted by name. Those of security modules are not: they belong to the host.
///
/// # Errors
/// They cannot be read, and not because there are none.
pub fn read(path: &Path) -> Result<Extended, Errno> {
    let mut list = vec![0; 256];
    let length = match llistxattr(path, list.as_mut_slice()) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOENT | Errno::PERM) => return Ok(Vec::new()),
        Ok(length) => length,
        Err(Errno::RANGE) => {
            list.resize(BYTES_MAX, 0);
            llistxattr(path, list.as_mut_slice())?
        }
        Err(errno) => return Err(errno),
    };
    let names = list.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    let mut out = Extended::new();
    for name in names.filter(|name| !name.is_empty() && !name.starts_with(b"security.")) {
        let mut value = vec![0; BYTES_MAX];
        match lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                out.push((name.to_vec().into(), value.into()));
            }
            Err(Errno::NODATA | Errno::PERM | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    out.sort_unstable();
    Ok(out)
}
