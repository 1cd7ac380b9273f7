//! Page headers: what is accepted and what is not.

use super::*;

fn expectation() -> PageExpectation {
    PageExpectation {
        magic: 0xD110,
        system_identifier: SystemIdentifier::new(77),
        segment_size: SegmentSize::new(1 << 20).expect("a valid size"),
        timeline: TimelineId::new(3).expect("not zero"),
        page_lsn: Lsn::new(0x30_0000),
    }
}

fn long_header() -> Vec<u8> {
    let mut bytes = vec![0x10, 0xD1, LONG_HEADER as u8, 0, 3, 0, 0, 0];
    bytes.extend(0x30_0000u64.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(77u64.to_le_bytes());
    bytes.extend((1u32 << 20).to_le_bytes());
    bytes.extend(8192u32.to_le_bytes());
    bytes
}

fn judge(bytes: &[u8], expected: &PageExpectation) -> Result<(), WalPageError> {
    PageHeader::parse(bytes)?.check(expected)
}

#[test]
fn a_page_of_the_stream_or_of_an_ancestor_is_accepted() {
    let mut bytes = long_header();
    assert_eq!(judge(&bytes, &expectation()), Ok(()));
    bytes[4] = 1;
    assert_eq!(judge(&bytes, &expectation()), Ok(()));
}

#[test]
fn any_flipped_bit_but_the_harmless_ones_is_an_error() {
    for byte in 0..LONG_HEADER_BYTES {
        for bit in 0..8 {
            let mut bytes = long_header();
            bytes[byte] ^= 1 << bit;
            // BKP_REMOVABLE says nothing about content; a lower timeline may be an ancestor's; 20..24 is padding.
            let harmless = (byte == 2 && [2, 3].contains(&bit)) || (byte == 4 && bit < 2) || (20..24).contains(&byte);
            assert_eq!(judge(&bytes, &expectation()).is_ok(), harmless, "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn every_cut_header_is_truncated_and_a_zero_page_is_foreign() {
    for len in 0..LONG_HEADER_BYTES {
        assert!(
            matches!(
                PageHeader::parse(&long_header()[..len]),
                Err(WalPageError::Truncated { .. })
            ),
            "{len}"
        );
    }
    assert!(matches!(
        judge(&[0; 40], &expectation()),
        Err(WalPageError::Magic { found: 0, .. })
    ));
}

#[test]
fn the_long_form_belongs_to_the_first_page_of_a_segment_only() {
    let inside = PageExpectation {
        page_lsn: Lsn::new(0x30_2000),
        ..expectation()
    };
    let mut bytes = long_header();
    bytes[8..16].copy_from_slice(&0x30_2000u64.to_le_bytes());
    assert_eq!(judge(&bytes, &inside), Err(WalPageError::HeaderForm { long: true }));
    bytes[2] = 0;
    assert_eq!(judge(&bytes, &inside), Ok(()));
}
