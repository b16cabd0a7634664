"""`settle`: what follows from several settings together; tested without a parser, a trainer or a run."""

from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from cli.settings import TRAINER_RANGES, settle
from gpt_lightning.data.tokenizer import load_tokenizer, tokenizer_state
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig

SIZES = GPTConfig(n_layer=1, n_head=2, d_model=8, context_length=24, vocab_size=256)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configuration(**changes: object) -> Namespace:
    """What `settle` reads of a configuration; a double underscore stands for the dot of a key."""
    config = Namespace(experiment="mine", runs_dir="runs", ckpt_path=None)
    config.model = Namespace(init_from=None, gpt=Namespace(**asdict(SIZES) | {"vocab_size": 0}))
    config.data = Namespace(tokenizer="bytes", corpus="pydoc", data_dir="data", context_length=None, percents=None)
    config.trainer = Namespace(**dict.fromkeys(TRAINER_RANGES), accelerator="cpu", precision="32-true")
    for name, value in changes.items():
        config[name.replace("__", ".")] = value
    return config


def save(path: Path, **more: object) -> None:
    """A checkpoint of a run at step 7."""
    content = {
        "hyper_parameters": {"gpt": asdict(SIZES)},
        "state_dict": {f"model.{name}": weight for name, weight in GPT(SIZES).state_dict().items()},
        "TextDataModule": {"tokenizer": tokenizer_state(load_tokenizer("bytes")), "text": {"source": "pydoc"}},
        "global_step": 7,
        "pytorch-lightning_version": "2.6.6",
        "optimizer_states": [],
        "lr_schedulers": [],
        "loops": {"fit_loop": ["state_dict", "epoch_progress", "epoch_loop.state_dict", "epoch_loop.batch_progress"]},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content | more, path)


def test_a_new_run_gets_the_next_directory_and_nothing_is_made_or_changed(tmp_path, capsys):
    Path("runs/mine/version_4").mkdir(parents=True)
    config = configuration()
    before = config.clone()
    plan = settle(config, "fit")
    assert (plan.run_dir, plan.checkpoint, plan.step, plan.notes) == (Path("runs/mine/version_5"), None, None, ())
    assert {"model.gpt.vocab_size": 256, "data.context_length": 24}.items() <= plan.settings.items()
    assert config == before
    assert [path.name for path in Path("runs/mine").iterdir()] == ["version_4"]
    assert capsys.readouterr() == ("", "")
    for field in fields(plan):
        with pytest.raises(FrozenInstanceError):
            setattr(plan, field.name, None)


def test_last_is_the_newest_undamaged_checkpoint_and_a_note_says_if_it_is_not_the_last():
    save(Path("runs/mine/version_0/checkpoints/previous.ckpt"))
    Path("runs/mine/version_0/checkpoints/last.ckpt").write_bytes(b"PK")
    plan = settle(configuration(ckpt_path="last"), "fit")
    assert (plan.run_dir, plan.checkpoint.name, plan.step) == (Path("runs/mine/version_0"), "previous.ckpt", 7)
    assert plan.settings["ckpt_path"] is None
    (note,) = plan.notes
    assert "last.ckpt is damaged or missing: going on from runs/mine/version_0/checkpoints/previous.ckpt" in note


@pytest.mark.parametrize(("more", "purge_step"), [({}, 7), ({"unstepped_gradients": []}, 8)])
def test_what_was_logged_after_the_checkpoint_is_dropped_but_not_the_validation_in_it(more, purge_step):
    save(Path("runs/mine/version_0/checkpoints/last.ckpt"), **more)
    assert settle(configuration(ckpt_path="last"), "fit").purge_step == purge_step


def test_all_of_another_text_is_tested_on():
    save(Path("some.ckpt"))
    Path("other.txt").write_text("another text")
    other = configuration(ckpt_path="some.ckpt", data__corpus="other.txt")
    plan = settle(other, "test")
    assert plan.settings["data.percents"] == [0, 0, 100]
    assert plan.notes == ("Tests on all of other.txt, which the checkpoint was not trained on.",)
    for config, subcommand in ((configuration(ckpt_path="some.ckpt"), "test"), (other, "validate")):
        plan = settle(config, subcommand)
        assert plan.notes == ()
        assert "data.percents" not in plan.settings


def test_a_network_to_begin_with_gives_all_sizes_but_dropout():
    save(Path("some.ckpt"))
    plan = settle(configuration(model__init_from="some.ckpt", model__gpt__n_layer=5, model__gpt__dropout=0.5), "fit")
    assert plan.initial.model.config == SIZES
    assert {name: plan.settings[f"model.gpt.{name}"] for name in asdict(SIZES)} == asdict(SIZES) | {"dropout": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": "../x"}, r"experiment is '\.\./x' but must be the name of a directory under runs_dir"),
        ({"ckpt_path": "last"}, "There is nothing to resume"),
        ({"ckpt_path": "some.ckpt", "model__gpt__n_layer": 2}, r"n_layer 1 \(not 2\)"),
        ({"model__gpt__vocab_size": 9}, "vocab_size is 9, but tokenizer 'bytes' has 256 ids"),
        ({"data__context_length": 25}, r"longer than the network's context \(model\.gpt\.context_length 24\)"),
        ({"trainer__log_every_n_steps": 0}, r"trainer\.log_every_n_steps: 0 is out of range: it must be at least 1"),
        ({"trainer__gradient_clip_val": -0.5}, r"must be at least 0 \(never clip\)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    save(Path("some.ckpt"))
    with pytest.raises(UserError, match=message):
        settle(configuration(**changes), "fit")


def test_validate_needs_a_checkpoint():
    with pytest.raises(UserError, match="validate needs a checkpoint"):
        settle(configuration(), "validate")
