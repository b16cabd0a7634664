"""Sharded preparation: what it writes does not depend on where it was killed, and finished work is not done again."""

import json
import os
import signal
import time
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest

from gpt_lightning.data.text.corpora import find_corpus
from gpt_lightning.data.tokenizer import encode_bytes, load_tokenizer
from gpt_lightning.data.tokens import segments, shards, token_files
from gpt_lightning.data.tokens.token_files import open_token_files, prepare_token_files
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)


def prepare(tmp_path, encoding, name="text.txt", where="data"):
    return prepare_token_files(find_corpus(str(tmp_path / name), tmp_path), encoding, tmp_path / where)


def contents(directory) -> dict[str, bytes]:
    """All files but the times of checking."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != token_files.CHECKED}


@pytest.mark.parametrize("which", ["bytes", "bpe"])
def test_shards_together_are_the_tokens_of_the_text(which, tmp_path, request):
    encoding = load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    text = make_text(60_000)
    (tmp_path / "text.txt").write_bytes(text)
    directory = prepare(tmp_path, encoding)
    index = json.loads((directory / "index.json").read_text())
    names = [shard["file"] for shard in index["splits"]["train"]["shards"]]
    assert names == [f"train_{number:06d}.bin" for number in range(5)]
    assert all(10_000 <= shard["bytes"] < 12_000 for shard in index["splits"]["train"]["shards"][:-1])
    assert sorted(os.listdir(directory)) == sorted(
        [
            *names,
            "val_000000.bin",
            "test_000000.bin",
            "index.json",
            "checked.json",
            *(["ranks.tiktoken"] * (which == "bpe")),
        ]
    )
    tokens = open_token_files(directory)
    assert tokens["train"][:].tolist() == encode_bytes(encoding, text[:54_000]).tolist()
    assert len(tokens["train"]) == index["splits"]["train"]["tokens"]
    assert (index["splits"]["train"]["bytes"], index["vocabulary"]) == (54_000, encoding.n_vocab)


def test_documents_are_counted_and_separated_across_packs_and_shards(tmp_path, bpe):
    texts = [make_text(size, seed).decode(errors="replace") for seed, size in enumerate([300, 5, 2500, 1, 40] * 30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    directory = prepare(tmp_path, bpe, "a.jsonl")
    tokens = open_token_files(directory)
    joined = [bpe.decode_bytes(tokens[split][:].tolist()) for split in shards.SPLITS]
    bounds = [len(part) for part in joined]
    assert b"".join(joined).replace(b"<|endoftext|>", b"") == "".join(texts).replace("<|endoftext|>", "").encode()
    index = json.loads((directory / "index.json").read_text())["splits"]
    marks = [int((tokens[split][:] == bpe.eot_token).sum()) for split in shards.SPLITS]
    assert marks == [index[split]["documents"] - 1 for split in shards.SPLITS]
    assert sum(marks) + 3 in (150, 151, 152)  # a document that is cut by the end of a split counts twice
    assert all(bounds)


def prepare_until(pipe, tmp_path, encoding, kill_at: int) -> None:
    """Prepares in a process of its own, and tells how many pieces it tokenised, unless it kills itself before one."""
    calls = []

    def counted(*args):
        calls.append(args)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode_bytes(*args)

    shards.encode_bytes = counted
    prepare(tmp_path, encoding)
    pipe.send(len(calls))


def test_a_killed_preparation_goes_on_and_writes_the_same(tmp_path, bpe, start):
    """kill -9 at three places; the last process tokenises only what was not finished."""
    (tmp_path / "text.txt").write_bytes(make_text(60_000))
    undisturbed = contents(prepare(tmp_path, bpe, where="undisturbed"))
    for kill_at in (3, 30, 25):  # before the first shard, after two, after two more
        process, _ = start(prepare_until, tmp_path, bpe, kill_at)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (partial,) = (tmp_path / "data" / "tokens").glob(".partial-*")
    noted = json.loads((partial / "progress.json").read_text())
    assert len(noted["splits"]["train"]["shards"]) >= 3
    process, pipe = start(prepare_until, tmp_path, bpe, 0)
    pieces = 62  # of 1,000 bytes or a little less
    assert pipe.recv() + noted["packs"] in range(pieces - 4, pieces + 4)
    process.join()
    (directory,) = (path for path in (tmp_path / "data" / "tokens").iterdir() if path.is_dir())
    assert contents(directory) == undisturbed


def test_what_was_lost_of_a_partial_preparation_is_made_again(tmp_path, bpe, monkeypatch):
    (tmp_path / "text.txt").write_bytes(make_text(60_000))
    undisturbed = contents(prepare(tmp_path, bpe, where="undisturbed"))
    partial = interrupted(tmp_path, bpe, monkeypatch)
    os.truncate(partial / "train_000000.bin", 100)
    assert contents(prepare(tmp_path, bpe)) == undisturbed


@contextmanager
def ctrl_c_after(pieces: int, monkeypatch):
    """Ctrl-C comes once so many pieces have been tokenised."""
    numbers = count()

    def encode(*args):
        if next(numbers) >= pieces:
            raise KeyboardInterrupt
        return encode_bytes(*args)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "encode_bytes", encode)
        with pytest.raises(KeyboardInterrupt):
            yield


def interrupted(tmp_path, encoding, monkeypatch):
    """A preparation that Ctrl-C ends after two shards."""
    with ctrl_c_after(30, monkeypatch):
        prepare(tmp_path, encoding)
    (partial,) = (tmp_path / "data" / "tokens").glob(".partial-*")
    return partial


def test_ctrl_c_keeps_finished_shards(tmp_path, bpe, monkeypatch):
    (tmp_path / "text.txt").write_bytes(make_text(60_000))
    partial = interrupted(tmp_path, bpe, monkeypatch)
    assert len(list(partial.glob("train_*.bin"))) >= 2
    undisturbed = contents(prepare(tmp_path, bpe, where="undisturbed"))
    assert contents(prepare(tmp_path, bpe)) == undisturbed
    assert not partial.exists()


def test_a_partial_preparation_of_another_text_is_thrown_away(tmp_path, bpe, monkeypatch):
    (tmp_path / "text.txt").write_bytes(make_text(60_000))
    partial = interrupted(tmp_path, bpe, monkeypatch)
    progress = json.loads((partial / "progress.json").read_text())
    (partial / "progress.json").write_text(json.dumps(progress | {"text_crc32": 1}))
    with pytest.raises(UserError, match="changed while it was being read: start again"):
        prepare(tmp_path, bpe)
    assert not partial.exists()
    assert len(open_token_files(prepare(tmp_path, bpe))["train"]) > 1000


def test_opening_reads_no_token_that_was_checked_before(tmp_path, monkeypatch):
    """So it takes no longer for a larger corpus; what was written to is checked again, even with its times set back."""
    (tmp_path / "text.txt").write_bytes(make_text(60_000))
    directory = prepare(tmp_path, load_tokenizer("bytes"))
    checks = []
    check = token_files._check
    monkeypatch.setattr(token_files, "_check", lambda *args: checks.append(args) or check(*args))
    open_token_files(directory)
    open_token_files(directory)
    assert not checks
    shard = directory / "train_000002.bin"
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    time.sleep(0.02)
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=times)
    with pytest.raises(UserError, match=r"train_000002\.bin is damaged"):
        open_token_files(directory)
    data[5] ^= 1
    shard.write_bytes(data)
    open_token_files(directory)
    assert len(checks) == 1 + 3
    open_token_files(directory)
    assert len(checks) == 1 + 3


@pytest.mark.parametrize("lie", ["twice", "swapped", "missing"])
def test_an_index_whose_shards_do_not_make_up_their_split_is_refused(tmp_path, lie):
    (tmp_path / "text.txt").write_bytes(make_text(60_000))
    directory = prepare(tmp_path, load_tokenizer("bytes"))
    index = json.loads((directory / "index.json").read_text())
    train = index["splits"]["train"]["shards"]
    index["splits"]["train"]["shards"] = {
        "twice": [*train[:-1], train[0]],
        "swapped": [train[1], train[0], *train[2:]],
        "missing": train[1:],
    }[lie]
    (directory / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json is damaged, its shards do not make up their split: delete"):
        open_token_files(directory)


def test_a_dataset_is_divided_in_one_passage_and_resumed(tmp_path, bpe, monkeypatch):
    pytest.importorskip("datasets")
    folder = tmp_path / "dataset"
    folder.mkdir()
    texts = [f"document {i} " + "word " * (i % 50) for i in range(600)]
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def prepare_dataset(where):
        return prepare_token_files(find_corpus(f"hf:{folder}", tmp_path), bpe, tmp_path / where)

    tokens = open_token_files(prepare_dataset("undisturbed"))
    places = {"train": range(98), "val": [98], "test": [99]}
    for split, those in places.items():
        expected = "<|endoftext|>".join(text for i, text in enumerate(texts) if i % 100 in those)
        assert bpe.decode(tokens[split][:].tolist()) == expected
    with ctrl_c_after(300, monkeypatch):
        prepare_dataset("data")
    assert list((tmp_path / "data" / "tokens").glob(".partial-*/progress.json"))
    resumed = open_token_files(prepare_dataset("data"))
    for split in shards.SPLITS:
        assert np.array_equal(resumed[split][:], tokens[split][:])
