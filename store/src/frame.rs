//! One frame: the body of every object that is not a pack (FORMAT 4.3).

use bytes::Bytes;

use crate::codec::{Codec, Compressor, decode};
use crate::envelope::{HEAD_ROOM_BYTES, Head, Kind};
use crate::error::StoreError;
use crate::id::{Digest, LineageId};
use crate::keys::ClusterKeys;
use crate::limits::{CONTROL_OBJECT_BYTES_MAX, FRAME_BYTES_MAX};
use crate::seal::{ObjectKey, Secret32, TAG_BYTES, associated_data};

const PREFIX_BYTES: usize = 8;

/// Longest plaintext a frame of this kind may have.
#[must_use]
pub fn plain_bytes_max(kind: Kind) -> usize {
    match kind {
        Kind::Lineage | Kind::Lease | Kind::Keys | Kind::History | Kind::Hole | Kind::Pin => CONTROL_OBJECT_BYTES_MAX,
        _ => FRAME_BYTES_MAX,
    }
}

/// What a frame is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// Kind of the object.
    pub kind: Kind,
    /// Lineage of the object.
    pub lineage: Option<LineageId>,
    /// Keyed digest of the plaintext.
    pub digest: &'a Digest,
}

/// Compresses and seals `plain` behind [`HEAD_ROOM_BYTES`] of room. Law 5: what was sealed is opened again, decoded, and compared. No more memory
/// than twice what is stored, beside `plain`.
///
/// # Errors
/// Over the limit, or the encoding check failed.
pub fn seal(
    key: &ObjectKey,
    binding: Binding<'_>,
    plain: &[u8],
    compressor: &mut Compressor,
) -> Result<Vec<u8>, StoreError> {
    if plain.len() > plain_bytes_max(binding.kind) {
        return Err(StoreError::Limit {
            what: "an object",
            detail: format!("{} bytes", plain.len()),
        });
    }
    let plain_bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    let mut room_and_body = vec![0; HEAD_ROOM_BYTES + PREFIX_BYTES];
    let codec = compressor.compress(plain, &mut room_and_body)?;
    let mut prefix = [codec as u8, 0, 0, 0, 0, 0, 0, 0];
    prefix[4..].copy_from_slice(&plain_bytes.to_le_bytes());
    if let Some(room) = room_and_body.get_mut(HEAD_ROOM_BYTES..HEAD_ROOM_BYTES + PREFIX_BYTES) {
        room.copy_from_slice(&prefix);
    }
    let associated = associated_data(
        binding.kind.digest_kind(),
        codec as u8,
        plain_bytes,
        binding.lineage,
        binding.digest,
    );
    key.seal_behind(0, &associated, &mut room_and_body, HEAD_ROOM_BYTES + PREFIX_BYTES)?;
    // Room was reserved for the worst case.
    room_and_body.shrink_to_fit();
    let mut sealed = room_and_body
        .get(HEAD_ROOM_BYTES + PREFIX_BYTES..)
        .unwrap_or_default()
        .to_vec();
    let opened = key
        .open(0, &associated, &mut sealed)
        .ok_or_else(|| StoreError::EncodingCheck {
            what: format!("{:?}", binding.kind),
        })?;
    compressor.check(codec, opened, plain)?;
    Ok(room_and_body)
}

/// Opens the body of a single-frame object and checks the plaintext against the header's digest.
///
/// # Errors
/// Damaged, over a limit, or the key at hand does not open it.
pub fn open(
    head: &Head,
    lineage: Option<LineageId>,
    digest: &Digest,
    body: &Bytes,
    session: Option<&Secret32>,
    keys: &ClusterKeys,
) -> Result<Vec<u8>, StoreError> {
    let damaged = |reason: &str| StoreError::damaged(head.name(), reason);
    let (prefix, payload) = body
        .split_at_checked(PREFIX_BYTES)
        .ok_or_else(|| damaged("frame shorter than its prefix"))?;
    let mut fields = crate::envelope::Fields { bytes: prefix, at: 0 };
    let codec_byte = fields.u8().unwrap_or(u8::MAX);
    let _ = fields.take(3);
    let plain_bytes = fields.u32().unwrap_or(u32::MAX);
    let codec = Codec::from_byte(codec_byte).ok_or_else(|| StoreError::TooNew {
        name: head.name().into(),
        reason: format!("codec {codec_byte}"),
    })?;
    if plain_bytes as usize > plain_bytes_max(head.kind) || payload.len() < TAG_BYTES {
        return Err(damaged("the frame claims an impossible length"));
    }
    let (secret, info) = head.body_secret(session, keys)?;
    let key = ObjectKey::derive(secret, &head.salt, info)?;
    let associated = associated_data(head.kind.digest_kind(), codec as u8, plain_bytes, lineage, digest);
    let mut buffer = payload.to_vec();
    let compressed = key
        .open(0, &associated, &mut buffer)
        .ok_or_else(|| StoreError::WrongKey {
            what: format!("the body of \"{}\"", head.name()),
        })?;
    let plain = decode(codec, compressed, plain_bytes as usize)
        .ok_or_else(|| damaged("the frame does not decompress to its length"))?;
    if keys.digest(head.kind.digest_kind(), &plain) != *digest {
        return Err(damaged("the content's keyed digest differs from the signed one"));
    }
    Ok(plain)
}
