"""Which text a name stands for, and how archives are read; formats with records are in test_records.py."""

import bz2
import gzip
import hashlib
import io
import os
import socket
import struct
import zipfile
from pathlib import Path

import pytest

from gpt_lightning.data.text.blocks import fingerprint
from gpt_lightning.data.text.corpora import find_corpus, full_path, may_share_text, read_corpus
from gpt_lightning.data.text.formats import read_blocks
from gpt_lightning.errors import UserError
from tests.data.conftest import documents, peak_memory


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
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text, mtime=0))
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


def test_a_directory_says_what_it_skips(tmp_path, monkeypatch, capsys, never_waits):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "data" / "tokens").mkdir(parents=True)
    (tmp_path / "data" / "tokens" / "digests.json").write_text("ours")
    (tmp_path / "elsewhere").symlink_to("data")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    assert documents(find_corpus(str(tmp_path), Path("data"))) == [b"good"]
    (message,) = capsys.readouterr().err.splitlines()
    for words in ("1 hidden", "1 empty", "1 binary", "picture.png", "1 links to directories", "1 no regular files"):
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
        ("cut.gz", gzip.compress(bytes(range(256)) * 100, mtime=0)[:-20]),
        ("wrong.gz", b"this is not gzip"),
        ("flipped.gz", bytes([*gzip.compress(b"some text" * 99, mtime=0)[:-8], *b"wrongsum"])),
        ("noise.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 50),
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


@pytest.mark.parametrize("spec", [".", "**/*.txt", "**"])
def test_loops_of_directories_are_not_walked(spec, tmp_path, monkeypatch, never_waits):
    """`glob` would go around 40 times in one loop, and in two loops for ever."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/a.txt").write_text("once")
    for name in ("folder/loop", "folder/again"):
        Path(name).symlink_to("..")
    assert documents(find_corpus(spec, tmp_path / "data")) == [b"once"]


def test_globs_leave_hidden_files_alone_unless_asked(tmp_path):
    for name in (".hidden/a.txt", ".b.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(find_corpus(f"{tmp_path}/**/*.txt", tmp_path)) == [b"c.txt"]
    assert documents(find_corpus(f"{tmp_path}/.*.txt", tmp_path)) == [b".b.txt"]
    assert documents(find_corpus(f"{tmp_path}/.hidden/*", tmp_path)) == [b".hidden/a.txt"]


def test_files_are_found_whatever_they_are_called(tmp_path):
    names = [b"new\nline.txt", b"caf\xe9.txt", b"[a]*?.txt", b"-rf.txt", b"x" * 251 + b".txt"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    assert sorted(documents(find_corpus(str(tmp_path), tmp_path / "data"))) == sorted(names)
    assert documents(find_corpus(f"{tmp_path}/[a]*?.txt", tmp_path)) == [b"[a]*?.txt"]
    assert len(find_corpus(f"{tmp_path}/{'x' * 251}.txt", tmp_path).name) == 60


def test_names_of_corpora_are_short_in_any_script(tmp_path):
    path = tmp_path / f"{'漢' * 80}.txt"
    path.write_text("text")
    assert find_corpus(str(path), tmp_path).name == "漢" * 20


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(kind, tmp_path, never_waits):
    path = tmp_path / "thing"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path = Path("/dev/zero")
    with pytest.raises(UserError, match=f"{path}' is a pipe, socket or device.*save its text to a file"):
        find_corpus(str(path), tmp_path / "data")


@pytest.mark.parametrize(
    "spec", ["x" * 300, "a\0b", "~nobody_of_this_name/text", "link", "link/**", "***", "[", "a**b"]
)
def test_names_that_cannot_be_are_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("link")
    with pytest.raises(UserError, match=r"^Corpus '.*(was not found in|cannot be looked for)"):
        find_corpus(spec, tmp_path)


def test_a_relative_name_is_said_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"'text.txt' was not found in {tmp_path}:"):
        find_corpus("text.txt", tmp_path)


def zip_of(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return bytearray(file.getvalue())


def test_unpacking_writes_nothing_whatever_members_are_called(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    evil = f"{tmp_path}/absolute_evil"
    Path("evil.zip").write_bytes(zip_of(("../../evil", b"one"), (evil, b"two"), ("/etc/evil_of_a_test", b"three")))
    assert sorted(documents(find_corpus("evil.zip", tmp_path / "data"))) == [b"one", b"three", b"two"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [inner / "evil.zip"]
    assert not Path("/etc/evil_of_a_test").exists()


MEMBERS = ("one.txt", b"first " * 1000), ("two.txt", b"second " * 1000)


def lie(archive: bytearray, field: int, value: int) -> bytearray:
    """Overwrites a 32-bit field of the first member in the directory of a zip archive."""
    at = archive.index(b"PK\1\2")
    struct.pack_into("<L", archive, at + field, value)
    return archive


def overlapping() -> bytearray:
    """Both members of a zip archive are the first one, so that each byte of the file counts twice."""
    archive = zip_of(("one.txt", MEMBERS[0][1]), ("two.txt", MEMBERS[0][1]))
    second = archive.index(b"PK\1\2", archive.index(b"PK\1\2") + 1)
    struct.pack_into("<L", archive, second + 42, 0)
    return archive


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (lie(zip_of(*MEMBERS), 24, 100), r"damaged.*CRC"),
        (lie(zip_of(*MEMBERS), 24, 1_000_000), "'one.txt' has 6000 bytes, not 1000000"),
        (lie(zip_of(*MEMBERS), 20, 1_000_000), "'one.txt' and 'two.txt' overlap"),
        (lie(zip_of(*MEMBERS), 16, 0), r"damaged.*CRC"),
        (overlapping(), r"damaged.*(overlap|differ)"),
        (zip_of(*MEMBERS, compression=zipfile.ZIP_BZIP2), "neither stored nor deflated: unpack it by hand"),
        (zip_of(*MEMBERS, compression=zipfile.ZIP_LZMA), "neither stored nor deflated: unpack it by hand"),
    ],
    ids=["too short", "too long", "packed size", "checksum", "overlap", "bzip2", "lzma"],
)
def test_archives_that_lie_are_refused(archive, message, tmp_path):
    (tmp_path / "liar.zip").write_bytes(archive)
    with pytest.raises(UserError, match=rf"liar\.zip .*{message}"):
        list(read_blocks(tmp_path / "liar.zip"))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zip"])
def test_bombs_are_refused_in_little_memory(suffix, tmp_path, start):
    nothing = bytes(30_000_000)
    if suffix == ".zip":
        text, bomb = zip_of(("a", nothing)), zip_of(*[(name, nothing) for name in "abcde"])
    else:
        text = {".gz": gzip, ".bz2": bz2}[suffix].compress(nothing)
        bomb = text * 5
    (tmp_path / f"text{suffix}").write_bytes(text)
    (tmp_path / f"bomb{suffix}").write_bytes(bomb)

    def read(pipe):
        before = peak_memory()
        size = sum(len(block) for _, block in read_blocks(tmp_path / f"text{suffix}"))
        try:
            for _ in read_blocks(tmp_path / f"bomb{suffix}"):
                pass
        except UserError as error:
            pipe.send((size, str(error), peak_memory() - before))

    _, pipe = start(read)
    size, message, megabytes = pipe.recv()
    assert size == 30_000_000
    assert f"bomb{suffix} unpacks to more than 1" in message
    assert "unpack it by hand" in message
    assert megabytes < 15


# ---- which text is which


def test_the_same_text_has_the_same_full_path(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path / "texts")
    (tmp_path / "link").symlink_to(tmp_path / "texts")
    full = os.path.realpath(tmp_path / "texts/a.txt")
    for spec in ("a.txt", "../texts/a.txt", str(tmp_path / "link/a.txt"), full):
        assert full_path(spec, tmp_path) == full
    assert full_path("shakespeare", tmp_path) == full_path(str(tmp_path / "tiny_shakespeare.txt"), tmp_path / "data")
    assert full_path("pydoc", tmp_path) == "pydoc" != full_path("./pydoc", tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("/d/a.txt", "/d/b.txt", False),
        ("/d/a.txt", "/e/a.txt", True),
        ("/d/a.txt", "/d", True),
        ("/d/a.txt", "/d2", False),
        ("/d/a.txt", "/d/*.txt", True),
        ("/d/a.txt", "/d/*.md", False),
        ("/d/a.txt", "/d/**/*.txt", True),
        ("/d/e/a.txt", "/d/**/*.txt", True),
        ("/d/e/*.txt", "/d", True),
        ("/d/a.txt", "pydoc", False),
    ],
)
def test_texts_that_may_have_a_file_in_common(one, other, may):
    assert may_share_text(one, other) == may_share_text(other, one) == may
