"""The commands that prepare and describe, and training on what they made, as a user calls them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_lightning.command_line import clear_errors
from gpt_lightning.data import describe
from gpt_lightning.data import prepare as command
from gpt_lightning.data.prepare import prepare
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text

REPO = Path(__file__).parents[2]


def call(*arguments, cwd) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HF_HOME": str(cwd / "hub")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


TRAIN = [REPO / "train.py", "fit", "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--model.gpt.n_layer=1"]
TRAIN += ["--model.gpt.n_head=1", "--model.gpt.d_model=8", "--model.gpt.context_length=16", "--data.batch_size=2"]
TRAIN += ["--trainer.enable_progress_bar=false", "--model.warmup_steps=1"]


def lines_of(texts) -> str:
    return "".join(json.dumps({"body": text}) + "\n" for text in texts)


def test_records_are_prepared_described_and_trained_on_with_a_tokenizer_learnt_from_them(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tokenizers")
    (tmp_path / "texts.jsonl").write_text(lines_of(f"the story of number {n}, which is told" for n in range(500)))
    options = ["--corpus", "texts.jsonl", "--text_key", "body", "--tokenizer", "bpe:300"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare", *options])
    command.main()
    prepared = capsys.readouterr().out
    (directory,) = tmp_path.glob("data/tokens/texts_jsonl-bpe300-*")
    assert prepared.startswith(f"In {directory.relative_to(tmp_path)}:\n")
    train = prepared.splitlines()[-1].removeprefix("Train on it with  python train.py fit ")
    assert train == "--data.corpus texts.jsonl --data.tokenizer bpe:300 --data.text_key body"

    describe.main()
    described = capsys.readouterr().out
    sizes = {
        name: count["documents"] for name, count in json.loads((directory / "index.json").read_text())["splits"].items()
    }
    assert re.search(rf"^train +{sizes['train']} +", described, re.MULTILINE)
    assert re.search(rf"^all +{sum(sizes.values())} +", described, re.MULTILINE)

    trained = call(*TRAIN, *train.split(), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    # A directory of tokens is a corpus too: here moved elsewhere, without the text.
    (tmp_path / "texts.jsonl").unlink()
    directory.rename(tmp_path / "elsewhere")
    again = call(*TRAIN, "--data.corpus=elsewhere", "--data.tokenizer=bpe:300", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    runs = [tmp_path / f"runs/default/version_{number}/checkpoints/last.ckpt" for number in (0, 1)]
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # On another text the checkpoint's tokenizer goes on to be what bpe:300 means.
    (tmp_path / "other.txt").write_text("the number of the story, which is told again")
    other = ["--ckpt_path", runs[1], "--data.corpus=other.txt", "--data.tokenizer=bpe:300"]
    tested = call(TRAIN[0], "test", *TRAIN[3:], *other, cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert "Tests on all of other.txt, which the checkpoint was not trained on." in tested.stderr
    # And to write text the checkpoint needs neither.
    sampled = call(REPO / "generate.py", "--checkpoint", runs[1], "--prompt=the", "--tokens=5", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr


def test_tokens_of_others_are_trained_on_where_they_lie(tmp_path):
    """With the tokenizer of bytes: there is no network for another."""
    tokens = np.frombuffer(make_text(5_000), np.uint8).astype(np.uint16)
    tokens[:4000].tofile(tmp_path / "train.bin")
    tokens[4000:].tofile(tmp_path / "val.bin")
    trained = call(*TRAIN, f"--data.corpus={tmp_path}", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    tokens[7] = 300
    tokens[:4000].tofile(tmp_path / "train.bin")
    refused = call(*TRAIN, f"--data.corpus={tmp_path}", cwd=tmp_path)
    assert refused.returncode == 1
    assert "train.bin has the token id 300, but the tokenizer has only 256 ids" in refused.stderr
    assert "Traceback" not in refused.stderr


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
