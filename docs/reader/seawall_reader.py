#!/usr/bin/env python3
"""Reads a Seawall repository in a local directory, with nothing but a restore key.

Written from docs/FORMAT.md alone, as a second way to the data. The sections that a function follows are named in its first line.
It only reads, and writes nothing but the file that --out names, which must not exist yet. Needs Python 3.11 or later, and:

    pip install -r requirements.txt        (with the package crc32c as well it is many times as fast)

    seawall_reader.py --repository DIR --cluster NAME --key restore.key list
    seawall_reader.py ... list --backup ULID
    seawall_reader.py ... file --backup ULID --path base/5/1259 --out FILE
    seawall_reader.py ... tar --backup ULID --below base/5 --out FILE.tar
    seawall_reader.py ... wal --timeline 1 --segment 000000010000000000000003 --out FILE

What is not whole, or not signed by a host of the cluster, is refused: the last line on standard error says why, the exit code is 1,
and there is no output file. PostgreSQL takes a restore_command's exit code of 1 for the end of WAL: give it an explicit recovery target,
or turn the code into one above 125.
"""

import argparse
import collections
import datetime
import hmac
import json
import os
import pathlib
import re
import struct
import sys
import tarfile

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PAGE = 8192
CHUNK_PAGES = 16
MIB = 1 << 20
PACK, METADATA_PACK, MANIFEST, LINEAGE, KEYS, WAL, TAIL, HISTORY = 1, 2, 4, 7, 9, 10, 11, 12
RELATION, CONTENT, EXTENTS, FILE_TABLE, CHUNK_LIST = 1, 2, 3, 5, 6
SMALL_KINDS = (7, 8, 9, 12, 13, 14)
# Section 6.1: the root, hosts, keepers.
WRITTEN_BY = {0: {9, 14, 15, 18}, 1: {*range(1, 9), *range(10, 16), 18, 19}, 2: set(range(13, 19))}


class Refused(Exception):
    """What is there must not be used, or cannot be."""


def require(condition, what):
    if not condition:
        raise Refused(what)


# ---- Section 2: CBOR, key derivation, sealing


class Cbor:
    """Section 2: the part of RFC 8949 that the format uses. Lengths are definite, and nothing follows the one value."""

    def __init__(self, data):
        self.data, self.at = data, 0

    @classmethod
    def decode(cls, data):
        cbor = cls(data)
        value = cbor.value(0)
        require(cbor.at == len(data), "bytes follow a CBOR value")
        return value

    def take(self, count):
        end = self.at + count
        require(end <= len(self.data), "a CBOR value is cut off")
        taken, self.at = self.data[self.at : end], end
        return taken

    def value(self, depth):
        require(depth < 32, "CBOR is nested too deeply")
        first = self.take(1)[0]
        major, low = first >> 5, first & 31
        if major == 7:
            require(low in (20, 21), f"CBOR byte {first:02x} is not of this format")
            return low == 21
        require(low < 28, "CBOR of indefinite length")
        argument = low if low < 24 else int.from_bytes(self.take(1 << (low - 24)), "big")
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return self.take(argument).decode("utf-8")
            case 4:
                return [self.value(depth + 1) for _ in range(argument)]
            case 5:
                return self.map(argument, depth)
        raise Refused("CBOR tags are not of this format")

    def map(self, count, depth):
        result = {}
        for _ in range(count):
            key = self.value(depth + 1)
            require(isinstance(key, (int, str)) and key not in result, "a CBOR map has a bad key, or one twice")
            result[key] = self.value(depth + 1)
        return result


def hkdf(secret, salt, info):
    """Section 2."""
    return HKDF(hashes.SHA256(), 32, salt, info.encode()).derive(secret)


