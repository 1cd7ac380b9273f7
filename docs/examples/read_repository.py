#!/usr/bin/env python3
"""Reads a Seawall repository from the text of docs/FORMAT.md alone: a second implementation.

It exists to prove that the format can be read without Seawall. It shares no code with it, writes nothing into the
repository, and checks what FORMAT.md says a reader MUST check. Numbers in comments are sections of FORMAT.md.

    pip install cryptography cbor2 zstandard blake3
    read_repository.py --repository DIR --key restore.key --cluster main check
    read_repository.py ... list
    read_repository.py ... object NAME FILE       plaintext of one object that is not a pack
    read_repository.py ... wal DIR [LINEAGE]      every WAL segment and history file, as PostgreSQL names them
    read_repository.py ... files DIR [BACKUP]     the files of a backup and its backup_label; tablespaces go to DIR.tablespaces

With `files` and `wal`, a restore_command that copies from the second, recovery.signal and a stop point of its own choosing,
PostgreSQL recovers the cluster. It takes care of nothing that wal-restore does: modes, owners, durability, order.
"""

import argparse
import hashlib
import hmac
import json
import os
import struct
import sys
from collections import defaultdict
from datetime import datetime, timezone

import blake3
import cbor2
import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"SEAWALL\x01"
CLEAR = 120
KINDS = ["", "data pack", "metadata pack", "index", "manifest", "intent", "progress", "lineage", "lease", "keys", "WAL",
         "tail", "timeline history", "hole", "pin", "proof", "condemned", "relocation", "ledger", "session"]
DATA_PACK, METADATA_PACK, INDEX, MANIFEST, LINEAGE, KEYS, WAL, TAIL, HISTORY = 1, 2, 3, 4, 7, 9, 10, 11, 12
WITH_SESSION = {DATA_PACK, KEYS, WAL, TAIL}
ZERO16 = bytes(16)
NONCE0 = bytes(12)
PAGE = 8192
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Damaged(Exception):
    """What was read is not what the format promises."""


def need(condition, reason):
    if not condition:
        raise Damaged(reason)


# --- Primitives (2) ---------------------------------------------------------------------------------------------------

def hkdf_extract(salt, ikm):
    return hmac.digest(salt or bytes(32), ikm, hashlib.sha256)


def hkdf_expand(prk, info, length):
    out, block, count = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([count]), hashlib.sha256)
        out, count = out + block, count + 1
    return out[:length]


def hkdf(ikm, salt, info, length=32):
    return hkdf_expand(hkdf_extract(salt, ikm), info.encode(), length)


def hash_of(data):
    return blake3.blake3(data).digest()


def keyed_hash(key, data, length=32):
    return blake3.blake3(data, key=key).digest(length)


def unseal(key, nonce, ciphertext, associated, what):
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except InvalidTag:
        raise Damaged(f"{what} does not decrypt") from None


def hpke_open(secret, encapsulated, ciphertext, info):
    """RFC 9180: base mode, DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001, AES-256-GCM 0x0002, first message."""
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"

    def extract(suite_id, salt, label, ikm):
        return hkdf_extract(salt, b"HPKE-v1" + suite_id + label + ikm)

    def expand(suite_id, prk, label, context, length):
        return hkdf_expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite_id + label + context, length)

    public = raw_public(secret)
    shared = secret.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", encapsulated + public, 32)
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    prk = extract(suite, shared, b"secret", b"")
    key = expand(suite, prk, b"key", context, 32)
    return unseal(key, expand(suite, prk, b"base_nonce", context, 12), ciphertext, b"", "the sealed session key")


def raw_public(secret):
    return secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def ulid_bytes(text):
    need(len(text) == 26, f"{text!r} is no ULID")
    value = 0
    for letter in text:
        value = value * 32 + ALPHABET.index(letter)
    return value.to_bytes(16, "big")


def ulid_text(data):
    value, letters = int.from_bytes(data, "big"), ""
    for _ in range(26):
        value, digit = divmod(value, 32)
        letters = ALPHABET[digit] + letters
    return letters


def lsn(value):
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"


def when(micros):
    return datetime.fromtimestamp(micros / 1e6, timezone.utc).strftime("%Y-%m-%d %H:%M:%S+00")


