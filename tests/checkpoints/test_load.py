"""Saving checkpoints atomically, and loading them: only what train.py wrote is taken for one of ours."""

from dataclasses import asdict

import pytest
import torch

from cli.analysis import sequences_to_scan
from gpt_lightning.checkpoints.save import AtomicCheckpointIO
from gpt_lightning.data.tokenizer import load_tokenizer, tokenizer_state
from gpt_lightning.errors import UserError
from gpt_lightning.interop import any_checkpoint
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.model import GPT, GPTConfig
from tests.conftest import REPO


def test_an_interrupted_save_leaves_the_file_before_it(tmp_path):
    path = tmp_path / "checkpoints/last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        # The tensor is written before the function that cannot be.
        writer.save_checkpoint({"step": 2, "tensor": torch.zeros(10_000), "not data": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_save_replaces_the_file_instead_of_writing_into_it(tmp_path):
    """A reader that has mapped the old file keeps it."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"tensor": torch.zeros(1000)}, path)
    mapped = torch.load(path, mmap=True, weights_only=True)["tensor"]
    AtomicCheckpointIO().save_checkpoint({"tensor": torch.ones(1000)}, path)
    assert mapped.sum() == 0


@pytest.mark.parametrize(
    "content",
    [
        None,
        [1, 2],
        {},
        {"hyper_parameters": None},
        {"hyper_parameters": {"gpt": {"n_layers": 2}}, "TextDataModule": {"tokenizer": {}}},
        {"hyper_parameters": {"gpt": {"n_layer": -2}}, "TextDataModule": {"tokenizer": {}}},
        {"hyper_parameters": {"gpt": {}}},
        {"hyper_parameters": {"gpt": {}}, "TextDataModule": {}},
    ],
)
def test_other_files_are_not_taken_for_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint that this project's train\.py wrote"):
        load_checkpoint(tmp_path / "other.ckpt")


def test_our_own_checkpoint_is_recognised_before_other_formats_are_tried(monkeypatch):
    for other in ("is_nanogpt", "is_plain", "load_huggingface"):
        monkeypatch.setattr(any_checkpoint, other, None)
    assert load_checkpoint(REPO / "tests/old_checkpoints/gpt2.ckpt").step == 20


def test_without_validation_text_there_are_no_sequences_to_look_at(tmp_path):
    config = GPTConfig(1, 1, 4, 8, 256)
    content = {
        "hyper_parameters": {"gpt": asdict(config)},
        "state_dict": {f"model.{name}": weight for name, weight in GPT(config).state_dict().items()},
        "TextDataModule": {
            "tokenizer": tokenizer_state(load_tokenizer("bytes")),
            "validation_sequences": torch.empty((0, 8), dtype=torch.int32),
        },
        "global_step": 1,
    }
    torch.save(content, tmp_path / "some.ckpt")
    loaded = load_checkpoint(tmp_path / "some.ckpt")
    assert loaded.validation_sequences is None
    assert sequences_to_scan(loaded, None)[1] == "Python's documentation"
