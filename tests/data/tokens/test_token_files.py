"""Token files of a corpus: what they hold, who writes them, and what happens when something goes wrong."""

import errno
import hashlib
import json
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpt_lightning import make_once
from gpt_lightning.data.text import corpora, identity
from gpt_lightning.data.text.corpora import Corpus, find_corpus
from gpt_lightning.data.tokenizer import encode_bytes, load_tokenizer
from gpt_lightning.data.tokens import segments, shards, token_files
from gpt_lightning.data.tokens.token_files import open_token_files, prepare_token_files
from gpt_lightning.data.tokens.token_sequence import Tokens
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text, peak_memory, with_files_of_at_most


def prepare(text: bytes, encoding, tmp_path: Path) -> tuple[Path, dict[str, Tokens]]:
    (tmp_path / "text.txt").write_bytes(text)
    directory = prepare_token_files(find_corpus(str(tmp_path / "text.txt"), tmp_path), encoding, tmp_path / "data")
    return directory, open_token_files(directory)


@pytest.mark.parametrize("which", ["bytes", "bpe"])
@pytest.mark.parametrize("size", [50_000, 50_019])
def test_splits_are_90_5_5_percent_of_the_bytes(which, size, tmp_path, request):
    encoding = load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    text = make_text(size)
    directory, tokens = prepare(text, encoding, tmp_path)
    parts = {split: encoding.decode_bytes(array[:].tolist()) for split, array in tokens.items()}
    cuts = size * 90 // 100, size * 95 // 100
    assert parts == {"train": text[: cuts[0]], "val": text[cuts[0] : cuts[1]], "test": text[cuts[1] :]}
    index = json.loads((directory / "index.json").read_text())
    assert (index["corpus"], index["tokenizer"], index["dtype"]) == ("text_txt", encoding.name, "uint16")
    for split, part in parts.items():
        file, counts = f"{split}_000000.bin", {"tokens": len(tokens[split]), "bytes": len(part), "documents": 1}
        counts["crc32"] = zlib.crc32((directory / file).read_bytes())
        assert index["splits"][split] == {**counts, "shards": [{"file": file, **counts}]}


def test_threads_and_pieces_change_no_token(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 512)
    text = make_text(100_000)
    results = []
    for cores in (1, 7):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        (tmp_path / str(cores)).mkdir()
        results.append(prepare(text, bpe, tmp_path / str(cores))[1])
    for split, part in (("train", text[:90_000]), ("val", text[90_000:95_000]), ("test", text[95_000:])):
        expected = encode_bytes(bpe, part).tolist()
        assert [tokens[split][:].tolist() == expected for tokens in results] == [True, True]


@pytest.mark.parametrize("which", ["bytes", "bpe"])
def test_only_tokenizers_with_end_of_text_separate_documents(which, tmp_path, request):
    encoding = load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode() * 100)
    tokens = open_token_files(prepare_token_files(find_corpus(str(folder), tmp_path), encoding, tmp_path))
    mark = b"" if which == "bytes" else b"<|endoftext|>"
    assert encoding.decode_bytes(tokens["train"][:].tolist()) == mark.join([b"a" * 100, b"b" * 100, b"c" * 70])


