"""From a corpus to a sample: prepare, describe, train, test and generate, one command after the other."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from gpt_lightning.data import describe
from gpt_lightning.data import prepare as command
from tests.data.conftest import make_text
from tests.data.test_prepare import lines_of

TRAIN = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--model.gpt.n_layer=1"]
TRAIN += ["--model.gpt.n_head=1", "--model.gpt.d_model=8", "--model.gpt.context_length=16", "--data.batch_size=2"]
TRAIN += ["--trainer.enable_progress_bar=false", "--model.warmup_steps=1"]


def test_records_are_prepared_described_and_trained_on_with_a_tokenizer_of_their_own(
    main, tmp_path, monkeypatch, capsys
):
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

    status, _, err = main("train.py", "fit", *TRAIN, *train.split())
    assert status == 0, err
    # A directory of tokens is a corpus too: here moved elsewhere, without the text.
    (tmp_path / "texts.jsonl").unlink()
    directory.rename(tmp_path / "elsewhere")
    status, _, err = main("train.py", "fit", *TRAIN, "--data.corpus=elsewhere", "--data.tokenizer=bpe:300")
    assert status == 0, err
    runs = [tmp_path / f"runs/default/version_{number}/checkpoints/last.ckpt" for number in (0, 1)]
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # On another text the checkpoint's tokenizer goes on to be what bpe:300 means.
    (tmp_path / "other.txt").write_text("the number of the story, which is told again")
    other = ["--ckpt_path", runs[1], "--data.corpus=other.txt", "--data.tokenizer=bpe:300"]
    status, _, err = main("train.py", "test", *TRAIN[1:], *other)
    assert status == 0, err
    assert "Tests on all of other.txt, which the checkpoint was not trained on." in err
    # And to write text the checkpoint needs neither.
    status, _, err = main("generate.py", "--checkpoint", runs[1], "--prompt=the", "--tokens=5")
    assert status == 0, err


def test_tokens_of_others_are_trained_on_where_they_lie(main, tmp_path):
    """With the tokenizer of bytes: there is no network for another."""
    tokens = np.frombuffer(make_text(5_000), np.uint8).astype(np.uint16)
    tokens[:4000].tofile(tmp_path / "train.bin")
    tokens[4000:].tofile(tmp_path / "val.bin")
    status, _, err = main("train.py", "fit", *TRAIN, f"--data.corpus={tmp_path}")
    assert status == 0, err
    tokens[7] = 300
    tokens[:4000].tofile(tmp_path / "train.bin")
    status, _, err = main("train.py", "fit", *TRAIN, f"--data.corpus={tmp_path}")
    assert status == 1
    assert "train.bin has the token id 300, but the tokenizer has only 256 ids" in err
    assert "Traceback" not in err
