"""Small corpora, tokenizers and processes for the data tests; nothing here needs a network."""

import base64
import multiprocessing
import os
import random
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from gpt_lightning.data.text.corpora import read_corpus
from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.errors import UserError


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, where the tests are told of one."""
    if "GPT_LIGHTNING_SHARED" not in os.environ:
        pytest.skip("GPT_LIGHTNING_SHARED is not set")
    return Path(os.environ["GPT_LIGHTNING_SHARED"])


@pytest.fixture(scope="session")
def gpt2(shared):
    with pytest.MonkeyPatch.context() as monkeypatch:
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


@pytest.fixture(scope="session")
def bpe(ranks_file):
    return load_tokenizer(str(ranks_file))


@pytest.fixture
def start():
    """Starts processes that run a function of a pipe, whose other end the test gets; ends those that are left."""
    # Forked, they need not import torch and Lightning again, which takes seconds each.
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    context, processes = multiprocessing.get_context("fork"), []

    def start_process(function, *args) -> tuple[multiprocessing.Process, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=function, args=(theirs, *args))
        process.start()
        theirs.close()  # so that reading from a process that died raises EOFError
        processes.append(process)
        return process, ours

    yield start_process
    for process in processes:
        process.kill()
        process.join()


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


@pytest.fixture
def never_waits():
    """Fails a test that hangs, as one does that opens a pipe to which nobody writes."""

    def fail(*args):
        raise AssertionError("still waiting after a minute")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def documents(corpus) -> list[bytes]:
    """The documents of a corpus, which must be numbered without gaps."""
    texts: dict[int, bytes] = {}
    for document, block in read_corpus(corpus):
        texts[document] = texts.get(document, b"") + block
    assert list(texts) == list(range(len(texts)))
    return list(texts.values())


def peak_memory() -> float:
    """The most memory that this process has taken so far, in MB."""
    resource = pytest.importorskip("resource")  # not on Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes on a Mac, kilobytes on Linux


def with_files_of_at_most(size: int, pipe: Connection, function, *args) -> None:
    """Sends what a user is told if the disk has room for `size` bytes in a file; for a process of `start`."""
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # Python ignores the signal: writing fails with EFBIG
    try:
        pipe.send(function(*args))
    except UserError as error:
        pipe.send(str(error))
