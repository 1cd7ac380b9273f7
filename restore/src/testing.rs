//! Values for unit tests.

use store::manifest::Manifest;
use store::testing::manifest::empty_manifest;

/// A manifest without files, of a server in its second segment.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        start_lsn: 0x200_0028,
        end_lsn: 0x200_0100,
        server_version: 150_018,
        system_identifier: 7,
        checksum_version: 1,
        ..empty_manifest(Default::default(), Default::default())
    }
}
