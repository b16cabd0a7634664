"""Datasets as the library `datasets` streams them, from local directories: there is no network here."""

import json
import sys

import pytest

from gpt_lightning.data.text import hf
from gpt_lightning.errors import UserError


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes a dataset of JSON lines by split."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))

    def write(key="text", **splits) -> hf.Dataset:
        folder = tmp_path / "dataset"
        folder.mkdir(exist_ok=True)
        for split, texts in splits.items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
        return hf.parse(f"hf:{folder}")

    return write


def test_names_have_a_configuration_or_none():
    assert hf.parse("hf:HuggingFaceFW/fineweb-edu") == hf.Dataset("HuggingFaceFW/fineweb-edu", None)
    assert hf.parse("hf:wikimedia/wikipedia:20231101.en") == hf.Dataset("wikimedia/wikipedia", "20231101.en")
    with pytest.raises(UserError, match="Corpus 'hf:' names no dataset"):
        hf.parse("hf:")


def test_of_a_hundred_documents_one_is_for_validation_and_one_for_the_test(make):
    dataset = make(train=[f"document {i}" for i in range(250)])
    placed = list(hf.read_dataset(dataset, "text", None, None))
    assert [(number, text) for _, number, text in placed] == [(i, f"document {i}".encode()) for i in range(250)]
    assert [number for split, number, _ in placed if split == 1] == [98, 198]
    assert [number for split, number, _ in placed if split == 2] == [99, 199]


def test_shares_are_the_users(make):
    dataset = make(train=["x"] * 100, validation=["v"])
    splits = [split for split, _, _ in hf.read_dataset(dataset, "text", (80, 0, 20), None)]
    assert splits == [0] * 80 + [2] * 20


def test_held_out_documents_of_its_own_are_kept(make):
    dataset = make(train=["one", "two"], validation=["three"], test=["four", "five"])
    assert list(hf.read_dataset(dataset, "text", None, None)) == [
        (0, 0, b"one"),
        (0, 1, b"two"),
        (1, 0, b"three"),
        (2, 0, b"four"),
        (2, 1, b"five"),
    ]


def test_one_held_out_split_stands_for_both(make):
    dataset = make(train=["one"], test=["two"])
    assert list(hf.read_dataset(dataset, "text", None, None)) == [(0, 0, b"one"), (1, 0, b"two")]


def test_the_document_that_reaches_the_limit_is_the_last(make):
    dataset = make(train=["12345"] * 10)
    assert [len(list(hf.read_dataset(dataset, "text", None, n))) for n in (1, 5, 6, 49, 50, 500)] == [
        1,
        1,
        2,
        10,
        10,
        10,
    ]


def test_what_is_no_text_is_named(make):
    with pytest.raises(UserError, match=r"Record 0 of train in .* has no text under 'text', only 'body'"):
        list(hf.read_dataset(make("body", train=["x"]), "text", None, None))


def test_what_cannot_be_had_is_said(make, tmp_path):
    make(validation=["x"])
    with pytest.raises(UserError, match="has no split 'train', only 'validation'"):
        list(hf.read_dataset(hf.parse(f"hf:{tmp_path}/dataset"), "text", None, None))
    with pytest.raises(UserError, match=r"Dataset .*/nothing could not be read .*start again"):
        list(hf.read_dataset(hf.parse(f"hf:{tmp_path}/nothing"), "text", None, None))


def test_without_datasets_the_command_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"streamed by Hugging Face's datasets: pip install -r requirements-data\.txt"):
        list(hf.read_dataset(hf.parse("hf:owner/name"), "text", None, None))
