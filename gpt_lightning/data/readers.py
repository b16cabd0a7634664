"""Bytes out of text files, plain, packed (.gz, .bz2, .zip) or of records (JSON lines, Parquet), in blocks.

So memory does not grow with the file. It knows nothing of corpora, downloads or tokens.
"""

import bz2
import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from gpt_lightning.data.records import PARQUET, has_records, read_records
from gpt_lightning.errors import UserError

BLOCK_BYTES = 1 << 20
PACKED_SUFFIXES = (".gz", ".bz2", ".zip", PARQUET)
# An archive may unpack to so many times its size and so much more: text packs to a tenth, bombs to a thousandth.
MAX_EXPANSION = 200
EXPANSION_ALLOWED_BYTES = 100_000_000

# One document is one plain file, one member of a zip archive or one record; a block never spans two documents.
Blocks = Iterator[tuple[int, bytes]]


def read_blocks(path: Path, text_key: str = "text") -> Blocks:
    """Streams a file as (document number, block of at most `BLOCK_BYTES` bytes); an empty document yields nothing.

    Nothing is ever unpacked to the disk, and no more than a block or a record to memory.

    Args:
        path: The file.
        text_key: Where the text is in a record of JSON lines or Parquet.

    Raises:
        UserError: the file cannot be read, or is a damaged, truncated or encrypted archive or a decompression bomb, or
            a record has no text.
    """
    size = 0
    try:
        limit = path.stat().st_size * MAX_EXPANSION + EXPANSION_ALLOWED_BYTES
        for number, block in _records(path, text_key) if has_records(path) else _documents(path):
            size += len(block)
            if size > limit and path.suffix.lower() in PACKED_SUFFIXES:
                raise UserError(
                    f"{path} unpacks to more than {limit / 1e6:,.0f} MB, which a text hardly does: if it is meant to, "
                    "unpack it by hand and train on that"
                )
            yield number, block
    # zipfile says RuntimeError to an encrypted member, NotImplementedError, its subclass, to an unknown compression;
    # ValueError, struct.error or OverflowError to nonsense in the directory of an archive.
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        OverflowError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f"{path} is damaged or cannot be read ({error}): replace it or take it out of the corpus"
        ) from error


def _records(path: Path, text_key: str) -> Blocks:
    for number, text in enumerate(read_records(path, text_key)):
        for start in range(0, len(text), BLOCK_BYTES):
            yield number, text[start : start + BLOCK_BYTES]


def _documents(path: Path) -> Blocks:
    if path.suffix.lower() != ".zip":
        opener = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix.lower(), open)
        with opener(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield 0, block
        return
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        _check_members(members)
        for number, member in enumerate(members):
            size = 0
            with archive.open(member) as file:
                while block := file.read(BLOCK_BYTES):
                    size += len(block)
                    yield number, block
            if size != member.file_size:
                raise zipfile.BadZipFile(f"{member.filename!r} has {size} bytes, not {member.file_size}")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        # zipfile unpacks the others, bzip2 and LZMA, without a limit to the memory it takes.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError(f"{member.filename!r} is neither stored nor deflated: unpack it by hand")
    ordered = sorted(members, key=lambda member: member.header_offset)
    for one, following in pairwise(ordered):
        if one.header_offset + one.compress_size > following.header_offset:
            raise zipfile.BadZipFile(f"{one.filename!r} and {following.filename!r} overlap")


class Fingerprint:
    """Hash and size in bytes of a stream of documents; where one document ends and the next begins counts too."""

    def __init__(self, algorithm: str) -> None:
        self._hasher, self._document, self.size = hashlib.new(algorithm), 0, 0

    def reading(self, blocks: Iterable[tuple[int, bytes]]) -> Blocks:
        """The same blocks, which are added as they pass."""
        for document, block in blocks:
            if document != self._document:
                self._hasher.update(f"<document {document}>".encode())
                self._document = document
            self._hasher.update(block)
            self.size += len(block)
            yield document, block

    @property
    def digest(self) -> str:
        """In hexadecimal; of a single document that is the hash of its bytes."""
        return self._hasher.hexdigest()


def fingerprint(blocks: Iterable[tuple[int, bytes]], algorithm: str = "sha256") -> tuple[str, int]:
    """Digest and size of a whole stream, as `Fingerprint` has them, with a progress bar."""
    whole = Fingerprint(algorithm)
    with tqdm(desc="reading the text", unit="B", unit_scale=True, delay=2) as bar:
        for _, block in whole.reading(blocks):
            bar.update(len(block))
    return whole.digest, whole.size