def cbor(data):
    try:
        return cbor2.loads(data)
    except cbor2.CBORDecodeError:
        raise Damaged("what should be CBOR is not") from None


def decompress(codec, data, length, what):
    need(codec in (0, 1), f"{what}: unknown codec {codec}")
    if codec == 1:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=length)
        except zstandard.ZstdError:
            raise Damaged(f"{what} does not decompress") from None
    need(len(data) == length, f"{what}: {len(data)} bytes where {length} are declared")
    return data


# --- Envelope (4) -----------------------------------------------------------------------------------------------------

class Envelope:
    """One object, its lengths and the hash of its body checked; signature and header come later."""

    def __init__(self, name, data):
        self.name = name
        need(len(data) >= CLEAR + 64 and data[:8] == MAGIC, "no Seawall object")
        (self.kind, self.protection, version, features, self.salt, self.writer, self.epoch, s, h, b, self.body_hash,
         self.retain, padding, reserved) = struct.unpack_from("<BBHI16s16sQIIQ32sQII", data, 8)
        need(version == 1 and features == 0, f"version {version}, features {features:#x} are not known")
        need(1 <= self.kind <= 19 and self.protection in (1, 2) and reserved == 0, "unknown kind or protection")
        need(s <= 65536 and h <= 65536, "session block or header too long")
        need(CLEAR + s + h + 64 + b + padding == len(data), f"{len(data)} bytes, which its lengths do not add up to")
        need((s > 0) == (self.kind in WITH_SESSION), f"a {KINDS[self.kind]} with {s} bytes of session block")
        end = CLEAR + s + h
        self.associated = data[:CLEAR + s]
        self.session = cbor(data[CLEAR:CLEAR + s]) if s else None
        self.sealed_header = data[CLEAR + s:end]
        self.signed = data[:end]
        self.signature = data[end:end + 64]
        self.body = data[end + 64:end + 64 + b]
        need(hash_of(self.body) == self.body_hash, "the body is not the one that was signed")

    def verify(self, public):
        message = b"seawall/1 object\x00" + self.name.encode() + b"\x00" + self.signed
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(self.signature, message)
        except InvalidSignature:
            raise Damaged("the signature does not fit the object and its name") from None


