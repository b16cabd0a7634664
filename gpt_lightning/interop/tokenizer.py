"""The tokenizer beside a network's weights: in our own file, or in Hugging Face's if it is of GPT-2's kind."""

import json
from pathlib import Path
from typing import Any

import tiktoken
import torch

from gpt_lightning.data.tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    checked_encoding,
    tokenizer_from_state,
    tokenizer_state,
)
from gpt_lightning.data.tokens.bpe import byte_of_character
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.interop.network_files import read_json

OURS = "gpt_lightning_tokenizer.json"


def save_tokenizer(encoding: tiktoken.Encoding, directory: Path) -> Path:
    """Write a tokenizer for `find_tokenizer` to read; `transformers` ignores the file."""
    state = tokenizer_state(encoding)
    state["ranks"] = state["ranks"].numpy().tobytes().decode()
    with atomic_file(directory / OURS) as file:
        file.write(json.dumps(state).encode())
    return directory / OURS


def find_tokenizer(directory: Path) -> tiktoken.Encoding | None:
    """The tokenizer that a directory holds, or None.

    Raises:
        UserError: it is damaged, or not byte-level BPE like GPT-2's.
    """
    try:
        if (directory / OURS).is_file():
            state = read_json(directory / OURS)
            ranks = torch.frombuffer(bytearray(state["ranks"].encode()), dtype=torch.uint8)
            return tokenizer_from_state(state | {"ranks": ranks})
        if (directory / "tokenizer.json").is_file():
            return _from_tokenizer_json(read_json(directory / "tokenizer.json"))
        if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            merges = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [line for line in merges if line and not line.startswith("#version")]
            return _from_vocabulary(read_json(directory / "vocab.json"), merges, {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The tokenizer in {directory} is not GPT-2's kind of byte-level BPE: {error}.") from error
    return None


def _from_tokenizer_json(content: dict[str, Any]) -> tiktoken.Encoding:
    model, splitting = content["model"], content["pre_tokenizer"]
    gpt2s = model["type"] == "BPE" and splitting.get("type") == "ByteLevel"
    if not gpt2s or splitting.get("add_prefix_space") is not False or splitting.get("use_regex") is False:
        raise ValueError("it splits text in another way")
    if content.get("normalizer") is not None:
        raise ValueError("it changes the text")
    special = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    return _from_vocabulary(model["vocab"], model["merges"], special)


def _from_vocabulary(vocabulary: dict[str, int], merges: list, special: dict[str, int]) -> tiktoken.Encoding:
    """A tokenizer from GPT-2's files, which write each byte as a printable character.

    Their merges are in the order in which they are made. tiktoken goes by the ids, which have to rise in that order.
    """
    if END_OF_TEXT in vocabulary:
        special = {END_OF_TEXT: vocabulary[END_OF_TEXT]} | special
    byte = byte_of_character()
    ranks = {bytes(byte[c] for c in token): i for token, i in vocabulary.items() if token not in special}
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    order = [vocabulary["".join(pair)] for pair in pairs]
    if order != sorted(order):
        raise ValueError("its ids are not in the order of its merges")
    return checked_encoding("huggingface", GPT2_PATTERN, ranks, special)