def unseal(key, nonce, sealed, associated, what):
    """Section 2: AES-256-GCM with the tag appended."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except (InvalidTag, ValueError):
        raise Refused(f"{what} does not have the authentication tag of these bytes, or belongs to another key") from None


def decode_payload(codec, payload, length, what):
    """Sections 2, 4.3 and 7: stored, or exactly one frame of zstd, of exactly this length."""
    require(codec in (0, 1), f"{what} has codec {codec}, which is not known")
    if codec == 1:
        try:
            declared = zstandard.get_frame_parameters(payload).content_size
            require(declared in (length, zstandard.CONTENTSIZE_UNKNOWN), f"{what} has another length than it says")
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=max(length, 1), allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Refused(f"{what} cannot be decompressed: {error}") from None
    require(len(payload) == length, f"{what} has another length than it says")
    return payload


def associated_data(kind, codec, length, lineage, identity):
    """Section 5.3."""
    return struct.pack("<8sBBHI16s32s", b"seawall1", kind, codec, 0, length, lineage, identity)


def nonce(number):
    """Sections 4.3 and 7."""
    return struct.pack("<IQ", number, 0)


def hpke_open(private, encapsulated, sealed, info):
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; the first message, no associated data."""
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"

    def extract(suite_id, salt, label, secret):
        return hmac.digest(salt, b"HPKE-v1" + suite_id + label + secret, "sha256")

    def expand(suite_id, secret, label, context, length):
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + context
        return hmac.digest(secret, labelled + b"\x01", "sha256")[:length]

    shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    pair = encapsulated + raw_public(private)
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", pair, 32)
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key, base_nonce = (expand(suite, secret, label, context, size) for label, size in ((b"key", 32), (b"base_nonce", 12)))
    return unseal(key, base_nonce, sealed, b"", "a sealed session key")


def raw_public(private):
    return private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def key_id(public):
    """Section 5: the first 16 bytes of the BLAKE3 of a public key."""
    return blake3(public).digest()[:16]


# ---- Section 4: one object


class Envelope:
    """Section 4: an object's parts, its lengths checked against its size. Nothing is believed yet."""

    def __init__(self, name, data):
        self.name = name
        require(len(data) >= 184, f"{name} is too short to be an object")
        (magic, self.kind, self.protection, version, features, self.salt, self.writer, self.epoch, session, header, body, self.blake3, _, padding,
         _) = struct.unpack_from("<8sBBHI16s16sQIIQ32sQII", data)
        require(magic == b"SEAWALL\x01", f"{name} is no object of a repository")
        require(version == 1, f"{name} has envelope version {version}, which is not known")
        require(features == 0, f"{name} needs features that this reader does not know")
        require(session <= 65536 and header <= 65536, f"{name} has a header that is too long")
        require(len(data) == 184 + session + header + body + padding, f"{name} is cut off, or longer than it says")
        signed = 120 + session + header
        self.clear = data[: 120 + session]
        self.session_block = data[120 : 120 + session]
        self.sealed_header = data[120 + session : signed]
        self.signed = b"seawall/1 object\x00" + name.encode() + b"\x00" + data[:signed]
        self.signature = data[signed : signed + 64]
        self.body = data[signed + 64 : signed + 64 + body]

    def is_by(self, public):
        """Section 6.1: True when this key has signed the object."""
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(self.signature, self.signed)
        except InvalidSignature:
            return False
        return True

    def check(self, public):
        """Section 4: the signature, then the body's BLAKE3."""
        require(key_id(public) == self.writer, f"{self.name} has a key id that is not its key's")
        require(self.is_by(public), f"{self.name} does not have the signature of these bytes")
        require(blake3(self.body).digest() == self.blake3, f"{self.name} is damaged: its body is not the one that was signed")