class Repository:
    def __init__(self, root, key_path, cluster):
        self.root, self.cluster = root, cluster
        with open(os.path.join(root, "seawall.json"), encoding="utf-8") as file:
            top = json.load(file)
        need(top["format"] == 1 and top["required_features"] == 0, "a repository of a later format")  # 3.1
        self.id = ulid_bytes(top["repository"])
        with open(key_path, encoding="utf-8") as file:
            key = json.load(file)
        need(key["seawall_key"] == "restore" and key["version"] == 1, "not a restore key of version 1")
        need(key["repository"] == top["repository"] and key["cluster"] == cluster, "the key belongs elsewhere")
        self.secret = X25519PrivateKey.from_private_bytes(bytes.fromhex(key["secret"]))
        self.recipient = hash_of(raw_public(self.secret))[:16]
        self.sessions = {}
        self.packs = {}
        self.open_keys()

    # names

    def names(self, below):
        """Objects under a prefix of the cluster, sorted."""
        top = os.path.join(self.root, "clusters", self.cluster, below)
        found = []
        for directory, _, files in os.walk(top):
            found += [os.path.relpath(os.path.join(directory, file), self.root) for file in files]
        return sorted(found)

    def name(self, *parts):
        return "/".join(["clusters", self.cluster, *parts])

    def envelope(self, name):
        with open(os.path.join(self.root, name), "rb") as file:
            return Envelope(name, file.read())

    # keys (5, 6)

    def session_keys(self, envelope, lineage):
        """Session key and dedup secret out of the session block (6.2)."""
        block = envelope.session
        cached = self.sessions.get(block[0])
        if cached:
            return cached
        info = b"seawall/1 session\x00" + self.id + lineage + block[0] + self.cluster.encode() + b"\x00" + block[1].encode()
        for sealed in block[2]:
            if sealed[0] == self.recipient:
                plain = hpke_open(self.secret, sealed[1], sealed[2], info)
                need(len(plain) == 64, "a sealed session key is 64 bytes")
                self.sessions[block[0]] = plain[:32], plain[32:]
                return self.sessions[block[0]]
        raise Damaged("this restore key is not among the recipients of the session")

    def derive(self, dedup):
        own = {name: hkdf(dedup, self.id, "seawall/1 " + name) for name in
               ("metadata", "digest", "page", "chunk relation", "chunk content", "chunk metadata")}  # 5.1
        self.dedup, self.metadata, self.own = dedup, own["metadata"], own

    def open_keys(self):
        """keys/<n> from 1 to the newest: each is signed by a signer of the one before, the first by its own (6.1)."""
        periods = sorted(int(name.rsplit("/", 1)[1]) for name in self.names("keys"))
        need(periods and periods == list(range(1, len(periods) + 1)), f"periods of keys are {periods}")
        signers = None
        for period in periods:
            envelope = self.envelope(self.name("keys", str(period)))
            need(envelope.kind == KEYS and envelope.session[1] == "keys", "not an object of keys")
            if period == 1:
                self.derive(self.session_keys(envelope, ZERO16)[1])
            header = self.header(envelope)
            body = cbor(self.frame(envelope, header))
            need(body[0] == period and body[3] == hash_of(self.dedup)[:16], "keys of another period or another secret")
            self.signers = {signer[0]: signer for signer in body[2]}
            for signer in body[2]:
                need(signer[0] == hash_of(signer[1])[:16], "a signer's id does not fit its key")
            self.check_signer(envelope, signers or self.signers)
            signers = self.signers

    def check_signer(self, envelope, signers):
        signer = signers.get(envelope.writer)
        need(signer is not None, "the writer is not among the signers")
        need(signer.get(3) is None, "the writer's key was revoked")
        envelope.verify(signer[1])

    # objects

    def header(self, envelope):
        key = hkdf(self.metadata, envelope.salt, "seawall/1 header")
        header = cbor(unseal(key, NONCE0, envelope.sealed_header, envelope.associated, "the header"))
        need(header[0] == self.id and header[1] == self.cluster, "the header names another repository or cluster")
        if envelope.session:
            need(header[9] == envelope.session[0], "header and session block name different sessions")
        return header

    def open(self, name):
        envelope = self.envelope(name)
        self.check_signer(envelope, self.signers)
        return envelope, self.header(envelope)

    def body_key(self, envelope, header):
        if envelope.protection == 2:
            return hkdf(self.metadata, envelope.salt, "seawall/1 body")
        key, dedup = self.session_keys(envelope, header.get(2, ZERO16))
        need(dedup == self.dedup, "the session carries another dedup secret")
        return hkdf(key, envelope.salt, "seawall/1 data")

    def frame(self, envelope, header):
        """The plaintext of an object that is not a pack (4.3), compared with its keyed digest (5.2)."""
        codec, zero, length = struct.unpack_from("<B3sI", envelope.body)
        need(zero == bytes(3), "a frame with unknown bytes")
        kind = WAL if envelope.kind == TAIL else envelope.kind
        bound = 4 if envelope.kind in (7, 8, 9, 12, 13, 14) else 64
        need(length <= bound << 20 and length == header[8], f"a frame that declares {length} bytes")
        associated = self.associated(kind, codec, length, header, header[6])
        packed = unseal(self.body_key(envelope, header), NONCE0, envelope.body[8:], associated, "the body")
        plain = decompress(codec, packed, length, "the body")
        need(keyed_hash(self.own["digest"], bytes([kind]) + plain) == header[6], "the keyed digest is another")
        return plain

    @staticmethod
    def associated(kind, codec, length, header, digest):
        return b"seawall1" + struct.pack("<BBHI", kind, codec, 0, length) + header.get(2, ZERO16) + digest  # 5.3

    # packs (7)

    def pack(self, pack_id):
        if pack_id not in self.packs:
            text = pack_id.hex()
            self.packs[pack_id] = Pack(self, self.name("packs", text[:2], text))
        return self.packs[pack_id]

    def chunk(self, reference, kind):
        pack_id, number = reference
        return self.pack(pack_id).chunk(number, kind)

    # backups (8)

    def manifest(self, backup):
        envelope, header = self.open(self.name("backups", backup))
        need(envelope.kind == MANIFEST, "not a manifest")
        return cbor(self.frame(envelope, header))

    def lineages(self):
        for name in self.names("lineages"):
            envelope, header = self.open(name)
            record = cbor(self.frame(envelope, header))
            need(ulid_text(record[0]) == name.rsplit("/", 1)[1], "a lineage under another name")
            yield record


