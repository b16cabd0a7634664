"""A run stopped at any training step and resumed ends bit-identical to one that was never stopped.

The network is tiny, everything else is real: Lightning's Trainer, the datamodule, files on disk, weights_only loads.
"""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import ExactResume, LastCheckpoint
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPTConfig
from gpt_lightning.module import GPTModule
from gpt_lightning.training.optim import warmup_cosine
from tests.networks import VARIANTS

STEPS = 9  # two epochs and a bit, see `trainer`


class SeenBatches(L.Callback):
    """Keep the first token of every row that was trained on, and the logged losses by step."""

    def __init__(self):
        self.rows = []
        self.logged = {}

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step % trainer.log_every_n_steps == 0 and "train/loss" in trainer.callback_metrics:
            self.logged[trainer.global_step] = trainer.callback_metrics["train/loss"].item()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rows.append((trainer.fit_loop.total_batch_idx, batch[0][:, 0].tolist()))


class StopAt(L.Callback):
    """Stop after a batch, as early stopping does."""

    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx == self.batch


def run(
    directory,
    corpus_file,
    accumulate,
    max_steps=STEPS,
    ckpt_path=None,
    save_all=False,
    seed=0,
    extra=(),
    gpt=None,
    precision=None,
    **options,
):
    """Train; return the module, its optimiser's state and what it saw. An epoch has 14 batches: with 4 accumulated,
    steps fall on batches 4, 8, 12 and 14; validation is every 5 batches, so some checkpoints lie inside a window."""
    L.seed_everything(seed, verbose=False)
    data = TextDataModule(str(corpus_file), batch_size=4, context_length=16, data_dir=str(directory / "data"))
    sizes = {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 16, "vocab_size": 256, "dropout": 0.1}
    module = GPTModule(
        GPTConfig(**sizes | (gpt or {})), learning_rate=1e-2, warmup_steps=3, decay_steps=STEPS, **options
    )
    seen = SeenBatches()
    callbacks = [seen, ExactResume(), *extra]
    if save_all:
        every_step = ModelCheckpoint(directory / "step", "{step}", every_n_train_steps=1, save_top_k=-1)
        at_validation = ModelCheckpoint(
            directory / "val", "{step}", monitor="val/loss", save_top_k=-1, save_on_train_epoch_end=False
        )
        callbacks += [every_step, at_validation]
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        limit_train_batches=14,
        limit_val_batches=2,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=3,
        precision=precision,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer.optimizers[0].state_dict()["state"], seen.rows, seen.logged


def assert_identical(resumed, uninterrupted):
    for ours, theirs in zip(resumed[0].state_dict().items(), uninterrupted[0].state_dict().items(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1]), ours[0]
    for parameter, state in uninterrupted[1].items():
        for name, tensor in state.items():
            assert torch.equal(resumed[1][parameter][name], tensor), (parameter, name)
    assert resumed[2] == uninterrupted[2][len(uninterrupted[2]) - len(resumed[2]) :]
    assert resumed[3].items() <= uninterrupted[3].items()


MUON = {"optimizer": "muon", "embedding_learning_rate": 0.1, "schedule": "linear", "gpt": VARIANTS["modern"]}


@pytest.mark.parametrize(("accumulate", "options"), [(1, {}), (4, {}), (4, MUON), (1, {"precision": "64-true"})])
def test_resuming_from_any_checkpoint_is_bit_identical(tmp_path, corpus_file, accumulate, options):
    uninterrupted = run(tmp_path, corpus_file, accumulate, save_all=True, **options)
    checkpoints = sorted(tmp_path.glob("*/*.ckpt"))
    # One per optimiser step, the last step included, and at least two more at validations, inside windows if
    # accumulating.
    assert len(checkpoints) >= STEPS + 1
    for checkpoint in checkpoints:
        # With another seed: everything that training needs must come from the checkpoint.
        resumed = run(tmp_path, corpus_file, accumulate, ckpt_path=checkpoint, seed=99, **options)
        assert_identical(resumed, uninterrupted)


def test_muon_does_not_go_on_from_adamw(tmp_path, corpus_file):
    run(tmp_path, corpus_file, 1, max_steps=2, save_all=True)
    with pytest.raises(UserError, match="adamw: only that can go on"):
        run(tmp_path, corpus_file, 1, ckpt_path=tmp_path / "step/step=2.ckpt", optimizer="muon")


