"""Bytes out of text files, plain or packed (.gz, .bz2, .zip), in blocks, so that memory does not grow with the file.

It knows nothing of corpora, downloads or tokens.
"""

import bz2
import gzip
import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from gpt_lightning.errors import UserError

BLOCK_BYTES = 1 << 20
PACKED_SUFFIXES = (".gz", ".bz2", ".zip")

# One document is one plain file or one member of a zip archive; a block never spans two documents.
Blocks = Iterator[tuple[int, bytes]]


def read_blocks(path: Path) -> Blocks:
    """Streams a file as (document number, block of at most `BLOCK_BYTES` bytes); an empty document yields nothing.

    Raises:
        UserError: the file cannot be read, or is a damaged, truncated or encrypted archive.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = sorted(archive.infolist(), key=lambda member: member.filename)
                for number, member in enumerate(members):
                    with archive.open(member) as file:
                        yield from _read_document(file, number)
        else:
            opener = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix.lower(), open)
            with opener(path, "rb") as file:
                yield from _read_document(file, 0)
    # zipfile says RuntimeError to an encrypted member and NotImplementedError, its subclass, to an unknown compression.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"{path} is damaged or cannot be read ({error}): replace it or take it out of the corpus"
        ) from error


def _read_document(file: BinaryIO, number: int) -> Blocks:
    while block := file.read(BLOCK_BYTES):
        yield number, block


def fingerprint(blocks: Iterable[tuple[int, bytes]], algorithm: str = "sha256") -> tuple[str, int]:
    """Hash and size of a stream of documents, with a progress bar.

    The hash of a single document is that of its bytes; where one document ends and the next begins counts too.

    Returns:
        The digest in hexadecimal and the number of bytes.
    """
    hasher = hashlib.new(algorithm)
    current, size = 0, 0
    with tqdm(desc="reading the text", unit="B", unit_scale=True, delay=2) as bar:
        for document, block in blocks:
            if document != current:
                hasher.update(f"<document {document}>".encode())
                current = document
            hasher.update(block)
            size += len(block)
            bar.update(len(block))
    return hasher.hexdigest(), size
