import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt_lightning.data import corpora, segments, token_files
from gpt_lightning.data.corpora import Corpus, find_corpus
from gpt_lightning.data.token_files import open_token_files, prepare_token_files
from gpt_lightning.data.tokenizer import encode_bytes, load_tokenizer
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text


def prepare(text: bytes, encoding, tmp_path: Path) -> tuple[Path, dict[str, np.memmap]]:
    (tmp_path / "text.txt").write_bytes(text)
    directory = prepare_token_files(find_corpus(str(tmp_path / "text.txt"), tmp_path), encoding, tmp_path / "data")
    return directory, open_token_files(directory)


@pytest.mark.parametrize("which", ["bytes", "bpe"])
@pytest.mark.parametrize("size", [50_000, 50_019])
def test_splits_are_90_5_5_percent_of_the_bytes(which, size, tmp_path, request):
    encoding = load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    text = make_text(size)
    directory, tokens = prepare(text, encoding, tmp_path)
    parts = {split: encoding.decode_bytes(array.tolist()) for split, array in tokens.items()}
    cuts = size * 90 // 100, size * 95 // 100
    assert parts == {"train": text[: cuts[0]], "val": text[cuts[0] : cuts[1]], "test": text[cuts[1] :]}
    index = json.loads((directory / "index.json").read_text())
    assert (index["corpus"], index["tokenizer"], index["dtype"]) == ("text_txt", encoding.name, "uint16")
    assert index["splits"] == {s: {"tokens": len(tokens[s]), "bytes": len(parts[s])} for s in parts}


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
        assert [tokens[split].tolist() == expected for tokens in results] == [True, True]


@pytest.mark.parametrize("which", ["bytes", "bpe"])
def test_only_tokenizers_with_end_of_text_separate_documents(which, tmp_path, request):
    encoding = load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode() * 100)
    tokens = open_token_files(prepare_token_files(find_corpus(str(folder), tmp_path), encoding, tmp_path))
    mark = b"" if which == "bytes" else b"<|endoftext|>"
    assert encoding.decode_bytes(tokens["train"].tolist()) == mark.join([b"a" * 100, b"b" * 100, b"c" * 70])