def test_documents_that_are_entire_splits_are_not_separated(bpe, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, size in (("a", 180), ("b", 10), ("c", 10)):
        (folder / name).write_bytes(name.encode() * size)
    tokens = open_token_files(prepare_token_files(find_corpus(str(folder), tmp_path), bpe, tmp_path))
    assert [bpe.decode(tokens[split][:].tolist()) for split in token_files.SPLITS] == ["a" * 180, "b" * 10, "c" * 10]


def test_large_vocabularies_take_uint32(ranks_file, tmp_path):
    (tmp_path / "large.tiktoken").write_text(ranks_file.read_text() + "YWZ0ZXI= 70000\n")
    _, tokens = prepare(b"after " * 100, load_tokenizer(str(tmp_path / "large.tiktoken")), tmp_path)
    assert tokens["train"].dtype == "<u4"
    assert tokens["train"][:1].tolist() == [70000]


def test_shakespeare_tests_on_what_it_validates_on(shared, tmp_path):
    encoding = load_tokenizer("bytes")
    tokens = open_token_files(prepare_token_files(find_corpus("shakespeare", shared / "data"), encoding, tmp_path))
    text = (shared / "data" / "tiny_shakespeare.txt").read_bytes()
    assert bytes(tokens["train"][:].astype(np.uint8)) == text[: int(len(text) * 0.9)]
    assert (
        bytes(tokens["val"][:].astype(np.uint8))
        == bytes(tokens["test"][:].astype(np.uint8))
        == text[int(len(text) * 0.9) :]
    )


def test_wikipedia_in_gpt2_tokens_decodes_to_itself(shared, gpt2, tmp_path):
    corpus = find_corpus(str(shared / "data" / "enwiki_sample.xml.bz2"), tmp_path)
    tokens = open_token_files(prepare_token_files(corpus, gpt2, tmp_path))
    digest = hashlib.sha256()
    for split in token_files.SPLITS:
        digest.update(gpt2.decode_bytes(tokens[split][:].tolist()))
    text = b"".join(block for _, block in corpora.read_corpus(corpus))
    assert digest.hexdigest() == hashlib.sha256(text).hexdigest()
    assert tokens["val"][:].tolist() == encode_bytes(gpt2, text[len(text) * 90 // 100 : len(text) * 95 // 100]).tolist()


def test_what_is_prepared_is_not_read_again(tmp_path, monkeypatch):
    encoding = load_tokenizer("bytes")
    first, _ = prepare(b"some text " * 100, encoding, tmp_path)

    def read_again(corpus):
        raise AssertionError("the corpus was read again")

    monkeypatch.setattr(token_files, "read_corpus", read_again)
    monkeypatch.setattr(identity, "read_corpus", read_again)
    corpus = find_corpus(str(tmp_path / "text.txt"), tmp_path)
    assert prepare_token_files(corpus, encoding, tmp_path / "data") == first


def test_other_text_or_another_tokenizer_goes_elsewhere(tmp_path, bpe):
    encoding = load_tokenizer("bytes")
    directories = {prepare(text, encoding, tmp_path)[0] for text in (b"some text " * 100, b"same size " * 100)}
    directories.add(prepare(b"same size " * 100, bpe, tmp_path)[0])
    assert len(directories) == 3


def prepare_slowly(pipe, corpus: Path, data_dir: Path) -> None:
    """Prepares in a process of its own; tells when it begins to tokenise, and waits there for an answer."""
    pieces = []

    def encode(encoding, data):
        if not pieces:
            pieces.append(data)
            pipe.send("tokenising")
            pipe.recv()
        return encode_bytes(encoding, data)

    shards.encode_bytes, make_once.say = encode, pipe.send
    directory = prepare_token_files(find_corpus(str(corpus), data_dir), load_tokenizer("bytes"), data_dir)
    pipe.send(directory if open_token_files(directory) else None)


def test_of_two_processes_one_tokenises_and_the_other_waits(tmp_path, start):
    corpus, data_dir = tmp_path / "text.txt", tmp_path / "data"
    corpus.write_bytes(make_text(100_000))
    _, first = start(prepare_slowly, corpus, data_dir)
    assert first.recv() == "tokenising"
    _, second = start(prepare_slowly, corpus, data_dir)
    waits = second.recv()
    assert waits.startswith(f"Another process is making {data_dir / 'tokens' / 'text_txt-bytes-'}")
    first.send("go on")
    directory = first.recv()
    assert second.recv() == directory
    assert {path.name for path in directory.parent.iterdir()} == {directory.name, "digests.json"}


def test_when_one_process_is_killed_the_other_takes_over_and_cleans_up(tmp_path, start):
    corpus, data_dir = tmp_path / "text.txt", tmp_path / "data"
    corpus.write_bytes(make_text(100_000))
    process, first = start(prepare_slowly, corpus, data_dir)
    assert first.recv() == "tokenising"
    (left,) = (data_dir / "tokens").glob(".partial-*")
    _, second = start(prepare_slowly, corpus, data_dir)
    assert "waiting" in second.recv()
    process.kill()
    assert second.recv() == "tokenising"
    assert left.exists()  # where the other goes on
    assert not list((data_dir / "tokens").glob("text*"))
    second.send("go on")
    directory = second.recv()
    assert {path.name for path in directory.parent.iterdir()} == {directory.name, "digests.json"}


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_the_first_to_finish_wins(error, tmp_path, monkeypatch):
    """As on some network filesystems: another process makes the same while this one is at it, and neither is harmed."""

    def no_lock(*args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", no_lock)
    encoding = load_tokenizer("bytes")
    write, made = token_files._write, []

    def write_before_another_process(*args):
        monkeypatch.setattr(token_files, "_write", write)
        write(*args)
        made.append(prepare_token_files(args[0], encoding, tmp_path / "data"))

    monkeypatch.setattr(token_files, "_write", write_before_another_process)
    directory, tokens = prepare(b"some text " * 100, encoding, tmp_path)
    assert made == [directory]
    assert len(tokens["train"]) == 900
    visible = {path.name for path in directory.parent.iterdir() if not path.name.endswith(".lock")}
    assert visible == {directory.name, "digests.json"}


def test_a_full_disk_leaves_what_was_there(tmp_path, start):
    encoding = load_tokenizer("bytes")
    before, _ = prepare(b"some text " * 100, encoding, tmp_path)
    (tmp_path / "large.txt").write_bytes(make_text(500_000))
    corpus = find_corpus(str(tmp_path / "large.txt"), tmp_path)
    arguments = (corpus, encoding, tmp_path / "data")
    _, pipe = start(lambda pipe: with_files_of_at_most(100_000, pipe, prepare_token_files, *arguments))
    assert pipe.recv() == (
        f"{tmp_path / 'data' / 'tokens'} cannot be written ([Errno 27] File too large): make room or choose another "
        "--data.data_dir."
    )
    assert {path.name for path in before.parent.iterdir()} == {before.name, "digests.json"}
    assert len(open_token_files(before)["train"]) == 900
    after = prepare_token_files(*arguments)  # when there is room again
    assert len(open_token_files(after)["train"]) == 450_000


def test_what_is_prepared_needs_no_room(tmp_path, start):
    """Nor leave to write: what is remembered of the corpus is lost here, and only costs another reading."""
    encoding = load_tokenizer("bytes")
    directory, _ = prepare(b"some text " * 100, encoding, tmp_path)
    (directory.parent / "digests.json").unlink()
    corpus = find_corpus(str(tmp_path / "text.txt"), tmp_path)
    arguments = (corpus, encoding, tmp_path / "data")
    _, pipe = start(lambda pipe: with_files_of_at_most(0, pipe, prepare_token_files, *arguments))
    assert pipe.recv() == directory
    assert list(directory.parent.iterdir()) == [directory]


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(encoding, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "encode_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    assert [path.name for path in (tmp_path / "data" / "tokens").iterdir()] == ["digests.json"]


@pytest.mark.parametrize(("extra", "relation"), [(-2, "shorter"), (2, "longer")])
def test_a_token_file_of_another_length_is_named(tmp_path, extra, relation):
    directory, _ = prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    os.truncate(directory / "val_000000.bin", (directory / "val_000000.bin").stat().st_size + extra)
    with pytest.raises(
        UserError, match=f"val_000000.bin is {relation} than its index says: delete the directory {directory}"
    ):
        open_token_files(directory)


@pytest.mark.parametrize("split", token_files.SPLITS)
@pytest.mark.parametrize("bit", [0, -1])
def test_a_single_flipped_bit_is_noticed(tmp_path, split, bit):
    directory, _ = prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    data = bytearray((directory / f"{split}_000000.bin").read_bytes())
    data[bit] ^= 1
    (directory / f"{split}_000000.bin").write_bytes(data)
    with pytest.raises(
        UserError, match=f"{split}_000000.bin is damaged.*: delete the directory {directory} and start again"
    ):
        open_token_files(directory)


@pytest.mark.parametrize("name", ["index.json", "train_000000.bin"])
def test_a_missing_file_is_named(tmp_path, name):
    directory, _ = prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    (directory / name).unlink()
    with pytest.raises(UserError, match=f"is incomplete or damaged.*{name}.*delete the directory"):
        open_token_files(directory)


def test_deleting_a_damaged_directory_is_the_cure(tmp_path):
    encoding = load_tokenizer("bytes")
    directory, _ = prepare(b"some text " * 100, encoding, tmp_path)
    (directory / "index.json").write_text("{")
    with pytest.raises(UserError, match="is incomplete or damaged"):
        open_token_files(directory)
    shutil.rmtree(directory)
    assert prepare(b"some text " * 100, encoding, tmp_path)[0] == directory


def test_a_corpus_that_changed_is_tokenised_again_and_that_is_said(tmp_path, capsys):
    encoding, path = load_tokenizer("bytes"), tmp_path / "text.txt"
    first, _ = prepare(b"some text " * 100, encoding, tmp_path)
    assert prepare(b"some text " * 100, encoding, tmp_path)[0] == first
    assert capsys.readouterr().err == ""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"same size " * 100)
    os.utime(path, ns=times)  # as a copy would that keeps times
    second = prepare_token_files(find_corpus(str(path), tmp_path), encoding, tmp_path / "data")
    assert second != first
    said = "Corpus text_txt has changed since it was tokenised: tokenising it again.\n"
    assert capsys.readouterr().err == said
    assert prepare(b"some text " * 100, encoding, tmp_path)[0] == first  # these tokens are still there
    assert capsys.readouterr().err == ""


def test_a_corpus_that_changes_between_two_readings_is_refused(tmp_path, monkeypatch):
    encoding = load_tokenizer("bytes")
    read = identity.read_corpus

    def read_and_change(corpus):
        yield from read(corpus)
        (tmp_path / "text.txt").write_bytes(b"same size " * 100)

    monkeypatch.setattr(identity, "read_corpus", read_and_change)
    with pytest.raises(UserError, match="changed while it was being read: start again"):
        prepare(b"some text " * 100, encoding, tmp_path)
    assert not list((tmp_path / "data" / "tokens").iterdir())


@pytest.mark.parametrize("wrong", [["0" * 64, 1000], ["0" * 64, 999], [None, 1001], [None, 0]])
def test_starting_again_cures_what_is_wrongly_remembered(wrong, tmp_path):
    encoding, cache = load_tokenizer("bytes"), tmp_path / "data" / "tokens" / "digests.json"
    directory, _ = prepare(b"some text " * 100, encoding, tmp_path)
    ((source, (stamp, digest, _)),) = json.loads(cache.read_text()).items()
    cache.write_text(json.dumps({source: [stamp, wrong[0] or digest, wrong[1]]}))
    shutil.rmtree(directory)
    corpus = find_corpus(str(tmp_path / "text.txt"), tmp_path)
    with pytest.raises(UserError):
        prepare_token_files(corpus, encoding, tmp_path / "data")
    assert prepare_token_files(corpus, encoding, tmp_path / "data") == directory


def test_a_file_that_goes_away_is_named(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"some text " * 100)
    corpus = find_corpus(str(tmp_path / "text.txt"), tmp_path)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(UserError, match=r"^Corpus text_txt cannot be read .*text\.txt"):
        prepare_token_files(corpus, load_tokenizer("bytes"), tmp_path / "data")


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is empty: .*text\.txt holds no text"):
        prepare(b"", load_tokenizer("bytes"), tmp_path)


def test_a_tiny_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"text_txt \(20 bytes\) is too small: its val split"):
        prepare(b"x" * 20, load_tokenizer("bytes"), tmp_path)


@pytest.mark.parametrize(
    ("percents", "expected"),
    [
        ((0, 0, 100), {"train": b"", "val": b"", "test": b"words"}),
        ((100, 0, 0), {"train": b"words", "val": b"", "test": b""}),
        ((50, 0, 50), {"train": b"wo", "val": b"", "test": b"rds"}),
    ],
)
def test_only_a_split_that_has_a_share_needs_text(percents, expected, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"words")
    corpus = replace(find_corpus(str(tmp_path / "text.txt"), tmp_path), percents=percents)
    tokens = open_token_files(prepare_token_files(corpus, load_tokenizer("bytes"), tmp_path))
    assert {split: bytes(array[:].tolist()) for split, array in tokens.items()} == expected


def test_a_split_that_has_a_share_and_no_text_is_refused(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"words")
    corpus = replace(find_corpus(str(tmp_path / "text.txt"), tmp_path), percents=(0, 20, 80))
    with pytest.raises(UserError, match="its val split has nothing to predict"):
        prepare_token_files(corpus, load_tokenizer("bytes"), tmp_path)


def test_a_named_corpus_with_other_text_is_refused(tmp_path):
    path = tmp_path / "tiny_shakespeare.txt"
    path.write_text("To be" * 1000)
    with pytest.raises(UserError, match=f"{path} is not shakespeare .*sha256.*delete it .*--data.corpus {path}"):
        prepare_token_files(find_corpus("shakespeare", tmp_path), load_tokenizer("bytes"), tmp_path)


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/tokens cannot be written.*--data.data_dir"):
        prepare_token_files(Corpus("pydoc"), load_tokenizer("bytes"), tmp_path / "file")


def test_memory_does_not_grow_with_the_corpus(tmp_path, bpe, start, monkeypatch):
    """Nor with the length of a line: all of these are one, without a place to cut."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # pieces under way, which take memory, are as many as threads
    sizes = {"small": 4_000_000, "large": 10_000_000, "bytes": 100_000_000}
    for name, size in sizes.items():
        with (tmp_path / name).open("wb") as file:
            for _ in range(size // 1_000_000):
                file.write(b"x" * 1_000_000)

    def prepare_all(pipe):
        for name in sizes:
            encoding = load_tokenizer("bytes") if name == "bytes" else bpe
            directory = prepare_token_files(find_corpus(str(tmp_path / name), tmp_path), encoding, tmp_path)
            tokens = open_token_files(directory)
            pipe.send((sum(len(split) for split in tokens.values()), peak_memory()))

    _, pipe = start(prepare_all)
    lengths, peaks = zip(*(pipe.recv() for _ in sizes), strict=True)
    assert lengths == tuple(sizes.values())
    assert max(peaks) - peaks[0] < 40, f"peaks in MB: {peaks}"
