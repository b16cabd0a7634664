"""Learns byte-level BPE from a text, with Hugging Face's `tokenizers`, and gives plain tiktoken ranks.

That library is optional: only learning needs it. tiktoken uses the ranks like any others.
"""

import base64
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from gpt_lightning.data.tokenizer import GPT2_PATTERN, bpe_size
from gpt_lightning.data.tokens.segments import last_cut
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file

# Learning takes some 80 bytes of memory for each byte of distinct words. In Chinese nearly all words are distinct, so
# that 64 MiB of text take 5 GB; in English few are. Ten million English words suffice for the commonest 50,000 tokens.
SAMPLE_BYTES = 1 << 26
# The library takes 256 texts at a time: at 16 kB each, the progress bar moves every 4 MB.
_TEXT_BYTES = 1 << 14
# Longer words, as GPT-2's pattern makes of DNA or base64, are cut: merging takes time quadratic in a word's length.
_WORD_BYTES = 256
# A pair of tokens that occurs only once in the text says nothing about other texts.
_MIN_COUNT = 2


def train_ranks(pieces: Iterable[bytes], vocabulary: int) -> dict[bytes, int]:
    """Learns byte-level BPE with GPT-2's pattern. The ranks depend on the text, not on the number of threads.

    Args:
        pieces: The training text in order, at most about `SAMPLE_BYTES` in all (see `sample`); need not be UTF-8.
        vocabulary: The number of ids; the last is left for `<|endoftext|>`.

    Returns:
        bytes → rank, `vocabulary - 1` in all: the single bytes in order, then the tokens in the order of their merges.

    Raises:
        UserError: the vocabulary is out of range or larger than the text allows, or `tokenizers` is not installed.
    """
    bpe_size(f"bpe:{vocabulary}")  # raises if out of range
    ids = _learn(pieces, vocabulary).get_vocab()
    byte = byte_of_character()
    # The library numbers its 256 characters first, in an order of its own, then the merges. Numbering them anew makes
    # sure that there is no gap.
    learnt = [bytes(byte[c] for c in token) for token in sorted(ids, key=ids.__getitem__) if len(token) > 1]
    tokens = [bytes([value]) for value in range(256)] + learnt
    if len(tokens) < vocabulary - 1:
        raise UserError(
            f"The text is too small or too uniform to learn a vocabulary of {vocabulary:,} from it: the largest "
            f"possible is --data.tokenizer bpe:{len(tokens) + 1}."
        )
    return {token: rank for rank, token in enumerate(tokens)}


def sample(pieces: Iterable[bytes], total_bytes: int, limit: int = SAMPLE_BYTES) -> Iterator[bytes]:
    """Some of the pieces, evenly spread over the text, at most `limit` bytes in all; all of them if they fit.

    Args:
        pieces: Parts of a text, each small compared with `limit`. One that is larger is left out, never cut.
        total_bytes: The size of all pieces together.
        limit: The largest size of the sample, in bytes.
    """
    seen = kept = 0
    for piece in pieces:
        # The size of the piece itself must not count in the first condition: that would favour small pieces.
        if kept * total_bytes <= seen * limit and kept + len(piece) <= limit:
            kept += len(piece)
            yield piece
        seen += len(piece)


def write_ranks(ranks: dict[bytes, int], path: Path) -> None:
    """Writes a ranks file for `load_tokenizer`, atomically.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            file.write(b"%s %d\n" % (base64.b64encode(token), rank))


def byte_of_character() -> dict[str, int]:
    """The bytes by GPT-2's characters for them (its encoder.py): themselves if printable, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _learn(pieces: Iterable[bytes], vocabulary: int):
    """A `tokenizers.Tokenizer` with at most `vocabulary - 1` tokens, spelt in the characters of `byte_of_character`."""
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    except ImportError as error:
        raise UserError(
            f"Learning the tokenizer bpe:{vocabulary} needs the package tokenizers ({error}): pip install tokenizers, "
            "or pip install -r requirements-data.txt."
        ) from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            pre_tokenizers.Split(Regex(f".{{1,{_WORD_BYTES}}}"), "isolated"),  # one character is one byte here
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        min_frequency=_MIN_COUNT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    try:
        tokenizer.train_from_iterator(_texts(pieces), trainer)
    finally:
        # Processes forked later, such as data loaders, do not inherit the library's threads. Without this, it may print
        # a warning in each of them, or hang in one that learns a tokenizer.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return tokenizer


def _texts(pieces: Iterable[bytes]) -> Iterator[str]:
    """The parts of the pieces that are UTF-8. Invalid bytes separate texts, as in `encode_bytes`: leaving one out would
    join its neighbours, and replacing it would count a character that is not there."""
    with tqdm(desc="learning the tokenizer", unit="B", unit_scale=True, delay=2) as bar:
        for piece in pieces:
            start = 0
            while start < len(piece):
                part = piece[start : start + _TEXT_BYTES]
                if start + _TEXT_BYTES < len(piece):
                    part = part[: last_cut(part)]
                start += len(part)
                yield from re.split("[\udc80-\udcff]+", part.decode("utf-8", "surrogateescape"))
                bar.update(len(part))