class Repository:
    """Sections 3 to 6: the objects of one cluster, opened with its restore key."""

    def __init__(self, directory, cluster, key_file):
        require(re.fullmatch("[a-z0-9][a-z0-9_-]{0,62}", cluster), f"{cluster} is no name of a cluster")
        self.root, self.cluster = pathlib.Path(directory), cluster
        about = json.loads((self.root / "seawall.json").read_bytes())
        require(about["format"] == 1, f"the repository has format {about['format']}, which is not known")
        require(about["required_features"] == 0, "the repository needs features that this reader does not know")
        self.id = ulid_bytes(about["repository"])
        self.privates = [self.restore_key(json.loads(pathlib.Path(key_file).read_bytes()), about["repository"])]
        self.sessions, self.packs = {}, collections.OrderedDict()
        self.open_keys()

    def restore_key(self, key, repository):
        """Section 6.3."""
        require(key["seawall_key"] == "restore" and key["version"] == 1, "the key file is no restore key")
        require(key["repository"] == repository and key["cluster"] == self.cluster, "the restore key is of another repository or cluster")
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(key["secret"]))
        require(raw_public(private).hex() == key["public"].lower(), "the two halves of the restore key do not belong together")
        self.root_key = bytes.fromhex(key["root"])
        return private

    def below(self, *parts):
        """Section 3: the names below one of the cluster's, sorted."""
        directory = self.root.joinpath("clusters", self.cluster, *parts)
        return sorted(os.listdir(directory)) if directory.is_dir() else []

    def envelope(self, *parts):
        name = "/".join(("clusters", self.cluster, *parts))
        return Envelope(name, (self.root / name).read_bytes())

    def open_keys(self):
        """Sections 5.1, 6.1 and 10: the newest period's keys, whose session leads to all others."""
        periods = [int(name) for name in self.below("keys") if re.fullmatch("[1-9][0-9]*", name)]
        require(periods, f"there is no cluster {self.cluster} in {self.root}, or it has no keys")
        newest, root = None, self.root_key
        for period in sorted(periods):
            envelope = self.envelope("keys", str(period))
            if not envelope.is_by(root):
                continue
            envelope.check(root)
            require(envelope.kind == KEYS, f"{envelope.name} is of another kind")
            try:
                self.derive(self.unseal_session(envelope, bytes(16), "keys")[1])
            except Refused as refused:
                print(f"{envelope.name}: {refused}", file=sys.stderr)
                continue
            keys = Cbor.decode(self.frame(envelope, self.header(envelope)))
            require(keys[0] == period, f"{envelope.name} is of another period")
            require(keys[3] == blake3(self.dedup_secret).digest()[:16], f"{envelope.name} has another dedup secret")
            newest, root = keys, keys[4]
        require(newest, "no period of keys is signed by the root key that the key file names, and sealed to its key")
        self.signers = {signer[0]: signer for signer in newest[2]}
        self.signers[key_id(newest[4])] = {1: newest[4], 4: 0}
        self.open_period_keys(newest[5])

    def open_period_keys(self, period_keys):
        """Section 6.1: keys of periods, for what was stored before ours was a restore key."""
        mine = self.privates[0]
        for public, recipient, encapsulated, sealed in (tuple(one[n] for n in range(4)) for one in period_keys):
            if recipient == key_id(raw_public(mine)):
                info = b"seawall/1 period key\x00" + self.id + self.cluster.encode() + b"\x00" + public
                private = X25519PrivateKey.from_private_bytes(hpke_open(mine, encapsulated, sealed, info))
                require(raw_public(private) == public, "the key of a period is another than it says")
                self.privates.append(private)

    def check(self, envelope):
        """Sections 4 and 6.1: signed by somebody who may write such an object, before his key was revoked."""
        signer = self.signers.get(envelope.writer)
        require(signer is not None, f"{envelope.name} is signed by a key that the cluster does not list")
        require(envelope.kind in WRITTEN_BY[signer[4]], f"{envelope.name} is signed by somebody who may not write it")
        stored = (self.root / envelope.name).stat().st_mtime_ns // 1000
        require(stored <= signer.get(3, stored), f"{envelope.name} was stored after its signer had been revoked")
        envelope.check(signer[1])

    def derive(self, dedup_secret):
        """Section 5.1."""
        self.dedup_secret = dedup_secret
        keys = ("metadata", "digest", "page", "chunk relation", "chunk content", "chunk metadata")
        self.keys = {name: hkdf(dedup_secret, self.id, f"seawall/1 {name}") for name in keys}

    def keyed(self, key, data):
        """Section 5.2."""
        return blake3(data, key=self.keys[key]).digest()

    def digest(self, kind, plain):
        """Section 5.2: of an object's plaintext."""
        return self.keyed("digest", bytes([WAL if kind == TAIL else kind]) + plain)

    def unseal_session(self, envelope, lineage, purpose):
        """Section 6.2: the session's id, the dedup secret and the session key."""
        known = (envelope.session_block, lineage, purpose)
        if known not in self.sessions:
            session = Cbor.decode(envelope.session_block)
            require(session[1] == purpose, f"{envelope.name} has a session of another purpose")
            sealed_to = {one[0]: one for one in session[2]}
            private = next((key for key in self.privates if key_id(raw_public(key)) in sealed_to), None)
            require(private is not None, f"{envelope.name} is not sealed to this restore key")
            sealed = sealed_to[key_id(raw_public(private))]
            info = b"seawall/1 session\x00" + self.id + lineage + session[0] + self.cluster.encode() + b"\x00" + purpose.encode()
            secrets = hpke_open(private, sealed[1], sealed[2], info)
            require(len(secrets) == 64, f"{envelope.name} has a session key of another length")
            self.sessions[known] = (session[0], secrets[32:], secrets[:32])
        return self.sessions[known]

    def header(self, envelope):
        """Section 4.2."""
        key = hkdf(self.keys["metadata"], envelope.salt, "seawall/1 header")
        header = Cbor.decode(unseal(key, bytes(12), envelope.sealed_header, envelope.clear, f"the header of {envelope.name}"))
        require(header[0] == self.id and header[1] == self.cluster, f"{envelope.name} is of another repository or cluster")
        return header

    def body_key(self, envelope, header):
        """Sections 4.3, 5.1 and 7: the key of a frame, or of the chunks of a pack."""
        if envelope.protection == 2:
            return hkdf(self.keys["metadata"], envelope.salt, "seawall/1 body")
        require(envelope.protection == 1, f"{envelope.name} has protection {envelope.protection}, which is not known")
        purpose = "backup" if envelope.kind == PACK else "wal"
        session, dedup_secret, key = self.unseal_session(envelope, header.get(2, bytes(16)), purpose)
        require(session == header[9] and dedup_secret == self.dedup_secret, f"{envelope.name} has a session that is not its own")
        return hkdf(key, envelope.salt, "seawall/1 data")

    def frame(self, envelope, header):
        """Section 4.3."""
        what = f"the body of {envelope.name}"
        require(len(envelope.body) >= 24, f"{what} is too short")
        codec, length = struct.unpack_from("<B3xI", envelope.body)
        require(length <= (4 if envelope.kind in SMALL_KINDS else 64) * MIB and length == header[8], f"{what} has another length than it says")
        kind = WAL if envelope.kind == TAIL else envelope.kind
        associated = associated_data(kind, codec, length, header.get(2, bytes(16)), header[6])
        payload = unseal(self.body_key(envelope, header), nonce(0), envelope.body[8:], associated, what)
        plain = decode_payload(codec, payload, length, what)
        require(self.digest(envelope.kind, plain) == header[6], f"{what} does not have the digest that its header says")
        return plain

    def read(self, kind, *parts):
        """Section 4: an object that is not a pack, checked; its envelope, header and plaintext."""
        envelope = self.envelope(*parts)
        require(envelope.kind == kind, f"{envelope.name} is of another kind")
        self.check(envelope)
        header = self.header(envelope)
        return envelope, header, self.frame(envelope, header)

    def chunk(self, reference, kind):
        """Section 7: the bytes of a chunk. A few packs are kept, as many chunks of one are asked for."""
        pack, number = reference
        if pack not in self.packs:
            self.packs[pack] = Pack(self, pack)
            if len(self.packs) > 4:
                self.packs.popitem(last=False)
        self.packs.move_to_end(pack)
        return self.packs[pack].chunk(number, kind)


