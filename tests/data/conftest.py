"""Small corpora and tokenizers for the data tests; nothing here needs a network."""

import base64
import os
import random
from pathlib import Path

import pytest

from gpt_lightning.data.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, where the tests are told of one."""
    if "GPT_LIGHTNING_SHARED" not in os.environ:
        pytest.skip("GPT_LIGHTNING_SHARED is not set")
    return Path(os.environ["GPT_LIGHTNING_SHARED"])


@pytest.fixture
def gpt2(shared, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    return load_tokenizer("gpt2")


@pytest.fixture(scope="session")
def ranks_file(tmp_path_factory) -> Path:
    """All bytes in reverse order, so that no id is its byte, and a few merges."""
    merges = [b"th", b"the", b" t", b" the", b"in", b"ing", b"  ", b"\xc3\xa9", b"\n\n", b"er", b" a", b"an", b"<|"]
    pieces = [bytes([byte]) for byte in reversed(range(256))] + merges
    path = tmp_path_factory.mktemp("ranks") / "small.tiktoken"
    path.write_text("".join(f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces)))
    return path


@pytest.fixture
def bpe(ranks_file):
    return load_tokenizer(str(ranks_file))


def make_text(size: int, seed: int = 0) -> bytes:
    """Words, numbers, blank lines, runs of spaces, accents, CJK, the text of a special token and broken UTF-8."""
    words = [
        b"the",
        b"thing",
        b"ein",
        b"caf\xc3\xa9",
        b"42",
        b"don't",
        b"<|endoftext|>",
        "漢字、".encode(),
        b"a_b",
        b"!?",
    ]
    gaps = [b" "] * 12 + [b"\n", b"\n\n", b"   ", b"\t", b" \n ", b"\xff", b"\xc3 ", "\u3000".encode(), b"\r\n"]
    generator = random.Random(seed)
    text = bytearray()
    while len(text) < size:
        text += generator.choice(words) + generator.choice(gaps)
    return bytes(text[:size])