def test_options_given_on_a_resume_win_over_the_checkpoint(tmp_path, corpus_file):
    run(tmp_path, corpus_file, 1, max_steps=4, save_all=True)
    seen = {}

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.setdefault("groups", [dict(group) for group in trainer.optimizers[0].param_groups])

    class Changed(L.Callback):
        def setup(self, trainer, module, stage):
            module.hparams.update(learning_rate=5e-4, weight_decay=0.3, beta2=0.5)

    resumed = run(tmp_path, corpus_file, 1, ckpt_path=tmp_path / "step/step=4.ckpt", extra=[Changed(), Look()])
    matrices, vectors = seen["groups"]
    multiplier = warmup_cosine(3, STEPS, 0.1)
    assert matrices["lr"] == vectors["lr"] == 5e-4 * multiplier(4)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0)
    assert matrices["betas"] == (0.9, 0.5)
    assert resumed[0].trainer.optimizers[0].param_groups[0]["lr"] == 5e-4 * multiplier(STEPS)


@pytest.mark.parametrize("steps", [3, 4, 8])
def test_a_finished_run_can_be_extended_exactly(tmp_path, corpus_file, steps):
    """Steps 4 and 8 end on the last batch of an epoch."""
    uninterrupted = run(tmp_path, corpus_file, 4)
    last = LastCheckpoint(every_n_train_steps=1000)
    last.dirpath = str(tmp_path / "short")
    run(tmp_path, corpus_file, 4, max_steps=steps, extra=[last])
    assert_identical(run(tmp_path, corpus_file, 4, ckpt_path=tmp_path / "short/last.ckpt", seed=99), uninterrupted)


@pytest.mark.parametrize(("first", "second"), [(3, 5), (4, 5), (4, 8), (4, 6), (5, 8)])
def test_a_run_can_be_extended_twice(tmp_path, corpus_file, first, second):
    uninterrupted = run(tmp_path, corpus_file, 4)
    ckpt_path = None
    for steps in (first, second):
        last = LastCheckpoint(every_n_train_steps=1000)
        last.dirpath = str(tmp_path / f"until {steps}")
        run(tmp_path, corpus_file, 4, max_steps=steps, ckpt_path=ckpt_path, extra=[last])
        ckpt_path = tmp_path / f"until {steps}/last.ckpt"
    assert_identical(run(tmp_path, corpus_file, 4, ckpt_path=ckpt_path, seed=99), uninterrupted)


@pytest.mark.parametrize("batch", [4, 6, 7, 13, 20, 27])
def test_a_run_that_was_stopped_early_goes_on_exactly(tmp_path, corpus_file, batch):
    """Also inside an epoch (of 14 batches) or an accumulation window (of 4)."""
    uninterrupted = run(tmp_path, corpus_file, 4)
    last = LastCheckpoint()
    last.dirpath = str(tmp_path / "stopped")
    stopped = run(tmp_path, corpus_file, 4, extra=[StopAt(batch), last])
    assert len(stopped[2]) == batch + 1
    assert_identical(run(tmp_path, corpus_file, 4, ckpt_path=tmp_path / "stopped/last.ckpt", seed=99), uninterrupted)


def test_some_checkpoints_lie_inside_an_accumulation_window(tmp_path, corpus_file):
    """Otherwise the tests above would say nothing about them."""
    run(tmp_path, corpus_file, 4, save_all=True)
    carried = [
        "unstepped_gradients" in torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("val/*.ckpt"))
    ]
    assert any(carried)


def test_dropout_is_the_same_whatever_validation_draws(tmp_path, corpus_file, monkeypatch):
    """Training's random numbers must not depend on how many are drawn elsewhere."""
    quiet = run(tmp_path, corpus_file, 1)
    monkeypatch.setattr(GPTModule, "on_validation_start", lambda self: torch.rand(1000), raising=False)
    noisy = run(tmp_path, corpus_file, 1)
    assert_identical(noisy, quiet)


def test_each_batch_has_its_own_dropout(tmp_path, corpus_file):
    """Seeding every batch must not give them all the same mask."""
    masks = []

    class Listen(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            module.model.dropout.register_forward_hook(
                lambda m, inputs, output: masks.append((output == 0).flatten().tolist()) if m.training else None
            )

    L.seed_everything(0, verbose=False)
    data = TextDataModule(str(corpus_file), batch_size=4, context_length=16, data_dir=str(tmp_path / "data"))
    module = GPTModule(GPTConfig(1, 2, 16, 16, 256, dropout=0.5), warmup_steps=1)
    L.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        callbacks=[Listen()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        barebones=False,
    ).fit(module, data)
    assert len({tuple(mask) for mask in masks}) == 3
