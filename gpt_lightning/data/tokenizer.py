"""Tokenizers, all of one type, tiktoken.Encoding: 256 raw bytes, published vocabularies, ranks learnt from a corpus.

Here they are loaded, stored in checkpoints and applied, also to bytes that are not text. Token files are elsewhere.
"""

import base64
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import torch

from gpt_lightning.errors import UserError

END_OF_TEXT = "<|endoftext|>"
# GPT-2's pattern as in tiktoken; kept here so that a ranks file means the same with every version of tiktoken.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
GPT2_VOCABULARY_SIZE = 50257
PUBLISHED = {"gpt2": GPT2_VOCABULARY_SIZE, "cl100k_base": 100_277, "o200k_base": 200_019}  # and their numbers of ids
# Far above the largest in use, which has 200,000 ids and 4 MB. 2^32 ids would need terabytes of embeddings.
MAX_IDS = 1 << 20
MAX_RANKS_FILE_BYTES = 1 << 26
BPE_PREFIX = "bpe:"
MIN_BPE_IDS = 257


def load_tokenizer(spec: str) -> tiktoken.Encoding:
    """The tokenizer that `spec` names.

    Args:
        spec: `bytes` (256 raw bytes, no special token), `gpt2`, `cl100k_base` or `o200k_base` as published, or a file
            of tiktoken ranks (lines of `base64 rank`), which gets GPT-2's pattern and `<|endoftext|>` as its next id.
            Not `bpe:<vocabulary size>`, which must first be learnt from a corpus.

    Raises:
        UserError: no such tokenizer, a damaged ranks file, a vocabulary that cannot be downloaded, or `bpe:`.
    """
    if bpe_size(spec) is not None:
        raise UserError(
            f"Tokenizer {spec!r} is learnt from a corpus and has no ranks without one: give the ranks file that lies "
            "beside the tokens of the corpus it was learnt from."
        )
    if spec == "bytes":
        return tiktoken.Encoding(
            "bytes", pat_str=r"[\s\S]", mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
        )
    if spec in PUBLISHED:
        try:
            return tiktoken.get_encoding(spec)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The vocabulary of {spec} could not be downloaded ({error}): set TIKTOKEN_CACHE_DIR to the folder "
                f"that tiktoken.get_encoding({spec!r}) filled on a machine with a network, or use another tokenizer."
            ) from error
    ranks = _read_ranks(spec)
    return tiktoken.Encoding(
        # Goes into a directory's name, so it is short in any script.
        re.sub(r"\W+", "_", Path(spec).stem).encode()[:60].decode(errors="ignore"),
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: max(ranks.values()) + 1},
    )


def vocabulary_size(spec: str) -> int:
    """The number of token ids of the tokenizer that `spec` names, without downloading or learning it.

    Raises:
        UserError: no such tokenizer.
    """
    if (size := bpe_size(spec)) is not None:
        return size
    sizes = {"bytes": 256} | PUBLISHED
    return sizes[spec] if spec in sizes else max(_read_ranks(spec).values()) + 2


def bpe_size(spec: str) -> int | None:
    """The size of the vocabulary that `bpe:<vocabulary size>` asks for, `<|endoftext|>` included; None for other specs.

    Raises:
        UserError: `bpe:` is not followed by an integer in range.
    """
    if not spec.startswith(BPE_PREFIX):
        return None
    digits = spec.removeprefix(BPE_PREFIX)
    # No leading zeros or signs, so that each size has one spec; few digits, since Python refuses to read thousands.
    size = int(digits) if re.fullmatch("[1-9][0-9]{0,9}", digits) else 0
    if not MIN_BPE_IDS <= size <= MAX_IDS:
        raise UserError(
            f"Tokenizer {spec!r} must be bpe:<vocabulary size> with a whole number from {MIN_BPE_IDS} (every byte and "
            f"{END_OF_TEXT}) to {MAX_IDS}."
        )
    return size


def tokenizer_state(encoding: tiktoken.Encoding) -> dict[str, Any]:
    """The tokenizer as plain types for a checkpoint.

    Returns:
        name, pat_str, special_tokens (text → id), and ranks: a uint8 tensor with the text of tiktoken's ranks file.
    """
    lines = []
    for token in range(encoding.n_vocab):
        if not encoding.is_special_token(token):
            try:
                piece = encoding.decode_single_token_bytes(token)
            except KeyError:  # an unused id
                continue
            lines.append(b"%s %d\n" % (base64.b64encode(piece), token))
    return {
        "name": encoding.name,
        "pat_str": encoding._pat_str,  # private, but tiktoken's README extends an encoding this way
        "special_tokens": {text: encoding.encode_single_token(text) for text in sorted(encoding.special_tokens_set)},
        "ranks": torch.frombuffer(bytearray(b"".join(lines)), dtype=torch.uint8),
    }