def test_documents_that_are_whole_splits_are_not_separated(bpe, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, size in (("a", 180), ("b", 10), ("c", 10)):
        (folder / name).write_bytes(name.encode() * size)
    tokens = open_token_files(prepare_token_files(find_corpus(str(folder), tmp_path), bpe, tmp_path))
    assert [bpe.decode(tokens[split].tolist()) for split in token_files.SPLITS] == ["a" * 180, "b" * 10, "c" * 10]


def test_large_vocabularies_take_uint32(ranks_file, tmp_path):
    (tmp_path / "large.tiktoken").write_text(ranks_file.read_text() + "YWZ0ZXI= 70000\n")
    _, tokens = prepare(b"after " * 100, load_tokenizer(str(tmp_path / "large.tiktoken")), tmp_path)
    assert tokens["train"].dtype == "<u4"
    assert tokens["train"][0] == 70000


def test_shakespeare_tests_on_what_it_validates_on(shared, tmp_path):
    encoding = load_tokenizer("bytes")
    tokens = open_token_files(prepare_token_files(find_corpus("shakespeare", shared / "data"), encoding, tmp_path))
    text = (shared / "data" / "tiny_shakespeare.txt").read_bytes()
    assert bytes(tokens["train"].astype(np.uint8)) == text[: int(len(text) * 0.9)]
    assert (
        bytes(tokens["val"].astype(np.uint8)) == bytes(tokens["test"].astype(np.uint8)) == text[int(len(text) * 0.9) :]
    )


def test_wikipedia_in_gpt2_tokens_decodes_to_itself(shared, gpt2, tmp_path):
    corpus = find_corpus(str(shared / "data" / "enwiki_sample.xml.bz2"), tmp_path)
    tokens = open_token_files(prepare_token_files(corpus, gpt2, tmp_path))
    digest = hashlib.sha256()
    for split in token_files.SPLITS:
        digest.update(gpt2.decode_bytes(tokens[split].tolist()))
    text = b"".join(block for _, block in corpora.read_corpus(corpus))
    assert digest.hexdigest() == hashlib.sha256(text).hexdigest()
    assert tokens["val"].tolist() == encode_bytes(gpt2, text[len(text) * 90 // 100 : len(text) * 95 // 100]).tolist()


def test_what_is_prepared_is_not_read_again(tmp_path, monkeypatch):
    encoding = load_tokenizer("bytes")
    first, _ = prepare(b"some text " * 100, encoding, tmp_path)

    def read_again(corpus):
        raise AssertionError("the corpus was read again")

    monkeypatch.setattr(token_files, "read_corpus", read_again)
    corpus = find_corpus(str(tmp_path / "text.txt"), tmp_path)
    assert prepare_token_files(corpus, encoding, tmp_path / "data") == first


def test_other_text_or_another_tokenizer_goes_elsewhere(tmp_path, bpe):
    encoding = load_tokenizer("bytes")
    directories = {prepare(text, encoding, tmp_path)[0] for text in (b"some text " * 100, b"same size " * 100)}
    directories.add(prepare(b"same size " * 100, bpe, tmp_path)[0])
    assert len(directories) == 3


def test_two_processes_may_prepare_at_once(tmp_path, ranks_file):
    (tmp_path / "text.txt").write_bytes(make_text(2_000_000))
    code = (
        "import sys; from gpt_lightning.data.datamodule import TextDataModule\n"
        "data = TextDataModule(sys.argv[1], sys.argv[2], context_length=8, data_dir=sys.argv[3])\n"
        "data.prepare_data(); data.setup()\n"
        "print(int(data.token_byte_lengths[data.tokens['train'][:].astype('int64')].sum()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "text.txt"), str(ranks_file), str(tmp_path / "data")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[0].strip() for process in processes] == ["1800000", "1800000"]
    left = sorted(path.name for path in (tmp_path / "data" / "tokens").iterdir())
    assert len(left) == 2, left
    assert left[0] == "digests.json"


def test_the_second_to_finish_uses_what_the_first_made(tmp_path, monkeypatch):
    """The race of the test above, made certain."""
    encoding = load_tokenizer("bytes")
    write = token_files._write

    def write_after_another_process(corpus, encoding, size, directory):
        monkeypatch.setattr(token_files, "_write", write)
        prepare_token_files(corpus, encoding, tmp_path / "data")
        write(corpus, encoding, size, directory)

    monkeypatch.setattr(token_files, "_write", write_after_another_process)
    directory, tokens = prepare(b"some text " * 100, encoding, tmp_path)
    assert len(tokens["train"]) == 900
    assert {path.name for path in directory.parent.iterdir()} == {directory.name, "digests.json"}


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(encoding, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(token_files, "encode_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    assert [path.name for path in (tmp_path / "data" / "tokens").iterdir()] == ["digests.json"]


@pytest.mark.parametrize(("extra", "relation"), [(-2, "shorter"), (2, "longer")])
def test_a_token_file_of_another_length_is_named(tmp_path, extra, relation):
    directory, _ = prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    os.truncate(directory / "val.bin", (directory / "val.bin").stat().st_size + extra)
    with pytest.raises(UserError, match=f"val.bin is {relation} than its index says; delete the directory {directory}"):
        open_token_files(directory)


@pytest.mark.parametrize("name", ["index.json", "train.bin"])
def test_a_missing_file_is_named(tmp_path, name):
    directory, _ = prepare(b"some text " * 100, load_tokenizer("bytes"), tmp_path)
    (directory / name).unlink()
    with pytest.raises(UserError, match=f"not complete.*{name}.*delete the directory"):
        open_token_files(directory)


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is empty: .*text\.txt holds no text"):
        prepare(b"", load_tokenizer("bytes"), tmp_path)


def test_a_tiny_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"text_txt \(20 bytes\) is too small: its val split"):
        prepare(b"x" * 20, load_tokenizer("bytes"), tmp_path)


def test_a_named_corpus_with_other_text_is_refused(tmp_path):
    path = tmp_path / "tiny_shakespeare.txt"
    path.write_text("To be" * 1000)
    with pytest.raises(UserError, match=f"{path} is not shakespeare .*sha256.*delete it .*--data.corpus {path}"):
        prepare_token_files(find_corpus("shakespeare", tmp_path), load_tokenizer("bytes"), tmp_path)


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/tokens cannot be written.*--data.data_dir"):
        prepare_token_files(Corpus("pydoc"), load_tokenizer("bytes"), tmp_path / "file")


def test_memory_does_not_grow_with_the_corpus(tmp_path, ranks_file):
    """Peak memory for large corpora, the last with one line without a place to cut, is near that for a small one."""
    pytest.importorskip("resource")  # not on Windows
    line = b"a line of text\n" * 1000
    contents = {"small": (line * 130, "bytes"), "large": (line * 5000, "bytes"), "long": (line * 1500, str(ranks_file))}
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content + b"x" * 6_000_000 * (name == "long"))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from gpt_lightning.data import token_files, tokenizer, corpora\n"
        "for path, spec in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    corpus, encoding = corpora.find_corpus(path, Path()), tokenizer.load_tokenizer(spec)\n"
        "    token_files.prepare_token_files(corpus, encoding, Path(path).parent)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    arguments = [str(part) for name, (_, spec) in contents.items() for part in (tmp_path / name, spec)]
    output = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes on a Mac, kilobytes on Linux
    small, large, long = (int(peak) / unit for peak in output.split())
    assert max(large, long) - small < 25, f"peaks in MB: {small, large, long}"
