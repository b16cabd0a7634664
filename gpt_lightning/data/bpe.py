"""Byte-level BPE (Sennrich et al. 2016; on bytes Radford et al. 2019) learnt from a text, as ranks for tiktoken.

Hugging Face's `tokenizers` counts and merges; nothing of it is needed afterwards.
"""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpt_lightning.data.records import INSTALL
from gpt_lightning.errors import UserError

SAMPLE_BYTES = 1 << 28  # of text at most: more changes hardly a merge, and words that occur once take memory


def train_ranks(pieces: Iterable[bytes], vocabulary: int) -> dict[bytes, int]:
    """Learn byte-level BPE.

    Args:
        pieces: Of the text, in order. Bytes that are no UTF-8 teach nothing: they remain single bytes.
        vocabulary: Tokens in all: 256 bytes, merges, and one, the last, that is left for the end of a text.

    Returns:
        Bytes of each token → its rank: the 256 bytes are their own ranks, merges follow as they were learnt.

    Raises:
        UserError: `tokenizers` is not installed, or the text has too few merges.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError as error:
        raise UserError(f"a tokenizer is learnt by Hugging Face's tokenizers: {INSTALL}") from error
    learner = Tokenizer(models.BPE())
    # GPT-2's pattern: words, numbers and the rest, which no merge crosses.
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator((piece.decode(errors="ignore") for piece in pieces), trainer)
    to_byte = byte_of_character()
    tokens = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    merged = [bytes(to_byte[character] for character in token) for token, _ in tokens if len(token) > 1]
    if 256 + len(merged) < vocabulary - 1:
        most = 256 + len(merged) + 1
        raise UserError(
            f"the training text has too few repeated words to learn {vocabulary:,} tokens from: set --data.tokenizer "
            f"bpe:{most} or less, or take more text"
        )
    return {bytes([byte]): byte for byte in range(256)} | {token: 256 + n for n, token in enumerate(merged)}


def sample(pieces: Iterable[bytes], total_bytes: int, limit: int) -> Iterator[bytes]:
    """Pieces spread evenly over a text, together no more than `limit` bytes: all of them if the text has no more."""
    seen = taken = 0
    for piece in pieces:
        seen += len(piece)
        # Taken if what has been taken so far falls behind the share of the text that has passed by.
        if taken + len(piece) <= limit * min(1, seen / total_bytes) or total_bytes <= limit:
            taken += len(piece)
            yield piece


def write_ranks(ranks: dict[bytes, int], path: Path) -> None:
    """Write ranks as tiktoken reads them, lines of `base64 rank`."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    path.write_text("".join(lines))


def byte_of_character() -> dict[str, int]:
    """As in GPT-2's encoder.py: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
