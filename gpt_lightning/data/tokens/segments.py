"""Cuts a stream of text into pieces that, tokenised one by one, give the tokens of the uncut text.

Where they are cut depends on the text alone: the tokens depend neither on the number of cores nor on sizes of reads.
"""

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gpt_lightning.errors import UserError

SEGMENT_BYTES = 1 << 19
CORPUS_CHANGED = "The corpus changed while it was being read: start again."

# The last place between an ASCII letter or digit and a space or newline. Cutting there is safe for the patterns of
# GPT-2, cl100k and o200k: none of their alternatives has white space after a letter or a digit, so a match in the uncut
# text ends there anyway; none looks behind, so what follows matches the same; and what precedes ends in no white space,
# so the look-ahead of `\s+(?!\S)` and the `$` of `\s++$` see the same. Both bytes are ASCII: no character is cut.
_SAFE_CUT = re.compile(rb".*[A-Za-z0-9](?=[ \n])", re.DOTALL)


# (index of the split, document number, bytes)
Placed = tuple[int, int, bytes]


@dataclass(frozen=True)
class Pack:
    """Pieces of one split that are tokenised together: many small documents, or a part of a large one."""

    split: int
    pieces: list[tuple[bool, bytes]]  # whether it begins a document, and its text

    @property
    def documents(self) -> int:
        """How many documents begin in it."""
        return sum(begins for begins, _ in self.pieces)

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(text) for _, text in self.pieces)


def by_bytes(blocks: Iterable[tuple[int, bytes]], split_ends: Sequence[int]) -> Iterator[Placed]:
    """Gives each block of a document its split, and cuts a block that reaches into the next.

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
            taken = block[: split_ends[split] - position]
            yield split, document, taken
            position += len(taken)
            block = block[len(taken) :]
    if position < split_ends[-1]:
        raise UserError(CORPUS_CHANGED)


def segments(blocks: Iterable[Placed]) -> Iterator[Placed]:
    """Regroups blocks into pieces of at most `SEGMENT_BYTES`, none of which spans two documents or splits."""
    buffer, place = bytearray(), (0, 0)
    for split, document, block in blocks:
        if (split, document) != place:
            if buffer:
                yield *place, bytes(buffer)
            buffer, place = bytearray(), (split, document)
        buffer += block
        while len(buffer) >= SEGMENT_BYTES:
            cut = last_cut(bytes(buffer[:SEGMENT_BYTES]))
            yield *place, bytes(buffer[:cut])
            del buffer[:cut]
    if buffer:
        yield *place, bytes(buffer)


def packs(pieces: Iterable[Placed]) -> Iterator[Pack]:
    """Gathers the pieces of each split, in order, up to `SEGMENT_BYTES`: handing documents of a hundred bytes to
    another thread one by one would take longer than tokenising them."""
    gathered: dict[int, list[tuple[bool, bytes]]] = {}
    sizes: dict[int, int] = {}
    previous = None
    for split, document, text in pieces:
        if sizes.get(split, 0) + len(text) > SEGMENT_BYTES and split in gathered:
            yield Pack(split, gathered.pop(split))
            sizes[split] = 0
        gathered.setdefault(split, []).append(((split, document) != previous, text))
        sizes[split] = sizes.get(split, 0) + len(text)
        previous = (split, document)
    for split in sorted(gathered):
        yield Pack(split, gathered[split])


def last_cut(window: bytes) -> int:
    """The last position in `window` where a cut changes no token; if there is none, where its last character begins."""
    if match := _SAFE_CUT.match(window):
        return match.end()
    # A character is at most 4 bytes, and all but its first are 10xxxxxx.
    starts = (cut for cut in range(len(window) - 1, len(window) - 5, -1) if window[cut] & 0xC0 != 0x80)
    return next(starts, len(window))