class Pack:
    """A pack with its footer; chunks are decoded when they are asked for and compared with their ids."""

    def __init__(self, repository, name):
        self.repository = repository
        self.envelope, self.header = repository.open(name)
        need(self.envelope.kind in (DATA_PACK, METADATA_PACK), "not a pack")
        body = self.envelope.body
        need(body[-4:] == b"SWPF", "a pack without footer")
        (sealed,) = struct.unpack_from("<I", body, len(body) - 8)
        key = hkdf(repository.metadata, self.envelope.salt, "seawall/1 footer")
        footer = unseal(key, NONCE0, body[len(body) - 8 - sealed:-8], None, "the footer")
        count, _ = struct.unpack_from("<II", footer)
        need(len(footer) == 8 + 48 * count, "a footer of another length")
        self.entries = [struct.unpack_from("<32sIIIBBH", footer, 8 + 48 * i) for i in range(count)]
        ids = b"".join(entry[0] for entry in self.entries)
        digest = keyed_hash(repository.own["digest"], bytes([self.envelope.kind]) + ids)
        need(digest == self.header[6], "the keyed digest of the pack is another")
        self.key = repository.body_key(self.envelope, self.header)

    def chunk(self, number, kind=None):
        need(number < len(self.entries), f"the pack has no chunk {number}")
        chunk_id, at, stored, length, chunk_kind, codec, _ = self.entries[number]
        need(kind is None or kind == chunk_kind, f"chunk {number} is of kind {chunk_kind}, not {kind}")
        need((chunk_kind <= 2) == (self.envelope.kind == DATA_PACK), "a chunk in the wrong sort of pack")
        associated = Repository.associated(chunk_kind, codec, length, self.header, chunk_id)
        nonce = struct.pack("<I", number) + bytes(8)
        packed = unseal(self.key, nonce, self.envelope.body[at:at + stored], associated, f"chunk {number}")
        plain = decompress(codec, packed, length, f"chunk {number}")
        own = self.repository.own
        if chunk_kind == 1:  # 5.2
            pages = b"".join(keyed_hash(own["page"], plain[i:i + PAGE], 16) for i in range(0, len(plain), PAGE))
            need(keyed_hash(own["chunk relation"], pages) == chunk_id, f"chunk {number} is not what its id says")
        elif chunk_kind == 2:
            need(keyed_hash(own["chunk content"], plain) == chunk_id, f"chunk {number} is not what its id says")
        else:
            expected = keyed_hash(own["chunk metadata"], bytes([chunk_kind]) + plain)
            need(expected == chunk_id, f"chunk {number} is not what its id says")
        return plain


# --- Commands ---------------------------------------------------------------------------------------------------------

def check(repository):
    """Every object: envelope, signature, header, digest; packs down to each chunk; the chain of each writer (4.2, key 7)."""
    counts, chains, bad = defaultdict(lambda: [0, 0]), defaultdict(dict), 0
    for name in repository.names(""):
        try:
            envelope, header = repository.open(name)
            if envelope.kind in (DATA_PACK, METADATA_PACK):
                pack = Pack(repository, name)
                for number in range(len(pack.entries)):
                    pack.chunk(number)
            else:
                repository.frame(envelope, header)
            chains[envelope.writer, envelope.epoch][hash_of(envelope.signed)] = header[7], name
            counts[envelope.kind][0] += 1
            counts[envelope.kind][1] += len(envelope.signed) + 64 + len(envelope.body)
        except (Damaged, struct.error, KeyError) as error:
            bad += 1
            print(f"DAMAGED {name}: {error}")
    for kind, (count, size) in sorted(counts.items()):
        print(f"{KINDS[kind]:17} {count:6} objects {size:12} bytes")
    for (writer, epoch), links in sorted(chains.items()):
        starts = sum(1 for previous, _ in links.values() if previous == bytes(32))
        lost = sum(1 for previous, _ in links.values() if previous != bytes(32) and previous not in links)
        print(f"writer {writer.hex()[:8]} epoch {epoch}: {len(links)} objects, {starts} without predecessor, "
              f"{lost} whose predecessor is gone")
    return bad


