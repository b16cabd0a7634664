"""Text as a stream of blocks of bytes, each with the number of its document: memory does not grow with the file.

Nothing here knows of formats, corpora, downloads or tokens.
"""

import bz2
import gzip
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

BLOCK_BYTES = 1 << 20
PACKINGS = {".gz": gzip.open, ".bz2": bz2.open}

# A block never spans two documents.
Blocks = Iterator[tuple[int, bytes]]


def open_unpacked(path: Path) -> BinaryIO:
    """A file to read, unpacked as it is read if its name ends in .gz or .bz2."""
    return PACKINGS.get(path.suffix.lower(), open)(path, "rb")


def blocks_of_file(file: BinaryIO) -> Blocks:
    """All of a file, as one document."""
    while block := file.read(BLOCK_BYTES):
        yield 0, block


def blocks_of_texts(texts: Iterable[str | None]) -> Blocks:
    """Each text as a document in UTF-8, without empty ones and None."""
    for number, text in enumerate(text for text in texts if text):
        document = text.encode("utf-8", "replace")  # JSON can hold half a surrogate pair, UTF-8 cannot
        for start in range(0, len(document), BLOCK_BYTES):
            yield number, document[start : start + BLOCK_BYTES]


class Fingerprint:
    """Hash and size in bytes of a stream of documents. The hash depends on where documents end, too."""

    def __init__(self, algorithm: str) -> None:
        self._hasher, self._document, self.size = hashlib.new(algorithm), 0, 0

    def reading(self, blocks: Iterable[tuple[int, bytes]]) -> Blocks:
        """Passes blocks on unchanged and adds each to the hash."""
        for document, block in blocks:
            if document != self._document:
                self._hasher.update(f"<document {document}>".encode())
                self._document = document
            self._hasher.update(block)
            self.size += len(block)
            yield document, block

    @property
    def digest(self) -> str:
        """In hexadecimal; for a single document, the plain hash of its bytes."""
        return self._hasher.hexdigest()


def fingerprint(blocks: Iterable[tuple[int, bytes]], algorithm: str = "sha256") -> tuple[str, int]:
    """Digest and size of an entire stream, read under a progress bar."""
    total = Fingerprint(algorithm)
    with tqdm(desc="reading the text", unit="B", unit_scale=True, delay=2) as bar:
        for _, block in total.reading(blocks):
            bar.update(len(block))
    return total.digest, total.size