def same_tokenizer(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether token ids mean the same in two tokenizers, given their `tokenizer_state`."""
    return one["special_tokens"] == other["special_tokens"] and torch.equal(one["ranks"], other["ranks"])


def tokenizer_from_state(state: dict[str, Any]) -> tiktoken.Encoding:
    """The tokenizer that `tokenizer_state` stored.

    Raises:
        KeyError, TypeError, ValueError or AttributeError: the state is not that of a tokenizer.
    """
    ranks = _parse_ranks(state["ranks"].numpy().tobytes())
    return checked_encoding(state["name"], state["pat_str"], ranks, state["special_tokens"])


def checked_encoding(name: str, pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    """A tokenizer from parts read from a file. Most of what is refused here would make tiktoken abort the process.

    Raises:
        ValueError: an id is out of range or shared by two tokens, a byte has no id, or a name is not text.
    """
    ids = [*ranks.values(), *special.values()]
    if not all(type(i) is int and 0 <= i < MAX_IDS for i in ids) or len(set(ids)) < len(ids):
        raise ValueError("its ids are not different whole numbers")
    if not all(bytes([byte]) in ranks for byte in range(256)):
        raise ValueError("it does not give every byte an id")
    if not all(isinstance(text, str) for text in (name, pattern, *special)):
        raise ValueError("a name is no text")
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def token_byte_lengths(encoding: tiktoken.Encoding) -> torch.Tensor:
    """(vocabulary,) int64: the bytes of text in each token id, 0 for special tokens and unused ids."""
    lengths = torch.zeros(encoding.n_vocab, dtype=torch.int64)
    for piece in encoding.token_byte_values():
        lengths[encoding.encode_single_token(piece)] = len(piece)
    for text in encoding.special_tokens_set:
        lengths[encoding.encode_single_token(text)] = 0
    return lengths


def encode_bytes(encoding: tiktoken.Encoding, data: bytes) -> np.ndarray:
    """Tokens that decode to exactly `data`, whatever it is. The text of a special token is ordinary text.

    Valid UTF-8 is encoded as by tiktoken; any other byte becomes the token of that single byte.

    Returns:
        (n,) unsigned integers.
    """
    if encoding.n_vocab == 256 and _is_raw_bytes(encoding):
        return np.frombuffer(data, np.uint8)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _encode_invalid(encoding, data)
    return _encode_text(encoding, text)


@lru_cache(maxsize=8)  # the check takes longer than encoding a short text
def _is_raw_bytes(encoding: tiktoken.Encoding) -> bool:
    return all(encoding.decode_single_token_bytes(i) == bytes([i]) for i in range(256))


def _encode_invalid(encoding: tiktoken.Encoding, data: bytes) -> np.ndarray:
    # surrogateescape maps each invalid byte to one of U+DC80..U+DCFF, which no valid UTF-8 decodes to.
    parts = re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape"))
    tokens = [_encode_text(encoding, parts[0])]
    for invalid, text in zip(parts[1::2], parts[2::2], strict=True):
        singles = [encoding.encode_single_token(bytes([b])) for b in invalid.encode("utf-8", "surrogateescape")]
        tokens += [np.array(singles, np.uint32), _encode_text(encoding, text)]
    return np.concatenate(tokens)


def _encode_text(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    try:
        return encoding.encode_to_numpy(text, disallowed_special=())
    except ValueError:
        # tiktoken's regex overflows its stack on about 10^6 white spaces in a row, for which there are no right tokens.
        half = len(text) // 2
        return np.concatenate([_encode_text(encoding, text[:half]), _encode_text(encoding, text[half:])])


def _read_ranks(spec: str) -> dict[bytes, int]:
    """Reads a ranks file. tiktoken's own reader would copy it to its cache and miss later changes."""
    path, subject = Path(os.path.expanduser(spec)), f"Tokenizer {spec!r}"
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ValueError("no regular file")
        if path.stat().st_size > MAX_RANKS_FILE_BYTES:
            raise ValueError(f"larger than {MAX_RANKS_FILE_BYTES:,} bytes")
        ranks = _parse_ranks(path.read_bytes())
    except OSError as error:
        known = ", ".join(["bytes", *PUBLISHED, f"{BPE_PREFIX}<vocabulary size>"])
        raise UserError(f"{subject} is none of {known}, nor a ranks file that can be read ({error}).") from error
    except ValueError as error:
        raise UserError(f"{subject} is not a file of tiktoken ranks, lines of `base64 rank` ({error}).") from error
    if not all(bytes([byte]) in ranks for byte in range(256)) or len(set(ranks.values())) < len(ranks):
        raise UserError(f"{subject} must give every single byte a rank, and no rank twice.")
    if min(ranks.values()) < 0 or max(ranks.values()) >= MAX_IDS:
        raise UserError(f"{subject} must give ranks from 0 to {MAX_IDS - 1:,}.")
    if END_OF_TEXT.encode() in ranks:
        raise UserError(
            f"{subject} must not give {END_OF_TEXT} a rank: it becomes the special token after the last rank."
        )
    return ranks


def _parse_ranks(text: bytes) -> dict[bytes, int]:
    return {
        base64.b64decode(token, validate=True): int(rank)
        for token, rank in (line.split() for line in text.splitlines())
    }