def list_backups(repository):
    for lineage in repository.lineages():
        parent = f", after {ulid_text(lineage[4])}" if lineage.get(4) else ""
        print(f"lineage {ulid_text(lineage[0])} PostgreSQL {lineage[2]} segments of {lineage[3]} bytes{parent}")
    for name in repository.names("backups"):
        manifest = repository.manifest(name.rsplit("/", 1)[1])
        print(f"backup {ulid_text(manifest[0])} timeline {manifest[2]} start {lsn(manifest[3])} end {lsn(manifest[4])} "
              f"finished {when(manifest[6])} {len(manifest[16])} packs")
        for pack in manifest[16]:
            text = pack[0].hex()
            path = os.path.join(repository.root, repository.name("packs", text[:2], text))
            need(os.path.exists(path), f"pack {text} of the backup is gone")


def wal(repository, target, wanted):
    """Segments from the union of WAL objects and tails; what is missing at the end of one is zero bytes (9)."""
    os.makedirs(target, exist_ok=True)
    for lineage in repository.lineages():
        text = ulid_text(lineage[0])
        if wanted and wanted != text:
            continue
        segments = defaultdict(list)
        for below in ("wal", "tail"):
            for name in repository.names(f"{below}/{text}"):
                parts = name.split("/")
                if parts[-1].startswith("history."):
                    envelope, header = repository.open(name)
                    with open(os.path.join(target, parts[-2] + ".history"), "wb") as file:
                        file.write(repository.frame(envelope, header))
                    continue
                span, epoch = parts[-1].split(".")
                start, end = (int(half, 16) for half in span.split("-"))
                segments[parts[-3], parts[-2]].append((start, end, below == "tail", int(epoch, 16), name))
        for (timeline, segment), objects in sorted(segments.items()):
            write_segment(repository, lineage, int(timeline, 16), segment, objects, target)


def write_segment(repository, lineage, timeline, segment, objects, target):
    size = lineage[3]
    number = objects[0][0] // size
    per_id = (1 << 32) // size
    need(segment == f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}", f"{segment} is not the name of its segment")
    content, at = bytearray(size), number * size
    objects.sort(key=lambda o: (o[0], o[2], -o[3]))
    digests = {}
    while True:
        best = max((o for o in objects if o[0] <= at < o[1]), key=lambda o: (not o[2], o[1], o[3]), default=None)
        if best is None:
            break
        start, end, is_tail, epoch, name = best
        envelope, header = repository.open(name)
        need(envelope.kind == (TAIL if is_tail else WAL) and envelope.epoch == epoch, f"{name} is not what its name says")
        need((header[2], header[3], header[4], header[5]) == (lineage[0], timeline, start, end), f"{name} covers another range")
        plain = repository.frame(envelope, header)
        need(len(plain) == end - start, f"{name} holds {len(plain)} bytes")
        content[start - number * size:end - number * size] = plain
        digests[start, end] = header[6]
        at = end
    for start, end, _, _, name in objects:  # the same range from another epoch has the same digest
        if (start, end) in digests and repository.open(name)[1][6] != digests[start, end]:
            print(f"ALARM {name}: other bytes than the object of the same range")
    missing = [o for o in objects if o[0] > at]
    if missing:
        print(f"HOLE {segment}: {lsn(at)} to {lsn(missing[0][0])}")
    with open(os.path.join(target, segment), "wb") as file:
        file.write(content)
    state = "complete" if at == (number + 1) * size else f"up to {lsn(at)}, then zero bytes"
    print(f"{segment} {len(objects)} objects, {state}")