class Pack:
    """Section 7."""

    def __init__(self, repository, identity):
        self.repository = repository
        name = identity.hex()
        envelope = self.envelope = repository.envelope("packs", name[:2], name)
        require(envelope.kind in (PACK, METADATA_PACK) and len(envelope.body) < 256 * MIB, f"{envelope.name} is no pack")
        repository.check(envelope)
        header = repository.header(envelope)
        self.lineage = header.get(2, bytes(16))
        self.key = repository.body_key(envelope, header)
        self.chunks = self.footer()
        ids = b"".join(chunk[0] for chunk in self.chunks)
        require(repository.digest(envelope.kind, ids) == header[6], f"{envelope.name} has other chunks than its header says")
        require(sum(chunk[3] for chunk in self.chunks) == header[8], f"{envelope.name} has another length than it says")

    def footer(self):
        """Section 7: id, place, stored length, plaintext length, kind and codec of each chunk."""
        envelope, what = self.envelope, f"the footer of {self.envelope.name}"
        require(envelope.body[-4:] == b"SWPF", f"{what} is not there")
        (length,) = struct.unpack("<I", envelope.body[-8:-4])
        self.end = len(envelope.body) - 8 - length
        require(self.end >= 0, f"{what} is too long")
        key = hkdf(self.repository.keys["metadata"], envelope.salt, "seawall/1 footer")
        footer = unseal(key, bytes(12), envelope.body[self.end : -8], b"", what)
        require(len(footer) == 8 + 48 * struct.unpack_from("<I", footer)[0], f"{what} has another length than it says")
        return list(struct.iter_unpack("<32sIIIBBH", footer[8:]))

    def chunk(self, number, kind):
        what = f"chunk {number} of {self.envelope.name}"
        require(number < len(self.chunks), f"{what} is not there")
        identity, at, stored, length, is_kind, codec, _ = self.chunks[number]
        require(is_kind == kind and (kind in (RELATION, CONTENT)) == (self.envelope.kind == PACK), f"{what} is of another kind")
        require(at + stored <= self.end, f"{what} lies outside of its pack")
        require(length <= {RELATION: CHUNK_PAGES * PAGE, CONTENT: MIB}.get(kind, 64 * MIB), f"{what} is too long")
        associated = associated_data(kind, codec, length, self.lineage, identity)
        payload = unseal(self.key, nonce(number), self.envelope.body[at : at + stored], associated, what)
        plain = decode_payload(codec, payload, length, what)
        require(self.identity(kind, plain) == identity, f"{what} does not have the content that its id says")
        return plain

    def identity(self, kind, plain):
        """Section 5.2."""
        keyed = self.repository.keyed
        if kind == RELATION:
            require(len(plain) % PAGE == 0, f"a chunk of {self.envelope.name} has a part of a page")
            pages = (plain[at : at + PAGE] for at in range(0, len(plain), PAGE))
            return keyed("chunk relation", b"".join(keyed("page", page)[:16] for page in pages))
        if kind == CONTENT:
            return keyed("chunk content", plain)
        return keyed("chunk metadata", bytes([kind]) + plain)


