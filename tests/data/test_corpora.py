import bz2
import gzip
import hashlib
import zipfile
from pathlib import Path

import pytest

from gpt_lightning.data import corpora
from gpt_lightning.data.corpora import find_corpus, read_corpus
from gpt_lightning.data.readers import fingerprint, read_blocks
from gpt_lightning.errors import UserError


def documents(corpus) -> list[bytes]:
    texts: dict[int, bytes] = {}
    for document, block in read_corpus(corpus):
        texts[document] = texts.get(document, b"") + block
    assert list(texts) == list(range(len(texts)))
    return list(texts.values())


def test_pydoc_is_there_without_a_download(tmp_path):
    corpus = find_corpus("pydoc", tmp_path)
    (text,) = documents(corpus)
    assert len(text) > 300_000
    assert b"assert" in text
    assert (corpus.name, corpus.percents) == ("pydoc", (90, 5, 5))
    assert not list(tmp_path.iterdir())


def test_packed_files_read_like_plain_ones(tmp_path):
    text = b"Some text.\n" * 1000
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text))
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(text))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/two.txt", b"two")
        archive.writestr("empty.txt", b"")
        archive.writestr("folder/one.txt", b"one")
    assert documents(find_corpus(str(tmp_path), tmp_path / "data")) == [text, text, text, b"one", b"two"]


def test_globs_find_files_at_any_depth_sorted_by_name(tmp_path):
    for name in ("b.txt", "deep/er/a.txt", "a.txt", "a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(find_corpus(f"{tmp_path}/**/*.txt", tmp_path)) == [b"a.txt", b"b.txt", b"deep/er/a.txt"]


def test_a_directory_says_what_it_skips(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(corpora, "rank_zero_info", said.append)
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "data" / "tokens").mkdir(parents=True)
    (tmp_path / "data" / "tokens" / "digests.json").write_text("ours")
    monkeypatch.chdir(tmp_path)
    assert documents(find_corpus(str(tmp_path), Path("data"))) == [b"good"]
    (message,) = said
    for words in ("1 hidden", "1 empty", "1 binary", "picture.png"):
        assert words in message


def test_a_misspelt_corpus_lists_the_named_ones(tmp_path):
    with pytest.raises(UserError, match=r"'shakespear' was not found.*pydoc, shakespeare, enwik8"):
        find_corpus("shakespear", tmp_path)


def test_a_directory_without_text_is_named(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"no text to read.*1 empty"):
        find_corpus(str(tmp_path), tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.gz", gzip.compress(bytes(range(256)) * 100)[:-20]),
        ("wrong.gz", b"this is not gzip"),
        ("flipped.gz", bytes([*gzip.compress(b"some text" * 99)[:-8], *b"wrongsum"])),
        ("noise.gz", gzip.compress(b"")[:10] + b"\xff" * 50),
        ("cut.bz2", bz2.compress(bytes(range(256)) * 100)[:-20]),
        ("wrong.bz2", b"this is not bzip2"),
        ("wrong.zip", b"this is not zip"),
    ],
)
def test_a_corrupt_archive_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged or cannot be read"):
        list(read_blocks(tmp_path / name))


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt is damaged or cannot be read"):
        list(read_blocks(tmp_path / "gone.txt"))


def test_fingerprints_tell_documents_apart():
    assert fingerprint([(0, b"ab"), (0, b"c")]) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert fingerprint([(0, b"ab"), (1, b"c")])[0] != fingerprint([(0, b"a"), (1, b"bc")])[0]


def test_shakespeare_is_split_as_in_nanogpt(shared):
    corpus = find_corpus("shakespeare", shared / "data")
    assert corpus.percents == (90, 10)
    assert fingerprint(read_corpus(corpus)) == (corpus.checksum[1], 1_115_394)


def test_enwik8_is_read_packed_or_unpacked(tmp_path):
    for name in ("enwik8.zip", "enwik8"):  # once unpacked, that is preferred
        (tmp_path / name).touch()
        assert find_corpus("enwik8", tmp_path).files == (tmp_path / name,)


def test_names_make_directories(tmp_path):
    (tmp_path / "my book (1).txt").write_text("text")
    assert find_corpus(str(tmp_path / "my book (1).txt"), Path("data")).name == "my_book_1_txt"