def extents(repository, reference):
    """Where each page of a relation file is: [(first, count, pack id or None, chunk, page)], and the number of pages (8.1)."""
    data = repository.chunk(reference, 3)
    version, form, _, pages, parent_pack, parent_chunk, packs = struct.unpack_from("<BBHI16sII", data)
    need(version == 1 and form in (0, 1), "an unknown form of extents")
    ids = [data[32 + 16 * i:48 + 16 * i] for i in range(packs)]
    at = 32 + 16 * packs
    (count,) = struct.unpack_from("<I", data, at)
    need(len(data) == at + 4 + 16 * count, "extents of another length")
    own = [struct.unpack_from("<IIIHH", data, at + 4 + 16 * i) for i in range(count)]
    places = {} if form == 0 else extents(repository, (parent_pack, parent_chunk))[0]
    for first, length, chunk, pack, page in own:
        for i in range(length):
            place = None if pack == 0xFFFF else (ids[pack], chunk + (page + i) // 16, (page + i) % 16)
            places[first + i] = place
    places = {page: place for page, place in places.items() if page < pages}
    need(len(places) == pages, "the extents do not cover the file")
    return places, pages


def files(repository, target, backup):
    names = [name.rsplit("/", 1)[1] for name in repository.names("backups")]
    need(names, "there is no backup")
    manifest = repository.manifest(backup or names[-1])
    table = []
    for reference in manifest[15]:
        table += cbor(repository.chunk(reference, 5))
    for tablespace in manifest[14]:
        if not tablespace[2]:
            place = os.path.abspath(f"{target}.tablespaces/{tablespace[0]}")
            os.makedirs(place)
            os.makedirs(os.path.join(target, "pg_tblspc"), exist_ok=True)
            os.symlink(place, os.path.join(target, "pg_tblspc", str(tablespace[0])))
    written = 0
    for entry in table:
        path = os.fsdecode(entry[0])
        if entry.get(4) == 3 or entry[1] == 2 or path.startswith("/") or ".." in path.split("/"):
            continue
        place = os.path.join(target, path)
        if entry[1] == 1:
            os.makedirs(place, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            if entry.get(5):
                places, pages = extents(repository, entry[5])
                last, plain = None, b""
                for page in range(pages):
                    where = places[page]
                    if where is None:
                        file.write(bytes(PAGE))
                        continue
                    if where[:2] != last:
                        last, plain = where[:2], repository.chunk(where[:2], 1)
                    file.write(plain[where[2] * PAGE:(where[2] + 1) * PAGE])
            else:
                pieces = cbor(repository.chunk(entry[9], 6)) if entry.get(9) else entry.get(7) or []
                for pack_id, number, length in pieces:
                    plain = repository.chunk((pack_id, number), 2)
                    need(len(plain) == length, f"a piece of {path} has another length")
                    file.write(plain)
            need(file.tell() == entry[3], f"{path} has {file.tell()} bytes, not {entry[3]}")
        written += 1
    with open(os.path.join(target, "backup_label"), "wb") as file:
        file.write(manifest[12])
    print(f"{written} files of backup {ulid_text(manifest[0])} in {target}")


def main():
    parser = argparse.ArgumentParser(description="Reads a Seawall repository from the text of docs/FORMAT.md alone.")
    parser.add_argument("--repository", required=True, metavar="DIR")
    parser.add_argument("--key", required=True, metavar="FILE", help="restore.key")
    parser.add_argument("--cluster", default="main")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    commands.add_parser("list")
    one = commands.add_parser("object")
    one.add_argument("name")
    one.add_argument("target")
    segments = commands.add_parser("wal")
    segments.add_argument("target")
    segments.add_argument("lineage", nargs="?")
    tree = commands.add_parser("files")
    tree.add_argument("target")
    tree.add_argument("backup", nargs="?")
    options = parser.parse_args()
    try:
        repository = Repository(options.repository, options.key, options.cluster)
        if options.command == "check":
            return 4 if check(repository) else 0
        if options.command == "list":
            list_backups(repository)
        elif options.command == "object":
            envelope, header = repository.open(options.name)
            with open(options.target, "wb") as file:
                file.write(repository.frame(envelope, header))
        elif options.command == "wal":
            wal(repository, options.target, options.lineage)
        else:
            files(repository, options.target, options.backup)
        return 0
    except Damaged as error:
        print(f"damaged: {error}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
