//! Does the answer fit the question? Lengths and ranges of GET, checked before anybody sees a byte.

use super::super::ByteRange;

/// Why an answer is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// The slice ends after the object, which has so many bytes.
    PastEnd(u64),
    /// The server did something else than was asked for.
    Wrong(String),
}

/// How many body bytes must follow, given the headers `Content-Length` and `Content-Range`.
pub(super) fn expected_length(
    range: ByteRange,
    content_length: Option<i64>,
    content_range: Option<&str>,
) -> Result<u64, Misfit> {
    let length = content_length
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| Misfit::Wrong("the answer does not say its length".to_owned()))?;
    let (first, total) = match (range, content_range) {
        (ByteRange::All, Some(part)) => {
            return Err(Misfit::Wrong(format!(
                "the whole object was asked for, the answer is the part \"{part}\""
            )));
        }
        // No range in the answer: it is the whole object.
        (_, None) => (0, length),
        (_, Some(part)) => {
            let (first, last, total) =
                parse(part).ok_or_else(|| Misfit::Wrong(format!("its Content-Range is \"{part}\"")))?;
            if last - first + 1 != length {
                return Err(Misfit::Wrong(format!(
                    "its Content-Range is \"{part}\" but its length {length}"
                )));
            }
            (first, total)
        }
    };
    let wanted = range.resolve(total).ok_or(Misfit::PastEnd(total))?;
    if (wanted.start, wanted.end - wanted.start) != (first, length) {
        return Err(Misfit::Wrong(format!(
            "{range} asked for, but the answer is {length} bytes from {first} of {total}"
        )));
    }
    Ok(length)
}

/// `bytes first-last/total`
fn parse(content_range: &str) -> Option<(u64, u64, u64)> {
    let (bytes, total) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = bytes.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLICE: ByteRange = ByteRange::Slice { start: 10, len: 5 };

    #[test]
    fn fitting_answers_give_their_length() {
        assert_eq!(expected_length(ByteRange::All, Some(7), None), Ok(7));
        assert_eq!(expected_length(SLICE, Some(5), Some("bytes 10-14/100")), Ok(5));
        assert_eq!(
            expected_length(ByteRange::Last(5), Some(5), Some("bytes 95-99/100")),
            Ok(5)
        );
        assert_eq!(
            expected_length(ByteRange::Last(500), Some(100), Some("bytes 0-99/100")),
            Ok(100)
        );
        assert_eq!(expected_length(ByteRange::Last(500), Some(100), None), Ok(100));
        assert_eq!(
            expected_length(ByteRange::Slice { start: 0, len: 5 }, Some(5), None),
            Ok(5)
        );
    }

    #[test]
    fn a_slice_past_the_end_is_told_from_a_server_that_does_something_else() {
        assert_eq!(
            expected_length(SLICE, Some(2), Some("bytes 10-11/12")),
            Err(Misfit::PastEnd(12))
        );
        for (range, length, part) in [
            (ByteRange::All, None, None),
            (ByteRange::All, Some(-1), None),
            (ByteRange::All, Some(5), Some("bytes 0-4/10")),
            (SLICE, Some(100), None),
            (SLICE, Some(4), Some("bytes 10-13/100")),
            (SLICE, Some(5), Some("bytes 11-15/100")),
            (SLICE, Some(4), Some("bytes 10-14/100")),
            (SLICE, Some(5), Some("bytes 10-14/*")),
            (SLICE, Some(5), Some("bytes 14-10/100")),
            (SLICE, Some(5), Some("nonsense")),
            (ByteRange::Last(5), Some(100), None),
            (ByteRange::Last(5), Some(4), Some("bytes 96-99/100")),
        ] {
            let answer = expected_length(range, length, part);
            assert!(
                matches!(answer, Err(Misfit::Wrong(_))),
                "{range} {length:?} {part:?}: {answer:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "bytes [0-9]{0,21}-[0-9]{0,21}/[0-9*]{0,21}|.{0,30}", length in any::<Option<i64>>()) {
            let _ = expected_length(SLICE, length, Some(&text));
            let _ = expected_length(ByteRange::Last(u64::MAX), length, Some(&text));
        }
    }
}
