"""docs/corpora.md: each kind of corpus, through `data.prepare`, `data.describe` and train.py."""

import bz2
import gzip
import json
import re
import shlex
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gpt_lightning.interop.any_checkpoint import load_checkpoint
from tests.command_line import TINY
from tests.conftest import shared_file
from tests.whole_runs.conftest import LAST, error_line, loss_by_hand, printed_loss, ranks

PREPARE, DESCRIBE = "gpt_lightning.data.prepare", "gpt_lightning.data.describe"
TEXTS = ["The first text. " * 40, "A second one, and longer. " * 60, "Größe, 漢字: the third. " * 50]
END = 256  # the id of <|endoftext|> in a ranks file of single bytes


def lines_of(texts, key: str = "text") -> bytes:
    return "".join(json.dumps({key: text}) + "\n" for text in texts).encode()


def parquet(path: Path, texts, key: str = "text") -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({key: texts}), path)


@pytest.fixture
def prepare(module_main, tmp_path):
    """Prepare a corpus; returns the token ids of all splits in order, index.json, and what was printed."""

    def run(corpus: object, *options: object) -> tuple[list[int], dict, str]:
        status, out, err = module_main(PREPARE, "--corpus", corpus, *options)
        assert status == 0, err
        place = tmp_path / re.match(r"In (.+):", out)[1]
        index = json.loads((place / "index.json").read_text())
        kind = np.uint16 if index["vocabulary"] <= 65536 else np.uint32
        parts = [np.fromfile(place / f"{split}_000000.bin", kind) for split in ("train", "val", "test")]
        return np.concatenate(parts).tolist(), index, out + err

    return run


def documents(index: dict) -> int:
    return sum(split["documents"] for split in index["splits"].values())


def sizes_of(printed: str) -> dict[str, int]:
    """How many tokens each split has, from the table that the command prints."""
    rows = re.findall(r"^(\w+) +([\d,]+) tokens", printed, re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in rows}


def pack(kind: str, directory: Path) -> str:
    """Write TEXTS as this kind of corpus; returns the value for `--corpus`."""
    directory.mkdir()
    raw = [text.encode() for text in TEXTS]
    match kind:
        case "directory" | "glob":
            (directory / "deep/er").mkdir(parents=True)
            for name, text in zip(("a.txt", "deep/b.txt", "deep/er/c.txt"), raw, strict=True):
                (directory / name).write_bytes(text)
            return f"{directory}/**/*.txt" if kind == "glob" else str(directory)
        case "mixed":
            (directory / "1.txt.gz").write_bytes(gzip.compress(raw[0]))
            (directory / "2.jsonl").write_bytes(lines_of([TEXTS[1]]))
            (directory / "3.txt").write_bytes(raw[2])
            return str(directory)
        case "texts.zip":
            with zipfile.ZipFile(directory / kind, "w") as archive:
                for name, text in zip("abc", raw, strict=True):
                    archive.writestr(f"{name}.txt", text)
        case "texts.parquet":
            parquet(directory / kind, TEXTS)
        case _:
            lines = lines_of(TEXTS)
            packed = {"gz": gzip.compress, "bz2": bz2.compress}.get(kind.rpartition(".")[2], bytes)
            (directory / kind).write_bytes(packed(lines))
    return str(directory / kind)


RECORDS = ["texts.jsonl", "texts.ndjson", "texts.jsonl.gz", "texts.ndjson.bz2", "texts.parquet"]


@pytest.mark.parametrize("kind", ["directory", "glob", "mixed", "texts.zip", *RECORDS])
def test_texts_of_every_kind_are_documents_in_the_order_of_their_names(prepare, tmp_path, kind):
    (tmp_path / "ranks").write_bytes(ranks())
    tokens, index, _ = prepare(pack(kind, tmp_path / "texts"), "--tokenizer", "ranks")
    assert documents(index) >= 3
    assert bytes(token for token in tokens if token != END) == "".join(TEXTS).encode()
    assert tokens.count(END) >= 2
    assert tokens[: len(TEXTS[0]) + 1] == [*TEXTS[0].encode(), END]


