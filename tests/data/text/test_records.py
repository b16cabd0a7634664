"""Documents out of JSON lines and Parquet, made by the libraries that people make them with."""

import bz2
import gzip
import json

import pytest

from gpt_lightning.data.text.corpora import find_corpus, read_corpus
from gpt_lightning.data.text.formats import json_lines
from gpt_lightning.errors import UserError
from tests.data import conftest

TEXTS = ["one\nline", "zwei « drei »", "漢字 \U0001f600", "\0 and \x7f", 'a "quote" \\ and a tab\t']


def documents(path, tmp_path, **options) -> list[bytes]:
    return conftest.documents(find_corpus(str(path), tmp_path / "data", **options))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.jsonl", bytes), ("a.NDJSON", bytes), ("a.jsonl.gz", gzip.compress), ("a.b.jsonl.bz2", bz2.compress)],
)
def test_each_line_of_json_is_a_document(tmp_path, name, pack, ascii_only):
    lines = [json.dumps({"id": i, "text": text}, ensure_ascii=ascii_only) for i, text in enumerate(TEXTS)]
    lines[2:2] = ["", '{"text": ""}', '  {"text": null}  ']  # no documents
    (tmp_path / name).write_bytes(pack("\r\n".join(lines).encode()))
    assert documents(tmp_path / name, tmp_path) == [text.encode() for text in TEXTS]


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(rb'{"text": "a \ud83d b \ud83d\ude00"}')
    assert documents(tmp_path / "a.jsonl", tmp_path) == ["a ? b \U0001f600".encode()]


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_each_row_of_parquet_is_a_document(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    types = {"dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string())}
    kind = types.get(kind) or getattr(pyarrow, kind)()
    many = TEXTS * 50
    table = pyarrow.table(
        {"n": list(range(len(many) + 2)), "body": pyarrow.array([*many, None, ""], pyarrow.string()).cast(kind)}
    )
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    assert documents(tmp_path / "a.parquet", tmp_path, text_key="body") == [text.encode() for text in many]


def test_a_directory_may_mix_formats(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("plain")
    (folder / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    parquet.write_table(pyarrow.table({"text": ["three", "four"]}), folder / "c.parquet")
    (folder / "d.txt.gz").write_bytes(gzip.compress(b"packed"))
    assert documents(folder, tmp_path) == [b"plain", b"one", b"two", b"three", b"four", b"packed"]


def test_a_long_document_comes_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt_lightning.data.text.blocks.BLOCK_BYTES", 10)
    (tmp_path / "a.jsonl").write_text('{"text": "0123456789abc"}\n{"text": "d"}')
    assert list(read_corpus(find_corpus(str(tmp_path / "a.jsonl"), tmp_path))) == [
        (0, b"0123456789"),
        (0, b"abc"),
        (1, b"d"),
    ]


@pytest.mark.parametrize("bytes_read", [1, 5, 6, 13, 14, 100])
def test_only_so_much_is_read(tmp_path, bytes_read):
    (tmp_path / "a.jsonl").write_text('{"text": "01234"}\n{"text": "56789abc"}')
    text = b"".join(documents(tmp_path / "a.jsonl", tmp_path, max_bytes=bytes_read))
    assert text == b"0123456789abc"[:bytes_read]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"body": "x", "id": 1}',
            r"Line 2 of .*bad\.jsonl has no text under 'text', only 'body', 'id': .*--data.text_key",
        ),
        (b"{}", "Line 2 of .* has no text under 'text', no key at all"),
        (b'["text"]', "Line 2 of .* has no text under 'text'"),
        (b'{"text": 5}', "Line 2 of .* has no text under 'text' but a value of type int"),
        (b'{"text": "x"', "Line 2 of .* is not a line of JSON"),
        (b'{"text": "\xff"}', "Line 2 of .* is not a line of JSON"),
        (b"[" * 100_000, "Line 2 of .* is not a line of JSON"),
        (b"x" * 2000, "Line 2 of .* is longer than 1,000 bytes"),
    ],
)
def test_a_line_that_holds_no_text_is_named(tmp_path, monkeypatch, line, message):
    if line.startswith(b"x"):
        monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1000)
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        documents(tmp_path / "bad.jsonl", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "no Parquet", "no text"])
def test_parquet_that_cannot_be_read_is_named(tmp_path, damage):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "bad.parquet"
    parquet.write_table(pyarrow.table({"text": [1, 2] if damage == "no text" else TEXTS}), path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "no Parquet":
        path.write_text("some text")
    expected = "holds no text but int64" if damage == "no text" else "bad.parquet is damaged or cannot be read"
    with pytest.raises(UserError, match=expected):
        documents(path, tmp_path)


def test_a_column_that_is_not_there_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": TEXTS, "id": [1] * len(TEXTS)}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a\.parquet has no column 'text', only 'body', 'id': name one with --data.text_key"
    ):
        documents(tmp_path / "a.parquet", tmp_path)


def test_without_pyarrow_the_command_to_install_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pyarrow reads: pip install -r requirements-data\.txt"):
        documents(tmp_path / "a.parquet", tmp_path)
