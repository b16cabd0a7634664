"""Cuts a stream of text into pieces that, tokenised one by one, give the tokens of the uncut text.

The cuts depend on the text alone, and so the tokens do not depend on the number of cores or the sizes of reads.
"""

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gpt_lightning.errors import UserError

SEGMENT_BYTES = 1 << 19
CORPUS_CHANGED = "The corpus changed while it was being read: start again."

# The last place between an ASCII letter or digit and a space or newline. Cutting there is safe for the patterns of
# GPT-2, cl100k and o200k: none of their alternatives has white space after a letter or a digit, so a match in the uncut
# text ends there anyway; none looks behind, so the text after the cut matches as before; and the text before it ends in
# no white space, so the look-ahead of `\s+(?!\S)` and the `$` of `\s++$` see the same. Both bytes are ASCII, so no
# character is cut.
_SAFE_CUT = re.compile(rb".*[A-Za-z0-9](?=[ \n])", re.DOTALL)

# (index of the split, document number, bytes)
SplitBlock = tuple[int, int, bytes]


@dataclass(frozen=True)
class Pack:
    """Pieces of one split that are tokenised together: many small documents, or part of a large one."""

    split: int
    pieces: list[tuple[bool, bytes]]  # whether it begins a document, and its text

    @property
    def documents(self) -> int:
        """The number of documents that begin here."""
        return sum(begins for begins, _ in self.pieces)

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(text) for _, text in self.pieces)


def by_bytes(blocks: Iterable[tuple[int, bytes]], split_ends: Sequence[int]) -> Iterator[SplitBlock]:
    """Assigns each block to a split, and cuts blocks at the end of one.

    Args:
        blocks: (document number, bytes) in order.
        split_ends: The position in bytes at which each split ends; the last is the size of the text.

    Raises:
        UserError: the blocks have more or fewer bytes than `split_ends` says.
    """
    position = 0
    for document, block in blocks:
        if position + len(block) > split_ends[-1]:
            raise UserError(CORPUS_CHANGED)
        while block:
            split = bisect.bisect_right(split_ends, position)
            part = block[: split_ends[split] - position]
            yield split, document, part
            position += len(part)
            block = block[len(part) :]
    if position < split_ends[-1]:
        raise UserError(CORPUS_CHANGED)


def segments(blocks: Iterable[SplitBlock]) -> Iterator[SplitBlock]:
    """Regroups blocks into pieces of at most `SEGMENT_BYTES`, none of which spans two documents or splits."""
    for (split, document), group in groupby(blocks, key=lambda block: block[:2]):
        buffer = bytearray()
        for _, _, block in group:
            buffer += block
            while len(buffer) >= SEGMENT_BYTES:
                cut = last_cut(bytes(buffer[:SEGMENT_BYTES]))
                yield split, document, bytes(buffer[:cut])
                del buffer[:cut]
        if buffer:
            yield split, document, bytes(buffer)


def packs(pieces: Iterable[SplitBlock]) -> Iterator[Pack]:
    """Gathers the pieces of each split, in order, into packs of at most `SEGMENT_BYTES`.

    Passing documents of a hundred bytes to another thread one by one would take longer than tokenising them.
    """
    gathered: dict[int, list[tuple[bool, bytes]]] = defaultdict(list)
    sizes = Counter()
    previous = None
    for split, document, text in pieces:
        if gathered[split] and sizes[split] + len(text) > SEGMENT_BYTES:
            yield Pack(split, gathered.pop(split))
            sizes[split] = 0
        gathered[split].append(((split, document) != previous, text))
        sizes[split] += len(text)
        previous = (split, document)
    for split in sorted(gathered):
        yield Pack(split, gathered[split])


def last_cut(window: bytes) -> int:
    """The last position in `window` where a cut changes no token; without one, where the last character begins."""
    if match := _SAFE_CUT.match(window):
        return match.end()
    # A character is at most 4 bytes, and all but its first are 10xxxxxx.
    starts = (cut for cut in range(len(window) - 1, len(window) - 5, -1) if window[cut] & 0xC0 != 0x80)
    return next(starts, len(window))