# ---- Section 8: backups


class Backup:
    """Section 8: a manifest and what it leads to."""

    def __init__(self, repository, name):
        require(re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", name), f"{name} is no name of a backup")
        require(name in repository.below("backups"), f"there is no backup {name}")
        self.repository = repository
        self.manifest = Cbor.decode(repository.read(MANIFEST, "backups", name)[2])
        require(self.manifest[0] == ulid_bytes(name), f"the manifest of {name} is another backup's")

    def entries(self):
        """Section 8.3."""
        for reference in self.manifest[15]:
            yield from Cbor.decode(self.repository.chunk(reference, FILE_TABLE))

    def find(self, path):
        """The bytes of one file, block by block. Section 8.7: the two that are in the manifest alone."""
        of_the_manifest = self.manifest.get({b"backup_label": 12, b"tablespace_map": 13}.get(path))
        if of_the_manifest:
            return iter([of_the_manifest])
        entry = next((entry for entry in self.entries() if entry[0] == path), None)
        require(entry is not None, f"the backup has no {os.fsdecode(path)}")
        require(entry[1] == 0, f"{os.fsdecode(path)} is no file")
        return self.content(entry)

    def content(self, entry):
        """Section 8.3: block by block, its length and its CRC-32C checked at the end."""
        path, size, crc = os.fsdecode(entry[0]), 0, 0
        for block in self.relation(entry) if entry[4] == 0 else self.chunks(entry):
            size += len(block)
            crc = crc32c(block, crc) if 10 in entry else 0
            yield block
        require(size == entry[3], f"{path} has {size} bytes, and its entry says {entry[3]}")
        require(crc == entry.get(10, 0), f"{path} does not have the CRC-32C that its entry says")

    def chunks(self, entry):
        """Section 8.3: a content file."""
        parts = entry[7] if 9 not in entry else Cbor.decode(self.repository.chunk(entry[9], CHUNK_LIST))
        for pack, number, length in parts:
            chunk = self.repository.chunk((pack, number), CONTENT)
            require(len(chunk) == length, f"a chunk of {os.fsdecode(entry[0])} has another length than its entry says")
            yield chunk

    def relation(self, entry):
        """Section 8.1: the pages of a relation file."""
        if 5 not in entry:
            return
        path, last, chunk = os.fsdecode(entry[0]), None, b""
        for number, place in enumerate(self.page_map(entry[5], 0)):
            require(place is not None, f"{path} has no page {number}")
            pack, index, page = place
            if pack is None:
                yield bytes(PAGE)
                continue
            if last != (pack, index):
                last = (pack, index)
                chunk = self.repository.chunk(last, RELATION)
            require((page + 1) * PAGE <= len(chunk), f"page {number} of {path} lies outside of its chunk")
            yield chunk[page * PAGE : (page + 1) * PAGE]

    def page_map(self, reference, children):
        """Section 8.1: pack, chunk and page within the chunk for each page; the pack is None for a page of zero bytes."""
        data = self.repository.chunk(reference, EXTENTS)
        version, form, depth, pages, parent, parent_chunk, packs = struct.unpack_from("<BBHI16sII", data)
        require(version == 1 and form in (0, 1) and depth + children <= 8, "a map of pages has a form that is not known")
        require(pages <= self.manifest[10] and (form == 1) == (depth > 0), "a map of pages contradicts itself")
        places = self.page_map((parent, parent_chunk), children + 1)[:pages] if form == 1 else []
        places += [None] * (pages - len(places))
        ids = [data[32 + 16 * n : 48 + 16 * n] for n in range(packs)]
        at = 32 + 16 * packs
        (count,) = struct.unpack_from("<I", data, at)
        require(len(data) == at + 4 + 16 * count, "a map of pages has another length than it says")
        for first, length, chunk, pack, page in struct.iter_unpack("<IIIHH", data[at + 4 :]):
            require(first + length <= pages, "an extent goes on behind the end of its file")
            for offset in range(length):
                chunks, within = divmod(page + offset, CHUNK_PAGES)
                places[first + offset] = (None, 0, 0) if pack == 0xFFFF else (ids[pack], chunk + chunks, within)
        return places


def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC32C = crc32c_table()


def crc32c(data, crc=0):
    """CRC-32C (Castagnoli), carried on from a former block."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


try:
    from crc32c import crc32c  # the same, many times as fast; a package that need not be there
except ImportError:
    pass


# ---- Section 9: WAL

Piece = collections.namedtuple("Piece", "timeline lane epoch start end name")


class Wal:
    """Sections 3 and 9: the WAL of one lineage."""

    def __init__(self, repository, lineage):
        self.repository, self.lineage = repository, lineage
        self.about = Cbor.decode(repository.read(LINEAGE, "lineages", lineage)[2])
        require(self.about[0] == ulid_bytes(lineage), f"lineage {lineage} is another one")
        self.segment_size = self.about[3]

    def below(self, lane, timeline, *parts):
        return self.repository.below(lane, self.lineage, f"{timeline:08X}", *parts)

    def pieces(self, lane, timeline, segment):
        """Section 3: what the names say. Of two objects the one of the higher epoch counts, so it comes first."""
        pieces = []
        for name in self.below(lane, timeline, f"{timeline:08X}{segment}"):
            if found := re.fullmatch("([0-9A-F]{16})-([0-9A-F]{16})[.]([0-9a-f]{8})", name):
                start, end, epoch = (int(text, 16) for text in found.groups())
                pieces.append(Piece(timeline, lane, epoch, start, end, name))
        return sorted(pieces, key=lambda piece: -piece.epoch)

    def segments(self, timeline):
        names = {name for lane in ("wal", "tail") for name in self.below(lane, timeline)}
        return sorted(name for name in names if re.fullmatch("[0-9A-F]{24}", name))

    def read(self, piece, segment):
        """Section 9: the bytes of a range, and that the object is what its name says."""
        kind, timeline = WAL if piece.lane == "wal" else TAIL, f"{piece.timeline:08X}"
        envelope, header, plain = self.repository.read(kind, piece.lane, self.lineage, timeline, timeline + segment, piece.name)
        said = (header[2], header[3], header[4], header[5], envelope.epoch, len(plain))
        named = (ulid_bytes(self.lineage), piece.timeline, piece.start, piece.end, piece.epoch, piece.end - piece.start)
        require(said == named, f"{envelope.name} is not what its name says")
        return plain

    def history(self, timeline):
        """Section 9: of several histories of a timeline the one of the highest epoch that can be read, or none."""
        for name in reversed([name for name in self.below("wal", timeline) if name.startswith("history.")]):
            try:
                _, header, plain = self.repository.read(HISTORY, "wal", self.lineage, f"{timeline:08X}", name)
                require(header[2] == ulid_bytes(self.lineage) and header[3] == timeline, f"{name} is of another timeline")
                return plain
            except Refused as error:
                warn(error)
        return None

    def sources(self, timeline, start, end):
        """Section 9: timelines that hold a segment, and up to where: the first segment of one begins with its parent's bytes."""
        sources = [(timeline, end)]
        for line in reversed((self.history(timeline) or b"").decode().splitlines()):
            if found := re.match(r"\s*(\d+)\s+([0-9A-F]+)/([0-9A-F]+)", line):
                end = min(end, (int(found[2], 16) << 32) + int(found[3], 16))
                if end > start:
                    sources.append((int(found[1]), end))
        return sources

    def segment(self, timeline, name):
        """Section 9: a segment from its WAL objects and, where they do not cover it, tails; zero bytes at its end."""
        number = name[8:]
        start = (int(number[:8], 16) << 32) + int(number[8:], 16) * self.segment_size
        end, content, have, last = start + self.segment_size, bytearray(self.segment_size), [], start
        require(name in self.segments(timeline), f"there is no WAL of segment {name}")
        for source, limit in self.sources(timeline, start, end):
            for lane in ("wal", "tail"):
                for piece in self.pieces(lane, source, number) if reach(have, start) < limit else ():
                    require(start <= piece.start < piece.end <= end, f"{piece.name} does not lie in segment {name}")
                    last = max(last, min(piece.end, limit))
                    try:
                        merge(content, have, start, piece._replace(end=min(piece.end, limit)), self.read(piece, number))
                    except Refused as error:
                        warn(error)
        reached = reach(have, start)
        is_open = reached == last and name == self.segments(timeline)[-1]
        require(start < reached and (reached == end or is_open), f"segment {name} lacks WAL from {lsn(reached)} on")
        return bytes(content)


def merge(content, have, start, piece, plain):
    """Adds a range to a segment. What is there already stays, and should be the same."""
    plain = bytearray(plain[: max(piece.end - piece.start, 0)])
    for first, last in have:
        low, high = max(first, piece.start), min(last, piece.end)
        if low < high:
            there, here = slice(low - start, high - start), slice(low - piece.start, high - piece.start)
            if content[there] != plain[here]:
                warn(f"{piece.name} ({piece.lane}) holds other bytes than what counts more")
            plain[here] = content[there]
    content[piece.start - start : piece.start - start + len(plain)] = plain
    have.append((piece.start, piece.start + len(plain)))


def reach(have, start):
    """Up to where everything is there."""
    for first, last in sorted(have):
        if first <= start:
            start = max(start, last)
    return start


# ---- Texts

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid_bytes(text):
    """Section 2."""
    number = 0
    require(len(text) == 26, f"{text} is no ULID")
    for letter in text:
        require(letter in CROCKFORD, f"{text} is no ULID")
        number = number * 32 + CROCKFORD.index(letter)
    require(number < 1 << 128, f"{text} is no ULID")
    return number.to_bytes(16, "big")


def ulid_text(identity):
    number = int.from_bytes(identity, "big")
    return "".join(CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def lsn(number):
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def moment(microseconds):
    return datetime.datetime.fromtimestamp(microseconds // 1_000_000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def warn(message):
    print(f"warning: {message}", file=sys.stderr)


# ---- Commands


def list_all(repository):
    for name in repository.below("lineages"):
        wal = Wal(repository, name)
        lineage = wal.about
        parent = f", from {ulid_text(lineage[4])}" if 4 in lineage else ""
        print(f"lineage {name}: system {lineage[1]}, server {lineage[2]}, segments of {lineage[3]} bytes, {moment(lineage[7])}{parent}")
        timelines = {one for lane in ("wal", "tail") for one in repository.below(lane, name) if re.fullmatch("[0-9A-F]{8}", one)}
        for timeline in sorted(timelines):
            if segments := wal.segments(int(timeline, 16)):
                print(f"  timeline {int(timeline, 16)}: WAL of segments {segments[0]} to {segments[-1]}")
    for name in repository.below("backups"):
        manifest = Backup(repository, name).manifest
        label = f", {manifest[27]}" if 27 in manifest else ""
        print(f"backup {name}: lineage {ulid_text(manifest[1])}, timeline {manifest[2]}, {lsn(manifest[3])} to {lsn(manifest[4])}, "
              f"finished {moment(manifest[6])}, server {manifest[7]}, {manifest[17][2]} files, {manifest[17][0]} bytes{label}")


def list_files(backup):
    kinds, classes = "fdl", ("relation", "content", "control", "configuration")
    for entry in backup.entries():
        target = f" -> {os.fsdecode(entry[8])}" if entry[1] == 2 else ""
        print(f"{kinds[entry[1]]} {entry[2]:04o} {entry[3]:12} {classes[entry[4]]:13} {os.fsdecode(entry[0])}{target}")


def tar_blocks(backup, below):
    """Section 8.7: the directories and files below a path of the data directory as a tar archive, in the order of the file table.

    Links to tablespaces, and of pg_wal, become directories, so that nothing is unpacked into those of the server that was backed up.
    """
    yet_empty = True
    for entry in backup.entries():
        path, kind = os.fsdecode(entry[0]), entry[1]
        if entry[4] == 3 or (below and path != below and not path.startswith(f"{below}/")):
            continue
        require(not path.startswith("/") and ".." not in path.split("/"), f"{path} leads out of the data directory")
        if kind == 2 and path != "pg_wal" and not path.startswith("pg_tblspc/"):
            warn(f"the link {path} to {os.fsdecode(entry[8])} is left out")
            continue
        info = tarfile.TarInfo(path)
        info.type, info.size = (tarfile.REGTYPE, entry[3]) if kind == 0 else (tarfile.DIRTYPE, 0)
        info.mode, info.mtime = 0o700 if kind == 2 else entry[2], backup.manifest[6] // 1_000_000
        yield info.tobuf(tarfile.PAX_FORMAT)
        if kind == 0:
            yield from backup.content(entry)
            yield bytes(-info.size % 512)
        yet_empty = False
    require(not yet_empty, f"the backup has nothing below {below}")
    yield bytes(1024)


def wal_file(repository, timeline, name, lineage):
    require(re.fullmatch("[0-9A-F]{24}|[0-9A-F]{8}[.]history", name), f"{name} is neither a segment nor a timeline history")
    require(int(name[:8], 16) == timeline, f"{name} is not of timeline {timeline}")
    wals = [Wal(repository, one) for one in repository.below("lineages") if lineage in (None, one)]
    if name.endswith("history"):
        found = [content for wal in wals if (content := wal.history(timeline)) is not None]
    else:
        found = [wal for wal in wals if name in wal.segments(timeline)]
    require(found, f"there is no {name}, or none that can be read")
    require(len(found) == 1, f"{len(found)} lineages have {name}: say which one with --lineage")
    return found if name.endswith("history") else iter([found[0].segment(timeline, name)])


def write(path, blocks):
    """Writes a new file, and leaves none when something was refused on the way."""
    with open(path, "xb") as file:
        try:
            for block in blocks:
                file.write(block)
        except BaseException:
            os.unlink(path)
            raise


def arguments():
    parser = argparse.ArgumentParser(description="Reads a Seawall repository in a local directory.")
    parser.add_argument("--repository", required=True, metavar="DIR")
    parser.add_argument("--cluster", required=True, metavar="NAME")
    parser.add_argument("--key", required=True, metavar="FILE", help="the restore key")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("list", help="lineages and backups, or the files of one backup")
    one.add_argument("--backup", metavar="ULID")
    one = commands.add_parser("file", help="one file of a backup")
    one.add_argument("--backup", required=True, metavar="ULID")
    one.add_argument("--path", required=True, help="relative to the data directory")
    one.add_argument("--out", required=True, metavar="FILE")
    one = commands.add_parser("tar", help="a directory of a backup, or all of it, as a tar archive")
    one.add_argument("--backup", required=True, metavar="ULID")
    one.add_argument("--below", default="", metavar="PATH")
    one.add_argument("--out", required=True, metavar="FILE")
    one = commands.add_parser("wal", help="a WAL segment, or a timeline history")
    one.add_argument("--timeline", required=True, type=int)
    one.add_argument("--segment", required=True, metavar="NAME")
    one.add_argument("--lineage", metavar="ULID")
    one.add_argument("--out", required=True, metavar="FILE")
    return parser.parse_args()


def run(args):
    repository = Repository(args.repository, args.cluster, args.key)
    match args.command:
        case "list" if args.backup is None:
            list_all(repository)
        case "list":
            list_files(Backup(repository, args.backup))
        case "file":
            write(args.out, Backup(repository, args.backup).find(os.fsencode(args.path)))
        case "tar":
            write(args.out, tar_blocks(Backup(repository, args.backup), args.below.strip("/")))
        case "wal":
            write(args.out, wal_file(repository, args.timeline, args.segment, args.lineage))


def main():
    try:
        run(arguments())
    except (Refused, OSError) as error:
        sys.exit(f"refused: {error}")
    except (ValueError, LookupError, TypeError, struct.error) as error:
        sys.exit(f"refused: something does not have the form that the format gives it: {error!r}")


if __name__ == "__main__":
    main()
