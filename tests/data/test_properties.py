"""What has to hold for any text and any file, tried on what hypothesis makes up."""

import base64
import bz2
import functools
import gzip
import io
import json
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt_lightning.data.text.corpora import find_corpus
from gpt_lightning.data.text.formats import read_blocks
from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes, load_tokenizer, token_byte_lengths, vocabulary_size
from gpt_lightning.data.tokens import segments as segments_module
from gpt_lightning.data.tokens.segments import by_bytes, segments
from gpt_lightning.data.tokens.token_files import SPLITS, open_token_files, prepare_token_files
from gpt_lightning.errors import UserError


def any_of(examples: int):
    """The same examples in every run, so that a failure is never a matter of luck."""
    # The fixtures that these tests have are not changed by them.
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


def attempt(function, *args):
    """What the function returns, and what the user is told instead; any other exception fails the test."""
    try:
        return function(*args), None
    except UserError as error:
        return None, str(error)


CHARACTERS = [*"aZ7' \n\r\t\0é漢", *"\u0301\u200d\u2028\u3000\U0001f3f3\U0010ffff"]
BROKEN = [b"\xff", b"\x80", b"\xc3", b"\xe6\xbc", b"\xed\xa0\x80", b"\xed\xb2\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"]
WORDS = [b"<|endoftext|>", b"<|end", b"oftext|>", b"the thing ", b" don't", b"caf\xc3\xa9\n", b"  \n\n  "]
RUNS = st.tuples(st.sampled_from([c.encode() for c in CHARACTERS] + BROKEN), st.integers(2, 3000))
PIECES = st.one_of(
    st.sampled_from(WORDS + BROKEN),
    st.text(st.one_of(st.sampled_from("".join(CHARACTERS)), st.characters()), max_size=30).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    ),
    st.binary(max_size=20),
    RUNS.map(lambda run: run[0] * run[1]),
)
TEXTS = st.lists(PIECES, max_size=12).map(b"".join)


@pytest.fixture(params=["bytes", "bpe", "gpt2"])
def encoding(request):
    return load_tokenizer("bytes") if request.param == "bytes" else request.getfixturevalue(request.param)


lengths_of = functools.cache(token_byte_lengths)


@any_of(120)
@given(TEXTS)
@example(b"")
@example(b"\0")
@example(b"\xed\xb2\x80")
def test_tokens_decode_to_the_bytes_they_were_made_of(encoding, data):
    tokens = encode_bytes(encoding, data)
    assert encoding.decode_bytes(tokens.tolist()) == data
    assert not any(encoding.is_special_token(token) for token in tokens.tolist())
    assert int(lengths_of(encoding)[tokens.astype(np.int64)].sum()) == len(data)


@any_of(120)
@given(TEXTS, st.integers(8, 200), st.integers(1, 300))
def test_cutting_text_between_words_changes_no_token(encoding, data, segment_bytes, block_bytes):
    blocks = [(0, data[start : start + block_bytes]) for start in range(0, len(data), block_bytes)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(segments_module, "SEGMENT_BYTES", segment_bytes)
        pieces = [piece for _, _, piece in segments(by_bytes(blocks, [len(data)]))]
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= segment_bytes for piece in pieces)
    # Where there was no place between words, the tokens may be others: what was cut there is put together again.
    between_words = [b""]
    for piece in pieces:
        if between_words[-1][-1:].isalnum() and piece[:1] in (b" ", b"\n"):
            between_words.append(b"")
        between_words[-1] += piece
    tokens = np.concatenate([encode_bytes(encoding, piece) for piece in between_words])
    assert tokens.tolist() == encode_bytes(encoding, data).tolist()


ARRANGEMENTS = st.tuples(st.lists(TEXTS, min_size=1, max_size=5), st.integers(16, 400))