@pytest.mark.parametrize("suffix", ["gz", "bz2"])
def test_packed_text_is_unpacked(prepare, tmp_path, suffix):
    text = "".join(TEXTS).encode()
    (tmp_path / f"text.txt.{suffix}").write_bytes({"gz": gzip, "bz2": bz2}[suffix].compress(text))
    tokens, _, _ = prepare(f"text.txt.{suffix}")
    assert bytes(tokens) == text


def test_prepared_tokens_are_a_directory_that_training_reads_without_the_text(prepare, fit, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/one.txt").write_text("".join(TEXTS) * 4)
    _, index, out = prepare("texts/", "--tokenizer", "bpe:300")
    (place,) = tmp_path.glob("data/tokens/texts-bpe300-*")
    names = {path.name for path in place.iterdir()}
    shards = {f"{split}_000000.bin" for split in ("train", "val", "test")}
    assert {"index.json", "ranks.tiktoken", "checked.json", *shards} <= names
    assert index["vocabulary"] == 300
    assert "Train on it with  python train.py fit --data.corpus texts/ --data.tokenizer bpe:300" in out
    place.rename(tmp_path / "moved")
    (tmp_path / "texts/one.txt").unlink()
    out, _ = fit("--data.tokenizer=moved/ranks.tiktoken", "--trainer.max_steps=1", corpus="moved")
    assert load_checkpoint(tmp_path / LAST).encoding.n_vocab == 300


def test_prepared_is_prepared_once(prepare, tmp_path):
    (tmp_path / "text.txt").write_text("".join(TEXTS))
    prepare("text.txt")
    (index,) = tmp_path.glob("data/tokens/*/index.json")
    written = index.stat().st_mtime_ns
    prepare("text.txt")
    assert index.stat().st_mtime_ns == written


def test_only_so_much_of_a_text_is_read(prepare, fit, tmp_path):
    (tmp_path / "text.txt").write_text("0123456789" * 1000)
    assert len(prepare("text.txt", "--max_bytes", "2e3")[0]) == 2000
    fit("--data.max_bytes=3000", "--trainer.max_steps=1", corpus="text.txt")
    indices = [json.loads(path.read_text())["splits"] for path in tmp_path.glob("data/tokens/*/index.json")]
    assert sorted(sum(split["tokens"] for split in index.values()) for index in indices) == [2000, 3000]


@pytest.mark.parametrize(("percents", "sizes"), [(None, [9000, 500, 500]), ((80, 15, 5), [8000, 1500, 500])])
def test_splits_are_shares_of_the_bytes_from_front_to_back(module_main, fit, tmp_path, percents, sizes):
    (tmp_path / "text.txt").write_text("0123456789" * 1000)
    options = [] if percents is None else ["--percents", *percents]
    status, out, err = module_main(PREPARE, "--corpus", "text.txt", *options)
    assert status == 0, err
    assert sizes_of(out) == dict(zip(("train", "val", "test"), sizes, strict=True))
    (command,) = [line for line in out.splitlines() if line.startswith("Train on it with")]
    fit(*shlex.split(command)[7:], "--trainer.max_steps=1", corpus="text.txt")  # after `python train.py fit`
    assert len(list(tmp_path.glob("data/tokens/*/index.json"))) == 1  # train.py took the same


def test_records_have_their_text_under_the_key_that_is_named(fit, prepare, module_main, tmp_path):
    (tmp_path / "texts.jsonl").write_bytes(lines_of(TEXTS, "body"))
    tokens, index, _ = prepare("texts.jsonl", "--text_key", "body")
    assert bytes(tokens) == "".join(TEXTS).encode()
    assert documents(index) >= 3
    out, _ = fit("--data.text_key=body", "--trainer.max_steps=1", corpus="texts.jsonl")
    assert "Stopped after 1 optimiser steps" in out
    (tmp_path / "bad.jsonl").write_bytes(lines_of(TEXTS) + b"{\n")
    status, _, err = module_main(PREPARE, "--corpus", "bad.jsonl")
    assert status == 1
    assert "line 4" in error_line(err)


def test_a_dataset_keeps_the_documents_it_has_for_validation_and_test(prepare, tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "stories").mkdir()
    for split, count in (("train", 40), ("validation", 7), ("test", 5)):
        texts = [f"A story of {split}, number {n}. " * 20 for n in range(count)]
        (tmp_path / "stories" / f"{split}.jsonl").write_bytes(lines_of(texts))
    _, index, _ = prepare(f"hf:{tmp_path}/stories")
    assert [index["splits"][name]["documents"] for name in ("train", "val", "test")] == [40, 7, 5]


def test_a_dataset_without_them_gives_one_document_of_a_hundred_to_each(prepare, fit, tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "stories").mkdir()
    parquet(tmp_path / "stories/train.parquet", [f"A story, number {n}. " * 5 for n in range(300)], "body")
    _, index, _ = prepare(f"hf:{tmp_path}/stories", "--text_key", "body")
    assert [index["splits"][name]["documents"] for name in ("train", "val", "test")] == [294, 3, 3]
    out, _ = fit("--data.text_key=body", "--trainer.max_steps=1", corpus=f"hf:{tmp_path}/stories")
    assert "Stopped after 1 optimiser steps" in out


def test_tokens_of_llm_c_are_trained_on_where_they_lie(fit, module_main, tmp_path):
    (tmp_path / "theirs").mkdir()
    for name, text in (("fw_train_000001", TEXTS[0]), ("fw_train_000002", TEXTS[1]), ("fw_val_000000", TEXTS[2])):
        tokens = np.frombuffer(text.encode(), np.uint8).astype(np.uint16)
        header = np.zeros(256, np.int32)
        header[:3] = 20240520, 1, len(tokens)
        (tmp_path / "theirs" / f"{name}.bin").write_bytes(header.tobytes() + tokens.tobytes())
    out, _ = fit("--trainer.max_steps=1", corpus="theirs/*.bin")
    assert "Stopped after 1 optimiser steps" in out
    assert not list(tmp_path.glob("data/tokens/*/*.bin"))
    status, out, err = module_main(DESCRIBE, "--corpus", "theirs")
    assert status == 0, err
    assert f"{len(TEXTS[0]) + len(TEXTS[1]):,}" in out


# ---- describing


def test_a_description_has_sizes_documents_frequent_tokens_and_what_is_repeated(module_main, tmp_path):
    """The training text contains all of the test split word for word, and half of the val split."""
    train, new = "The cat sat on the mat, and so on and on. " * 225, "".join(map(chr, range(33, 127)))
    text = (train[:9000] + (new * 3)[:256] + train[:244] + train[:500]).encode()
    (tmp_path / "my_text.txt").write_bytes(text)
    status, out, err = module_main(DESCRIBE, "--corpus", "my_text.txt")
    assert status == 0, err
    for row in (
        r"train +\d+ +9,000 +9,000 +90\.0% +1\.00",
        r"val +\d+ +500 +500 +5\.0% +1\.00",
        r"all +\d+ +10,000 +10,000",
    ):
        assert re.search(f"^{row}", out, re.MULTILINE), row
    frequent = re.findall(r"^ +(\d+) +([\d.]+)%", out, re.MULTILINE)
    assert frequent[0][0] == str(ord(" "))
    assert float(frequent[0][1]) == pytest.approx(100 * text.count(b" ") / len(text), abs=0.01)
    seen = {name: (int(a), int(b)) for a, b, name in re.findall(r"(\d+) of (\d+) sequences of 32 tokens in (\w+)", out)}
    assert seen["test"] == (15, 15)
    assert seen["val"] == (7, 15)


@pytest.mark.parametrize("module", [PREPARE, DESCRIBE])
@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--corpus", "nowhere.txt"], 1, "nowhere.txt"),
        (["--corpus", "empty.txt"], 1, "empty"),
        (["--tokenizer", "nowhere.tiktoken"], 1, "nowhere.tiktoken"),
        (["--max_bytes", "many"], 2, "many"),
        (["--percents", "50", "50", "50"], 1, "100"),
        (["--corpuss", "x"], 2, "--corpus"),
    ],
)
def test_bad_input_is_one_sentence(module_main, tmp_path, module, args, status, message):
    (tmp_path / "empty.txt").touch()
    actual, _, err = module_main(module, *args)
    assert actual == status
    assert message in error_line(err)
    assert not list(tmp_path.glob("data/tokens/*/index.json"))


