"""What earlier versions left on the disk goes on being used, and what anything else left does no harm."""

import base64
import hashlib
import json
import os
import shutil
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt_lightning.data.text import identity
from gpt_lightning.data.text.corpora import find_corpus
from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.data.tokens import bins, segments, token_files
from gpt_lightning.data.tokens.bins import find_bins, open_bins
from gpt_lightning.data.tokens.token_files import open_token_files, prepare_token_files
from gpt_lightning.data.verified import read_json, recall, remember, write_json
from tests.data.conftest import make_text
from tests.data.test_properties import JSON, any_of, attempt

TEXT = b"some text " * 100


def sha256(content: object) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else json.dumps(content).encode()).hexdigest()


def stamp(path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_bytes(TEXT)
    return find_corpus(str(tmp_path / "text.txt"), tmp_path)


def counts(data: bytes, size: int) -> dict[str, int]:
    return {"tokens": size, "bytes": size, "documents": 1, "crc32": zlib.crc32(data)}


@pytest.fixture
def written_before(corpus, tmp_path):
    """A directory of token files as version 0.1.0 wrote it, with its caches: all of the layout is spelt out here."""
    home = tmp_path / "data" / "tokens"
    ranks = b"".join(b"%s %d\n" % (base64.b64encode(bytes([byte])), byte) for byte in range(256))
    tokenizer = sha256(json.dumps([r"[\s\S]", {}]).encode() + ranks)
    place = home / f"text_txt-bytes-{sha256([3, sha256(TEXT), [90, 5, 5], tokenizer])[:16]}"
    place.mkdir(parents=True)
    splits = {}
    for split, part in {"train": TEXT[:900], "val": TEXT[900:950], "test": TEXT[950:]}.items():
        file, data = f"{split}_000000.bin", np.frombuffer(part, np.uint8).astype("<u2").tobytes()
        (place / file).write_bytes(data)
        splits[split] = {**counts(data, len(part)), "shards": [{"file": file, **counts(data, len(part))}]}
    index = {"corpus": "text_txt", "source": corpus.source, "tokenizer": "bytes", "tokenizer_digest": tokenizer}
    index |= {"vocabulary": 256, "dtype": "uint16", "splits": splits}
    (place / "index.json").write_text(json.dumps(index, indent=2) + "\n")
    names = ["index.json", *(f"{split}_000000.bin" for split in splits)]
    (place / "checked.json").write_text(json.dumps({name: stamp(place / name) for name in names}, indent=2) + "\n")
    path = tmp_path / "text.txt"
    known = sha256(["sha256", "text", [[str(path.resolve()), *stamp(path)]]])
    digests = {corpus.source: [known, sha256(TEXT), len(TEXT)]}
    (home / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")
    return place


def never(*args):
    raise AssertionError("done again")


def test_what_was_tokenised_before_is_used_as_it_is(written_before, corpus, tmp_path, monkeypatch):
    for module, name in ((identity, "read_corpus"), (token_files, "read_corpus"), (token_files, "_check")):
        monkeypatch.setattr(module, name, never)
    assert prepare_token_files(corpus, load_tokenizer("bytes"), tmp_path / "data") == written_before
    tokens = open_token_files(written_before)
    assert b"".join(bytes(tokens[split][:].tolist()) for split in ("train", "val", "test")) == TEXT


def test_what_is_tokenised_now_is_what_was_written_before(written_before, corpus, tmp_path):
    place = prepare_token_files(corpus, load_tokenizer("bytes"), tmp_path / "anew")
    assert place.name == written_before.name
    for path in written_before.iterdir():
        if path.name != "checked.json":
            assert path.read_bytes() == (place / path.name).read_bytes()
    checked = [json.loads((directory / "checked.json").read_text()) for directory in (written_before, place)]
    assert list(checked[0]) == list(checked[1])
    assert checked[1] == {name: stamp(place / name) for name in checked[1]}
    for home in (written_before.parent, place.parent):
        assert json.loads((home / "digests.json").read_text()) == json.loads(
            (written_before.parent / "digests.json").read_text()
        )


def test_files_of_others_that_were_looked_through_before_are_not_again(tmp_path, monkeypatch):
    home, content = tmp_path / "tokens", np.array([1, 2, 3], np.uint16)
    home.mkdir()
    for split in ("train", "val"):
        content.tofile(tmp_path / f"{split}.bin")
    paths = [(tmp_path / f"{split}.bin").resolve() for split in ("train", "val")]
    known = {str(path): [stamp(path), 3, zlib.crc32(content.tobytes())] for path in paths}
    (home / "checked_bins.json").write_text(json.dumps(known))
    monkeypatch.setattr(bins, "_largest_and_crc32", never)
    tokens, _ = open_bins(find_bins(str(tmp_path)), 256, home)
    assert tokens["train"][:].tolist() == [1, 2, 3]


def test_files_of_others_need_no_directory_that_can_be_written(tmp_path):
    for split in ("train", "val"):
        np.array([1, 2, 3], np.uint16).tofile(tmp_path / f"{split}.bin")
    (tmp_path / "file").touch()
    tokens, _ = open_bins(find_bins(str(tmp_path)), 256, tmp_path / "file" / "tokens")
    assert tokens["train"][:].tolist() == [1, 2, 3]


PROGRESS = {
    "packs": 2,
    "text_crc32": 5,
    "splits": {
        "train": {"tokens": 1, "bytes": 1, "documents": 1, "crc32": 0, "shards": []},
        "val": {"tokens": 0, "bytes": 0, "documents": 0, "crc32": 0, "shards": []},
        "test": {"tokens": 0, "bytes": 0, "documents": 0, "crc32": 0, "shards": []},
    },
}
PLACES = [("packs",), ("text_crc32",), ("splits",), ("splits", "train"), ("splits", "val", "tokens")]


def lie(place, value) -> dict:
    """Progress in which something is another value."""
    changed = json.loads(json.dumps(PROGRESS))
    *outer, last = place
    inner = changed
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return changed


def outside(folder: str) -> dict:
    """Progress that names a file of somebody else's."""
    shard = {"file": f"../../{folder}", "tokens": 0, "bytes": 0, "documents": 0, "crc32": 0}
    return lie(("splits", "train", "shards"), [shard]) | {"packs": 0, "text_crc32": 0}


def test_any_note_of_progress_is_believed_or_refused(tmp_path, bpe, monkeypatch):
    """Refused is: the text was another one, and the next start begins anew. No file elsewhere is touched."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    (tmp_path / "text.txt").write_bytes(make_text(5_000))
    (tmp_path / "mine").write_text("mine")
    corpus = find_corpus(str(tmp_path / "text.txt"), tmp_path)

    def prepared():
        directory = prepare_token_files(corpus, bpe, tmp_path / "data")
        return directory, {split: part[:].tolist() for split, part in open_token_files(directory).items()}

    directory, right = prepared()
    partial = directory.with_name(f".partial-{directory.name}")

    @any_of(60)
    @given(st.one_of(JSON, st.builds(lie, st.sampled_from(PLACES), JSON)).map(json.dumps) | st.text(max_size=50))
    @example("[" * 100_000)
    @example(json.dumps(outside("../mine")))
    @example(json.dumps(lie(("splits", "train", "tokens"), 1.0) | {"packs": 0, "text_crc32": 0}))
    def check(content):
        shutil.rmtree(directory)
        partial.mkdir()
        (partial / "progress.json").write_text(content, errors="replace")
        result, refusal = attempt(prepared)
        if refusal:
            assert "start again" in refusal
            result = prepared()
        assert result == (directory, right)
        assert not partial.exists()
        assert (tmp_path / "mine").read_text() == "mine"

    check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b'{"a": 1', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_counts_as_nothing(tmp_path, content):
    (tmp_path / "cache.json").write_bytes(content)
    assert read_json(tmp_path / "cache.json") == recall(tmp_path / "cache.json", int) == {}
    assert read_json(tmp_path / "not there") == read_json(tmp_path) == {}


def test_only_entries_of_the_right_types_are_recalled(tmp_path):
    right = {"a": ["x", 1], "ä": ["", -1]}
    wrong = {"b": ["x", True], "c": ["x", 1.0], "d": [1, "x"], "e": ["x"], "f": ["x", 1, 2], "g": "x1", "h": None}
    write_json(right | wrong, tmp_path / "cache.json")
    assert recall(tmp_path / "cache.json", str, int) == right


def test_a_cache_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    cache = tmp_path / "new" / "cache.json"
    remember({"a": [1]}, cache)
    assert recall(cache, int) == {"a": [1]}
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    remember({"a": [2]}, cache)
    assert recall(cache, int) == {"a": [1]}
    assert list(cache.parent.iterdir()) == [cache]
