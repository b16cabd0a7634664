"""A format is one module: everything that lists formats finds it, and files of it are read like any others."""

import gzip
import importlib
import json
import sys
from pathlib import Path

import pytest

from gpt_lightning.data import prepare as command
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.data.text import formats
from gpt_lightning.data.text.corpora import find_corpus, read_corpus
from gpt_lightning.errors import UserError

DOCS = Path(__file__).parents[3] / "docs" / "corpora.md"

ROT13 = '''
"""Verse that must not be read by accident."""

import codecs

from gpt_lightning.data.text.blocks import blocks_of_texts, open_unpacked

SUFFIXES = (".txt.rot13",)
DESCRIPTION = "poems in rot13, with an empty line between them"
DOCUMENT = "a poem"
BINARY = False


def read(path, text_key):
    with open_unpacked(path) as file:
        yield from blocks_of_texts(codecs.decode(file.read().decode(), "rot13").split("\\n\\n"))
'''


@pytest.fixture
def rot13(tmp_path, monkeypatch):
    """The package with one more module in it."""
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "rot13.py").write_text(ROT13)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    importlib.invalidate_caches()
    yield
    sys.modules.pop(f"{formats.__name__}.rot13", None)
    vars(formats).pop("rot13", None)


@pytest.fixture
def poems(tmp_path) -> Path:
    folder = tmp_path / "poems"
    folder.mkdir()
    (folder / "a.txt").write_text("Bar\n\ngjb")  # not in rot13
    (folder / "b.txt.rot13").write_text("Bar\n\ngjb")
    (folder / "c.TXT.rot13.gz").write_bytes(gzip.compress(b"guerr"))
    return folder


def test_one_module_is_all_that_a_new_format_takes(rot13, poems, tmp_path):
    assert [text for _, text in read_corpus(find_corpus(str(poems), tmp_path))] == [
        b"Bar\n\ngjb",
        b"One",
        b"two",
        b"three",
    ]
    assert (
        "| `.txt.rot13`, also packed as `.gz` or `.bz2` | poems in rot13, with an empty line between them | a poem |"
        in formats.table().splitlines()
    )
    (poems / "empty").mkdir()
    (poems / "empty" / "noise").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"has no text to read .*1 binary.*\.txt\.rot13"):
        find_corpus(str(poems / "empty"), tmp_path)


def test_the_command_prepares_a_new_format(rot13, poems, tmp_path, monkeypatch, capsys):
    (poems / "d.txt.rot13").write_text("\n\n".join(["nyy gur jbeyq'f n fgntr"] * 100))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare", "--corpus", "poems/d*"])
    command.main()
    assert "tokens" in capsys.readouterr().out
    (index,) = tmp_path.glob("data/tokens/*/index.json")
    splits = json.loads(index.read_text())["splits"]
    assert sum(split["bytes"] for split in splits.values()) == 100 * len("all the world's a stage")
    assert splits["train"]["documents"] == 90


def test_without_the_module_there_is_no_such_format(poems, tmp_path):
    assert [text for _, text in read_corpus(find_corpus(str(poems), tmp_path))] == [
        b"Bar\n\ngjb",
        b"Bar\n\ngjb",
        b"guerr",
    ]


def test_help_and_docs_list_what_the_modules_say():
    assert formats.in_words() in TextDataModule.__doc__
    assert ".ndjson" in formats.in_words()
    documented = DOCS.read_text().partition("<!-- formats: begin -->\n")[2].partition("\n<!-- formats: end -->")[0]
    assert documented == formats.table(), f"docs/corpora.md must have this table:\n{formats.table()}"


@pytest.mark.parametrize(
    ("name", "module", "may_hold_nul"),
    [
        ("a", "plain", False),
        ("a.b.txt", "plain", False),
        ("a.txt.GZ", "plain", True),
        ("a.tar.bz2", "plain", True),
        ("a.jsonl", "json_lines", False),
        ("a.txt.NDJSON", "json_lines", False),
        ("a.jsonl.bz2", "json_lines", True),
        ("a.jsonl.zip", "zip_archive", True),
        ("a.jsonl.gz.gz", "plain", True),
        ("a.ZIP", "zip_archive", True),
        ("a.zip.gz", "plain", True),
        ("a.parquet", "parquet", True),
        ("a.parquet.gz", "plain", True),
        ("jsonl", "plain", False),
        (".jsonl", "plain", False),
        ("ajsonl.gz", "plain", True),
    ],
)
def test_the_name_of_a_file_says_its_format(name, module, may_hold_nul):
    assert formats.format_of(Path("some.zip") / name).__name__ == f"{formats.__name__}.{module}"
    assert formats.may_hold_nul(Path(name)) == may_hold_nul


def test_no_two_formats_claim_a_suffix():
    suffixes = [suffix for form in formats._all() for suffix in form.SUFFIXES]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() for suffix in suffixes)