@pytest.mark.parametrize(
    ("library", "args"),
    [
        ("tokenizers", ["--corpus=text.txt", "--tokenizer=bpe:300"]),
        ("pyarrow", ["--corpus=text.parquet"]),
        ("datasets", ["--corpus=hf:stories"]),
    ],
)
def test_what_has_to_be_installed_for_it_is_named(module_main, tmp_path, monkeypatch, library, args):
    (tmp_path / "text.txt").write_text("".join(TEXTS))
    (tmp_path / "text.parquet").write_bytes(b"PAR1")
    (tmp_path / "stories").mkdir()
    for name in [name for name in sys.modules if name.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    status, _, err = module_main(PREPARE, *args)
    assert status == 1
    assert "requirements-data.txt" in error_line(err)


# ---- downloads


@pytest.fixture
def nothing_cached(no_network, monkeypatch, tmp_path) -> None:
    """No network, and no tokenizer downloaded before."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data.corpus=shakespeare"], ["https://", "data/tiny_shakespeare.txt"]),
        (["--data.corpus=enwik8"], ["https://", "data/enwik8"]),
        (["--data.tokenizer=cl100k_base"], ["cl100k_base", "tiktoken_cache_dir"]),
    ],
)
def test_without_a_network_the_message_says_which_file_to_put_where(
    main, nothing_cached, corpus_file, tmp_path, options, named
):
    status, _, err = main("train.py", "fit", *TINY, f"--data.corpus={corpus_file}", *options)
    assert status == 1
    assert all(part in error_line(err) for part in named)
    assert not list(tmp_path.rglob("version_*"))


def test_a_file_put_there_that_is_another_is_refused_by_its_hash(main, no_network, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tiny_shakespeare.txt").write_text("To be or not. " * 1000)
    status, _, err = main("train.py", "fit", *TINY, "--data.corpus=shakespeare")
    assert status == 1
    assert "tiny_shakespeare.txt" in error_line(err)
    assert (tmp_path / "data/tiny_shakespeare.txt").is_file()


def test_shakespeare_put_there_is_taken_and_tested_on_what_it_is_validated_on(module_main, no_network, tmp_path):
    text = shared_file("data/tiny_shakespeare.txt").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tiny_shakespeare.txt").write_bytes(text)
    status, out, err = module_main(PREPARE, "--corpus", "shakespeare")
    assert status == 0, err
    train = len(text) * 9 // 10
    assert sizes_of(out) == {"train": train, "val": len(text) - train, "test": len(text) - train}


@pytest.mark.parametrize(("name", "n_ids"), [("gpt2", 50257), ("cl100k_base", 100277), ("o200k_base", 200019)])
def test_a_published_tokenizer_sets_how_many_ids_there_are(main, nothing_cached, corpus_file, tmp_path, name, n_ids):
    """The number is known without the file: fewer ids are refused before anything is downloaded."""
    few = ["--model.gpt.vocab_size=99", f"--data.tokenizer={name}"]
    status, _, err = main("train.py", "fit", *TINY, f"--data.corpus={corpus_file}", *few)
    assert status == 1
    assert f"{n_ids:,}" in error_line(err)


# ---- the stride of a test


@pytest.mark.parametrize("stride", [8, 32])
def test_with_a_stride_each_token_is_predicted_once_from_all_but_so_many_of_a_context(
    must_work, last, tmp_path, stride
):
    text = bytes(range(32, 127)) * 3 + b"the cat sat on the mat. " * 9
    (tmp_path / "other.txt").write_bytes(text)
    options = [*TINY, "--data.corpus=other.txt", f"--ckpt_path={last}", f"--data.test_stride={stride}"]
    out, _ = must_work("train.py", "test", *options, "--trainer.enable_progress_bar=false")
    assert printed_loss(out) == pytest.approx(loss_by_hand(load_checkpoint(last).model, text, 32, stride), rel=1e-5)


def test_a_stride_that_would_leave_tokens_out_is_refused(main, last, corpus_file):
    options = [*TINY, f"--data.corpus={corpus_file}", f"--ckpt_path={last}", "--data.test_stride=33"]
    status, _, err = main("train.py", "test", *options)
    assert status == 1
    assert "test_stride" in error_line(err)
