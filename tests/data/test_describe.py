"""A corpus described: every figure against one counted by hand."""

import sys

import numpy as np
import pytest

from gpt_lightning.data import describe as module
from gpt_lightning.data.describe import SEQUENCE, describe, main, sequence_hashes
from gpt_lightning.data.tokenizer import load_tokenizer


@pytest.fixture(params=[1 << 22, 64, SEQUENCE, 7])
def chunks(request, monkeypatch):
    """However the text is cut, nothing changes."""
    monkeypatch.setattr(module, "CHUNK_TOKENS", request.param)


def test_equal_sequences_and_no_others_have_equal_hashes():
    tokens = np.random.default_rng(0).integers(0, 3, 2000).astype(np.uint16)
    windows = [bytes(tokens[i : i + 4].astype(np.uint8)) for i in range(len(tokens) - 3)]
    hashes = sequence_hashes(tokens, 4, 1)
    assert len(hashes) == len(windows)
    assert len({(w, h) for w, h in zip(windows, hashes.tolist(), strict=True)}) == len(set(windows))
    assert len(set(hashes.tolist())) == len(set(windows))
    assert sequence_hashes(tokens, 4, 4).tolist() == hashes[::4].tolist()
    assert len(sequence_hashes(tokens[:3], 4, 1)) == 0


def test_what_is_counted(chunks):
    rng = np.random.default_rng(0)
    train, val, test = (rng.integers(97, 123, n).astype(np.uint16) for n in (1000, 160, 100))
    val[32:64] = train[501:533]  # where no chunk begins
    test[64:96] = train[968:]  # the very end
    train[0] = train[1] = 10
    figures = describe({"train": train, "val": val, "test": test}, load_tokenizer("bytes"))
    assert figures.tokens == figures.bytes == {"train": 1000, "val": 160, "test": 100}
    assert figures.counts.tolist() == np.bincount(np.concatenate([train, val, test]), minlength=256).tolist()
    assert figures.sequences == {"val": 5, "test": 3}
    assert figures.seen == {"val": 1, "test": 1}


def test_an_empty_split_is_no_division_by_zero():
    empty = np.zeros(0, np.uint16)
    splits = {"train": np.full(50, 97, np.uint16), "val": empty, "test": empty}
    encoding = load_tokenizer("bytes")
    assert "0 of 0 sequences" in module.table(describe(splits, encoding), encoding, "title")


def test_the_command_prints_a_table(tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\n" * 200)
    monkeypatch.setattr(sys, "argv", ["describe", f"--corpus={text}", f"--data_dir={tmp_path / 'data'}"])
    main()
    printed = capsys.readouterr().out
    assert "4,600" in printed
    assert "the cat" not in printed
    assert "␣" in printed
    assert "in val occur in train, word for word (100.0%)" in printed