@pytest.mark.parametrize("encoding", ["bytes", "bpe"], indirect=True)
@any_of(60)
@given(ARRANGEMENTS)
def test_token_files_decode_to_the_text_of_the_corpus(encoding, arrangement):
    documents, segment_bytes = arrangement
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(segments_module, "SEGMENT_BYTES", segment_bytes)
        path = Path(folder) / "corpus.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number, document in enumerate(documents):
                archive.writestr(f"{number}.txt", document)
        corpus = find_corpus(str(path), Path(folder))
        directory, refusal = attempt(prepare_token_files, corpus, encoding, Path(folder))
        if refusal:
            assert re.search("is too small|is empty", refusal)
            assert sum(map(len, documents)) < 100
            return
        arrays = open_token_files(directory)
        tokens = {split: arrays[split][:].tolist() for split in SPLITS}
        del arrays  # closes the files
    size = sum(map(len, documents))
    bounds = [0, size * 90 // 100, size * 95 // 100, size]
    separates = END_OF_TEXT in encoding.special_tokens_set
    for split, start, end in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
        parts, at = [], 0
        for document in documents:
            part = document[max(start - at, 0) : max(end - at, 0)]
            parts += [part] if part else []
            at += len(document)
        mark = END_OF_TEXT.encode() if separates else b""
        assert encoding.decode_bytes(tokens[split]) == mark.join(parts)
        if separates:
            assert tokens[split].count(encoding.eot_token) == len(parts) - 1


def damaged(original: bytes):
    """`original` with bytes overwritten, taken out or put in, and perhaps cut off; or something else altogether."""
    places = st.integers(0, len(original))
    edits = st.lists(st.tuples(places, places, st.binary(max_size=8)), min_size=1, max_size=3)

    def edit(edits):
        result = original
        for start, length, replacement in edits:
            result = result[:start] + replacement + result[start + (length if length < 9 else len(replacement)) :]
        return result

    cut = places.map(lambda end: original[:end])
    return st.one_of(edits.map(edit), cut, st.binary(max_size=300))


def zip_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first.txt", b"some text " * 20)
        archive.writestr("zweites é.txt", bytes(range(256)))
        archive.writestr("third.txt", b"stored", zipfile.ZIP_STORED)
    return file.getvalue()


ARCHIVES = {
    ".zip": zip_archive(),
    ".gz": gzip.compress(b"some text " * 50, mtime=0),
    ".bz2": bz2.compress(b"some text " * 50),
}


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_any_archive_is_read_or_refused(suffix, tmp_path):
    path = tmp_path / f"archive{suffix}"

    @any_of(250)
    @given(damaged(ARCHIVES[suffix]))
    @example(ARCHIVES[suffix])
    def check(content):
        path.write_bytes(content)
        blocks, refusal = attempt(lambda: list(read_blocks(path)))
        if refusal:
            assert str(path) in refusal
        else:
            assert sum(len(block) for _, block in blocks) < 2000

    check()


def test_any_ranks_file_is_read_or_refused(ranks_file, tmp_path):
    path, original = tmp_path / "any.tiktoken", ranks_file.read_bytes()
    numbers = st.one_of(st.integers(-10, 400), st.integers())
    tokens = st.binary(max_size=6).map(base64.b64encode)
    lines = st.lists(st.tuples(tokens, numbers), max_size=5).map(
        lambda pairs: original + b"".join(b"%s %d\n" % (token, number) for token, number in pairs)
    )

    @any_of(200)
    @given(st.one_of(damaged(original), lines))
    @example(original)
    def check(content):
        path.write_bytes(content)
        encoding, refusal = attempt(load_tokenizer, str(path))
        if refusal:
            assert str(path) in refusal
            return
        assert encoding.n_vocab == vocabulary_size(str(path))
        data = b"the thing is in the caf\xc3\xa9 \xff<|endoftext|>"
        assert encoding.decode_bytes(encode_bytes(encoding, data).tolist()) == data

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def test_any_index_is_believed_or_refused(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"some text " * 100)
    encoding = load_tokenizer("bytes")
    directory = prepare_token_files(find_corpus(str(tmp_path / "text.txt"), tmp_path), encoding, tmp_path)
    original = (directory / "index.json").read_bytes()
    right = {split: array[:].tolist() for split, array in open_token_files(directory).items()}
    index = json.loads(original)

    def lie(place, value):
        *outer, last = place
        changed = json.loads(original)
        inner = changed
        for key in outer:
            inner = inner[key]
        inner[last] = value
        return json.dumps(changed).encode()

    places = [("dtype",), ("splits",), *(("splits", split, key) for split in SPLITS for key in index["splits"][split])]
    others = st.sampled_from(["uint32", "uint16", "int16", "float16", "object", 0, -1, 1e400, 450, [], {}])
    lies = st.builds(lie, st.sampled_from(places), JSON | others)

    @any_of(200)
    @given(st.one_of(damaged(original), lies, JSON.map(lambda value: json.dumps(value).encode())))
    @example(b"[" * 100_000)
    @example(b"")
    def check(content):
        (directory / "index.json").write_bytes(content)
        arrays, refusal = attempt(open_token_files, directory)
        if refusal:
            assert f"delete the directory {directory}" in refusal
            return
        # Nothing was believed but the truth about the tokens.
        assert {split: array[:].tolist() for split, array in arrays.items()} == right

    check()


def test_any_memory_of_corpora_does_no_harm(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"some text " * 100)
    corpus, encoding = find_corpus(str(tmp_path / "text.txt"), tmp_path), load_tokenizer("bytes")
    directory = prepare_token_files(corpus, encoding, tmp_path)
    cache = tmp_path / "tokens" / "digests.json"
    entries = st.dictionaries(st.sampled_from([corpus.source, ""]), JSON, max_size=2)

    @any_of(100)
    @given(st.one_of(st.binary(max_size=100), (JSON | entries).map(lambda value: json.dumps(value).encode())))
    @example(b"[" * 100_000)
    def check(content):
        cache.write_bytes(content)
        assert prepare_token_files(corpus, encoding, tmp_path) == directory

    check()
