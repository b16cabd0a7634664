"""Cutting a text changes no token of it."""

import random

import numpy as np
import pytest

from gpt_lightning.data.tokenizer import encode_bytes
from gpt_lightning.data.tokens import segments as module
from gpt_lightning.data.tokens.segments import Pack, by_bytes, last_cut, packs, segments
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text

CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)


def in_blocks(data: bytes, size: int, document: int = 0):
    return ((document, data[start : start + size]) for start in range(0, len(data), size))


@pytest.mark.parametrize("which", ["bpe", "gpt2", "cl100k's pattern"])
@pytest.mark.parametrize("seed", range(3))
def test_pieces_have_the_tokens_of_the_uncut_text(which, seed, request, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 512)
    encoding = request.getfixturevalue("gpt2" if which == "gpt2" else "bpe")
    if which == "cl100k's pattern":
        encoding = type(encoding)(
            "cl100k", pat_str=CL100K_PATTERN, mergeable_ranks=encoding._mergeable_ranks, special_tokens={}
        )
    data = make_text(60_000, seed)
    pieces = [piece for _, _, piece in segments(by_bytes(in_blocks(data, 1000), [len(data)]))]
    assert len(pieces) > 100
    assert all(piece[-1:].isalnum() for piece in pieces[:-1])  # no hard cut, which may change a token
    assert b"".join(pieces) == data
    assert np.concatenate([encode_bytes(encoding, p) for p in pieces]).tolist() == encode_bytes(encoding, data).tolist()


def test_pieces_do_not_depend_on_how_the_text_was_read(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    data = make_text(10_000)
    assert (
        len({tuple(segments(by_bytes(in_blocks(data, size), [5000, 10_000]))) for size in (7, 64, 100, 1000, 10_000)})
        == 1
    )


def test_text_without_a_safe_place_is_cut_between_characters(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    data = "漢字é😀".encode() * 200
    pieces = [piece for _, _, piece in segments(by_bytes(in_blocks(data, 333), [len(data)]))]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 100
    for piece in pieces:
        piece.decode()  # raises if a character was cut


def test_a_cut_always_makes_progress():
    generator = random.Random(0)
    for _ in range(200):
        assert 0 < last_cut(generator.randbytes(40)) <= 40
    assert last_cut(b"\x80" * 40) == 40
    assert last_cut(b"no place here but" + b"!" * 50) == len("no place here")


def test_pieces_span_neither_splits_nor_documents():
    blocks = [(0, b"aaaa"), (1, b"bb"), (2, b"cccccc")]
    assert list(segments(by_bytes(blocks, [5, 9, 12]))) == [
        (0, 0, b"aaaa"),
        (0, 1, b"b"),
        (1, 1, b"b"),
        (1, 2, b"ccc"),
        (2, 2, b"ccc"),
    ]


@pytest.mark.parametrize("size", [3, 5])
def test_a_corpus_that_changed_size_is_refused(size):
    with pytest.raises(UserError, match="changed while it was being read"):
        list(by_bytes([(0, b"four")], [size]))


def test_packs_gather_small_documents_of_each_split_and_keep_their_order(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 6)
    pieces = [(0, 0, b"aa"), (0, 1, b"bbb"), (1, 2, b"c"), (0, 3, b"dddddd"), (0, 3, b"dd"), (1, 4, b"e"), (0, 5, b"f")]
    assert list(packs(pieces)) == [
        Pack(0, [(True, b"aa"), (True, b"bbb")]),
        Pack(0, [(True, b"dddddd")]),
        Pack(0, [(False, b"dd"), (True, b"f")]),
        Pack(1, [(True, b"c"), (True, b"e")]),
    ]
    assert [(pack.documents, pack.size) for pack in packs(pieces)] == [(2, 5), (1, 6), (1, 3), (2, 2)]
