"""Token files as nanoGPT and llm.c write them; the layout of both is spelt out here."""

import json

import numpy as np
import pytest

from gpt_lightning.data.tokens import bins
from gpt_lightning.data.tokens.bins import find_bins, open_bins
from gpt_lightning.errors import UserError


def nanogpt(path, tokens) -> None:
    """As data/openwebtext/prepare.py: numpy's uint16, nothing else."""
    np.array(tokens, dtype=np.uint16).tofile(path)


def llm_c(path, tokens, model="gpt-2") -> None:
    """As dev/data/data_common.py: 256 int32 with magic number, version and count, then the tokens."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = {"gpt-2": (20240520, 1), "llama-3": (20240801, 7)}[model] + (len(tokens),)
    kind = np.uint16 if model == "gpt-2" else np.uint32
    path.write_bytes(header.tobytes() + np.array(tokens, dtype=kind).tobytes())


def opened(spec, tmp_path, n_ids=50257):
    tokens, identity = open_bins(find_bins(str(spec)), n_ids, tmp_path / "data" / "tokens")
    return {split: (part[:].tolist()) for split, part in tokens.items()}, identity


def test_nanogpt_validates_and_tests_on_one_file(tmp_path):
    nanogpt(tmp_path / "train.bin", range(50000, 50257))
    nanogpt(tmp_path / "val.bin", [1, 2, 3])
    (tmp_path / "meta.pkl").write_bytes(b"not read")
    tokens, identity = opened(tmp_path, tmp_path)
    assert tokens == {"train": list(range(50000, 50257)), "val": [1, 2, 3], "test": [1, 2, 3]}
    assert (identity["corpus"], identity["tokens"]) == (tmp_path.name, 257)


def test_shards_of_llm_c_are_read_in_the_order_of_their_names(tmp_path):
    for number in (2, 1, 3):
        llm_c(tmp_path / f"edu_fineweb_train_{number:06d}.bin", [number] * 300)
    llm_c(tmp_path / "edu_fineweb_val_000000.bin", [9])
    llm_c(tmp_path / "other_test.bin", [7, 7])
    assert opened(tmp_path / "edu_fineweb_*.bin", tmp_path)[0] == {
        "train": [1] * 300 + [2] * 300 + [3] * 300,
        "val": [9],
        "test": [9],
    }
    assert opened(tmp_path, tmp_path)[0]["test"] == [7, 7]


def test_llama_3_has_four_bytes_a_token(tmp_path):
    llm_c(tmp_path / "train.bin", [128_000] * 400, "llama-3")
    llm_c(tmp_path / "val.bin", [], "llama-3")
    assert opened(tmp_path, tmp_path, 200_019)[0] == {"train": [128_000] * 400, "val": [], "test": []}


def test_a_directory_without_such_files_is_a_corpus_like_any_other(tmp_path):
    (tmp_path / "train.txt").touch()
    (tmp_path / "some.bin").touch()
    assert [find_bins(str(spec)) for spec in (tmp_path, tmp_path / "*.txt", tmp_path / "nothing", "pydoc")] == [
        None
    ] * 4


def test_without_a_file_to_validate_on_nothing_begins(tmp_path):
    nanogpt(tmp_path / "train.bin", [1, 2])
    with pytest.raises(UserError, match=r"has train\.bin but no \.bin file with 'val' in its name"):
        find_bins(str(tmp_path))


def test_an_id_that_the_tokenizer_has_not_is_named_each_time(tmp_path):
    nanogpt(tmp_path / "train.bin", [1, 256, 2])
    nanogpt(tmp_path / "val.bin", [1, 2])
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"train\.bin has the token id 256, but the tokenizer has only 256 ids: set"
        ):
            opened(tmp_path, tmp_path, 256)
    assert opened(tmp_path, tmp_path, 257)[0]["train"] == [1, 256, 2]


@pytest.mark.parametrize(("change", "relation"), [(-2, "shorter"), (4, "longer")])
def test_a_file_of_another_length_than_its_header_says_is_named(tmp_path, change, relation):
    llm_c(tmp_path / "train.bin", range(1000))
    llm_c(tmp_path / "val.bin", range(10))
    written = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(written[:change] if change < 0 else written + b"\0" * change)
    with pytest.raises(UserError, match=rf"train\.bin is {relation} than the 1,000 tokens that its header says"):
        opened(tmp_path, tmp_path)


def test_half_a_token_is_refused(tmp_path):
    (tmp_path / "train.bin").write_bytes(b"abc")
    nanogpt(tmp_path / "val.bin", [1])
    with pytest.raises(UserError, match=r"train\.bin is no file of uint16 tokens: its 3 bytes"):
        opened(tmp_path, tmp_path)


def test_files_are_looked_through_once_and_again_when_they_changed(tmp_path, monkeypatch):
    nanogpt(tmp_path / "train.bin", [1, 2, 3])
    nanogpt(tmp_path / "val.bin", [4])
    first = opened(tmp_path, tmp_path)[1]
    looked = []
    look = bins._largest_and_crc32
    monkeypatch.setattr(bins, "_largest_and_crc32", lambda *args: looked.append(args) or look(*args))
    assert opened(tmp_path, tmp_path)[1] == first
    assert not looked
    nanogpt(tmp_path / "train.bin", [1, 2, 5])
    assert opened(tmp_path, tmp_path)[1] != first
    assert [path.name for _, path in looked] == ["train.bin"]


@pytest.mark.parametrize("content", ["{", "[]", "5", '{"x": 5}', None])
def test_what_is_wrongly_remembered_does_no_harm(tmp_path, content):
    nanogpt(tmp_path / "train.bin", [1, 2, 3])
    nanogpt(tmp_path / "val.bin", [4])
    first = opened(tmp_path, tmp_path)
    cache = tmp_path / "data" / "tokens" / "checked_bins.json"
    cache.write_text(content or json.dumps({str(tmp_path / "train.bin"): [None, 0, 0]}))
    assert opened(tmp_path, tmp_path) == first
