//! Tests of the control file, on files made here; a real one is in `tests/replication.rs`.

use super::*;
use proptest::prelude::*;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn sign(file: &mut [u8], crc_at: usize) {
    let crc = crc32c::crc32c(&file[..crc_at]);
    put(file, crc_at, &crc.to_le_bytes());
}

fn file(version: u32, crc_at: usize) -> Vec<u8> {
    let mut file = vec![0; CONTROL_FILE_BYTES];
    put(&mut file, 0, &7_000_000_000_000_000_001_u64.to_le_bytes());
    for (at, value) in [
        (8, version),
        (16, 6),
        (48, 3),
        (172, 1),
        (180, 100),
        (216, 8192),
        (220, 131_072),
        (224, 8192),
        (228, 16 << 20),
        (252, 1),
    ] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 40, &0x300_0028_u64.to_le_bytes());
    put(&mut file, 208, &FLOAT_FORMAT.to_le_bytes());
    sign(&mut file, crc_at);
    file
}

#[test]
fn every_supported_format_is_read() {
    for (version, crc_at) in [(1300, 288), (1700, 288), (1800, 292)] {
        let control = ControlFile::parse(&file(version, crc_at)).unwrap();
        assert_eq!(control.control_version, version);
        assert_eq!((control.redo, control.timeline.as_u32()), (Lsn::new(0x300_0028), 3));
        assert_eq!(control.state, ClusterState::InProduction);
        assert_eq!(control.min_recovery_timeline, None);
        assert!(control.data_checksums());
    }
}

#[test]
fn other_versions_and_damage_are_named() {
    let parse = |file: &[u8]| ControlFile::parse(file).unwrap_err();
    assert_eq!(parse(&file(1201, 288)), ControlError::Version { version: 1201 });
    assert_eq!(parse(&[0; 7]), ControlError::TooShort { bytes: 7 });
    let mut damaged = file(1300, 288);
    damaged[180] ^= 1;
    assert!(matches!(parse(&damaged), ControlError::Crc { .. }));
    let mut impossible = file(1300, 288);
    put(&mut impossible, 228, &3_u32.to_le_bytes());
    sign(&mut impossible, 288);
    assert_eq!(parse(&impossible), ControlError::Field { field: "xlog_seg_size" });
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(ControlFile::parse(&bytes).is_err());
    }
}
