"""Preparing corpora: what is learnt, divided, kept and refused."""

import json
import sys
from pathlib import Path

import pytest

from gpt_lightning.command_line import clear_errors
from gpt_lightning.data import prepare as command
from gpt_lightning.data.prepare import prepare
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text

REPO = Path(__file__).parents[2]


def lines_of(texts) -> str:
    return "".join(json.dumps({"body": text}) + "\n" for text in texts)


def test_a_dataset_is_streamed_and_then_needed_no_more(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "train.jsonl").write_text(lines_of(f"story {n} " * 20 for n in range(300)))
    arguments = (f"hf:{tmp_path}/stories", "bytes", tmp_path / "data", "body")
    first = prepare(*arguments)
    monkeypatch.setitem(sys.modules, "datasets", None)
    again = prepare(*arguments)
    assert again.directory == first.directory
    assert again.tokens["train"][:].tolist() == first.tokens["train"][:].tolist()
    assert again.counts["val"]["documents"] == 3
    with pytest.raises(UserError, match="is streamed by Hugging Face's datasets"):
        prepare(*arguments, max_bytes=1000)


def test_a_dataset_that_is_asked_for_something_else_is_another_text(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "train.jsonl").write_text(
        "".join(json.dumps({"body": f"story {n} " * 20, "title": f"title {n}"}) + "\n" for n in range(300))
    )
    arguments = (f"hf:{tmp_path}/stories", "bytes", tmp_path / "data")
    prepared = [prepare(*arguments, "body"), prepare(*arguments, "title")]
    prepared += [prepare(*arguments, "body", 30_000), prepare(*arguments, "body", percents=[80, 10, 10])]
    (tmp_path / "stories" / "train.jsonl").write_text(lines_of(f"other {n} " * 20 for n in range(300)))
    prepared.append(prepare(*arguments, "body"))
    assert len({each.directory for each in prepared}) == 5


def test_tokens_keep_their_splits_and_their_tokenizer(tmp_path, ranks_file):
    (tmp_path / "text.txt").write_bytes(make_text(5_000))
    directory = prepare(str(tmp_path / "text.txt"), str(ranks_file), tmp_path / "data").directory
    with pytest.raises(UserError, match="holds tokens that have their splits: leave out percents and max_bytes"):
        prepare(str(directory), str(ranks_file), tmp_path / "data", percents=[80, 10, 10])
    with pytest.raises(UserError, match=r"are not those of tokenizer 'bytes': set --data.tokenizer .*ranks\.tiktoken"):
        prepare(str(directory), "bytes", tmp_path / "data")
    assert len(prepare(str(directory), str(directory / "ranks.tiktoken"), tmp_path / "data").tokens["train"]) > 1000
    (directory / "index.json").write_text("{}")
    with pytest.raises(UserError, match="is no index of token files"):
        prepare(str(directory), "bytes", tmp_path / "data")


def test_a_tokenizer_is_learnt_from_the_training_text_alone(tmp_path):
    pytest.importorskip("tokenizers")
    text = b"alpha beta gamma " * 530 + b"omega " * 166  # the last tenth
    (tmp_path / "text.txt").write_bytes(text)
    encoding = prepare(str(tmp_path / "text.txt"), "bpe:271", tmp_path / "data").encoding
    assert len(encoding.encode_ordinary(" gamma")) == 1
    assert len(encoding.encode_ordinary(" omega")) > 3
    with pytest.raises(UserError, match=r"largest possible is --data.tokenizer bpe:271"):
        prepare(str(tmp_path / "text.txt"), "bpe:272", tmp_path / "data")
    assert len(list((tmp_path / "data" / "tokens").glob("bpe-*"))) == 1  # nothing is left of what could not be learnt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "nothing.txt"], "Corpus 'nothing.txt' was not found"),
        (["--corpus", "~nobody_of_this_name/text"], "Corpus '~nobody_of_this_name/text' was not found"),
        (["--corpus", "empty.jsonl"], "Corpus empty_jsonl is empty"),
        (["--corpus", "blank.jsonl"], "Corpus blank_jsonl is empty"),
        (["--corpus", "other.jsonl"], "Line 1 of other.jsonl has no text under 'text', only 'body'"),
        (["--max_bytes", "many"], "--max_bytes: 'many' is not a whole number"),
        (["--max_bytes", "0"], "--max_bytes: 0 is out of range: it must be at least 1"),
        (["--max_bytes", "1.5"], "--max_bytes: '1.5' is not a whole number"),
        (["--max_bytes", "1e400"], "--max_bytes: inf is not a whole number"),
        (["--percents", "90", "90", "90"], "percents is [90, 90, 90]"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n\n{"text": null}\n')
    (tmp_path / "other.jsonl").write_text('{"body": "text"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    with pytest.raises(SystemExit) as ended, clear_errors():
        command.main()
    assert ended.value.code in (1, 2)
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
