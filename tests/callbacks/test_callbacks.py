"""What the callbacks write: consistent figures, at a rhythm that survives a resume."""

import gc

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

import callbacks
from callbacks.resuming.checkpoints import BestCheckpoint
from callbacks.tensorboard import TensorBoardCallback
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.draw.cached_figures import MOST_FRAMES
from gpt_lightning.module import GPTModule


def fit(config, corpus_file, tmp_path, extra, **options) -> L.Trainer:
    data = TextDataModule(str(corpus_file), batch_size=4, context_length=16, data_dir=str(tmp_path / "data"))
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=extra,
        logger=TensorBoardLogger(str(tmp_path)),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=1,
        check_val_every_n_epoch=None,
        **{"max_steps": 20, "val_check_interval": 5, "log_every_n_steps": 4} | options,
    )
    trainer.fit(GPTModule(config, warmup_steps=1), data)
    return trainer


class Clock(L.Callback):
    """A clock that advances a second with every batch, and a hundred with every validation."""

    seconds = 1

    def __init__(self, monkeypatch):
        self.on_train_start = lambda *_: monkeypatch.setattr(callbacks.throughput, "time", self)

    def perf_counter(self):
        return self.seconds

    def on_train_batch_end(self, *_):
        self.seconds += 1

    def on_validation_end(self, *_):
        self.seconds += 100


def test_speed_is_that_of_training_alone_and_mfu_in_units_of_the_peak(tiny_config, corpus_file, tmp_path, monkeypatch):
    throughput = callbacks.Throughput()
    trainer = fit(tiny_config, corpus_file, tmp_path, [Clock(monkeypatch), throughput], accumulate_grad_batches=2)
    assert trainer.callback_metrics["train/tokens_per_second"] == 4 * 16
    flops = trainer.callback_metrics["train/tokens_per_second"] * trainer.lightning_module.model.flops_per_token()
    assert trainer.callback_metrics["train/mfu"].item() == pytest.approx(
        flops.item() / throughput.available_flops, rel=1e-4
    )


def test_pictures_come_at_every_nth_validation(tiny_config, corpus_file, tmp_path):
    class Note(TensorBoardCallback):
        steps: list = []  # noqa: RUF012

        def write(self, trainer, pl_module, step):
            self.steps.append(step)

    fit(tiny_config, corpus_file, tmp_path, [Note(every_n_validations=2)])
    assert Note.steps == [9, 19]  # TensorBoard's axis counts the steps from 0


def test_never_means_never(tiny_config, corpus_file, tmp_path):
    class Fail(TensorBoardCallback):
        def write(self, trainer, pl_module, step):
            pytest.fail("wrote although every_n_validations is 0")

    trainer = fit(tiny_config, corpus_file, tmp_path, [Fail(every_n_validations=0)])
    assert trainer.global_step == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: callbacks.DepthScan(0), "depth_scan.n_sequences: 0 is out of range: it must be at least 1."),
        (
            lambda: callbacks.AttentionHeatmaps(1),
            "attention_heatmaps.max_tokens: 1 is out of range: it must be at least 2.",
        ),
        (lambda: TensorBoardCallback(-1), "TensorBoardCallback.every_n_validations: -1 is out of range"),
    ],
)
def test_a_number_out_of_range_is_refused_from_python_too(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_resumed_scan_goes_on_with_its_history():
    scan = callbacks.DepthScan()
    scan.history, scan._announced, scan._validations = [{"step": 5}, {"step": 10}], [["dead layer", 1]], 2
    resumed = callbacks.DepthScan()
    resumed.load_state_dict(scan.state_dict())
    assert (resumed.history, resumed._announced, resumed._validations) == (scan.history, [["dead layer", 1]], 2)


def test_the_scan_keeps_no_figure_but_its_frames_and_those_only_during_the_run(tiny_config, corpus_file, tmp_path):
    def figures() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Figure) for thing in gc.get_objects())

    class Count(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            counts.append(figures() - before)
            kept.append([callback.frames.cache_info().currsize for callback in drawing])

    before, counts, kept = figures(), [], []
    drawing = [callbacks.DepthScan(2), callbacks.AttentionHeatmaps(8)]
    fit(tiny_config, corpus_file, tmp_path, [*drawing, Count()], max_steps=15)
    assert counts == [sum(each) for each in kept]
    assert all(0 < each <= MOST_FRAMES for each in kept[-1])
    assert figures() == before


def test_the_best_checkpoint_of_a_run_that_was_moved_is_remembered(tmp_path):
    def best(directory):
        callback = BestCheckpoint()
        callback.dirpath = str(directory)
        return callback

    old, moved = tmp_path / "old", tmp_path / "moved"
    first = best(old)
    first.best_model_path = first.kth_best_model_path = str(old / "best.ckpt")
    first.best_model_score = first.kth_value = torch.tensor(1.5)
    first.best_k_models = {first.best_model_path: first.best_model_score}
    moved.mkdir()
    (moved / "best.ckpt").touch()
    second = best(moved)
    second.load_state_dict(first.state_dict())
    assert second.best_model_score == second.kth_value == 1.5
    assert second.best_k_models == {str(moved / "best.ckpt"): 1.5}
    assert second.kth_best_model_path == second.best_model_path == str(moved / "best.ckpt")
