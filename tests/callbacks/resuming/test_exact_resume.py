"""However and wherever a run ends, its checkpoint resumes as if nothing had happened: same batches, same weights, same
curves, every validation once."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import Logger

from callbacks import DepthScan, ExactResume, GracefulStop, LastCheckpoint, Stopped, TimeLimit
from callbacks.validation import ValidationCallback
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.model import GPTConfig
from gpt_lightning.module import GPTModule

BATCHES = 11  # of an epoch; with 2 accumulated its last optimiser step has one
STEPS = 14  # more than two epochs


class Curves(Logger):
    """Keep what Lightning logs, by name and step."""

    name, version = "curves", 0

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []

    def log_metrics(self, metrics, step=None):
        self.points += [(name, step, value) for name, value in metrics.items() if name != "epoch"]

    def log_hyperparams(self, *args, **kwargs):
        pass


class Failure(Exception):
    pass


def fail() -> None:
    raise Failure


class At(L.Callback):
    """Do something at the n-th call of a hook."""

    def __init__(self, hook: str, call: int, act: Callable[[], None]) -> None:
        self.calls = 0

        def count(*_, **__):
            self.calls += 1
            if self.calls == call:
                act()

        setattr(self, hook, count)


class Rows(L.Callback):
    """Keep the first token of every row that was trained on."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append((trainer.fit_loop.total_batch_idx, batch[0][:, 0].tolist()))


class Validations(L.Callback):
    """Note after which batches a validation was completed."""

    def __init__(self) -> None:
        self.ended = []

    def on_validation_end(self, trainer, module):
        self.ended.append(trainer.fit_loop.total_batch_idx)


def fit(directory, corpus_file, extra=(), ckpt_path=None, **options):
    L.seed_everything(0 if ckpt_path is None else 99, verbose=False)
    torch.set_num_threads(1)
    last = LastCheckpoint(every_n_train_steps=4)
    last.dirpath = str(directory)
    rows, curves, validations, scan = Rows(), Curves(), Validations(), DepthScan(2)
    trainer = L.Trainer(
        accelerator="cpu",
        accumulate_grad_batches=2,
        limit_train_batches=BATCHES,
        limit_val_batches=2,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=[rows, *extra, validations, GracefulStop(), scan, ExactResume(), last],
        logger=curves,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=3,
        **{"max_steps": STEPS, "val_check_interval": 5} | options,
    )
    config = GPTConfig(n_layer=1, n_head=2, d_model=16, context_length=16, vocab_size=256, dropout=0.1)
    module = GPTModule(config, learning_rate=1e-2, warmup_steps=3, decay_steps=STEPS)
    data = TextDataModule(str(corpus_file), batch_size=4, context_length=16, data_dir=str(directory / "data"))
    data.seen, data.curves, data.validations, data.scans = rows.seen, curves.points, validations.ended, scan
    with contextlib.suppress(Failure, Stopped):
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, corpus_file):
    return fit(tmp_path_factory.mktemp("uninterrupted"), corpus_file)


def assert_went_on(stopped, resumed, uninterrupted, step):
    """The two runs together have the weights, optimiser, batches and curves of the run that was never stopped."""
    for name, tensor in uninterrupted.lightning_module.state_dict().items():
        assert torch.equal(resumed.lightning_module.state_dict()[name], tensor), name
    theirs = uninterrupted.optimizers[0].state_dict()["state"]
    for parameter, state in resumed.optimizers[0].state_dict()["state"].items():
        assert all(torch.equal(value, theirs[parameter][name]) for name, value in state.items())
    rows = dict(stopped.datamodule.seen) | dict(resumed.datamodule.seen)
    assert rows == dict(uninterrupted.datamodule.seen)
    # On a resume TensorBoard drops what lies past the checkpoint (purge_step).
    kept = [point for point in stopped.datamodule.curves if point[1] < step]
    # A validation that a callback aborted after its figures were logged is run again, so they come twice.
    assert set(kept + resumed.datamodule.curves) == set(uninterrupted.datamodule.curves)
    assert stopped.datamodule.validations + resumed.datamodule.validations == uninterrupted.datamodule.validations
    assert str(resumed.datamodule.scans.history) == str(uninterrupted.datamodule.scans.history)  # nan is not nan


PLACES = [
    ("on_train_batch_start", (3, 9, 10, 12, 13, 23)),  # 12 is the first batch of an epoch, 13 ends a step
    ("on_before_zero_grad", (5, 6)),
    ("on_before_backward", (9, 10, 11, 12)),
    ("on_after_backward", (9, 10, 11, 12)),
    ("on_train_batch_end", (2, 5, 9, 10, 11, 12, 22)),
    ("on_validation_start", (1, 2, 3, 5)),
    ("on_validation_batch_end", (1, 4, 5)),
    ("on_validation_end", (1, 2, 3, 5)),
    ("on_train_epoch_end", (1, 2)),
    ("on_train_epoch_start", (2, 3)),
]


@pytest.mark.parametrize(("hook", "call"), [(hook, call) for hook, calls in PLACES for call in calls])
def test_an_exception_anywhere_loses_nothing(tmp_path, corpus_file, uninterrupted, hook, call):
    stopped = fit(tmp_path, corpus_file, [At(hook, call, fail)])
    assert stopped.global_step < STEPS
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == stopped.global_step
    resumed = fit(tmp_path, corpus_file, ckpt_path=tmp_path / "last.ckpt")
    assert_went_on(stopped, resumed, uninterrupted, checkpoint["global_step"])


class FailAfterUpdate(L.Callback):
    """Fail in the optimiser, after it changed weights in its n-th step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer, module):
        optimizer = trainer.optimizers[0]
        optimizer.register_step_post_hook(lambda *_: fail() if trainer.global_step + 1 == self.step else None)


def test_half_a_step_is_not_saved(tmp_path, corpus_file, uninterrupted):
    stopped = fit(tmp_path, corpus_file, [FailAfterUpdate(7)])
    assert stopped.global_step == 6
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    stopped.datamodule.validations = [batch for batch in stopped.datamodule.validations if batch < 8]
    assert_went_on(stopped, fit(tmp_path, corpus_file, ckpt_path=tmp_path / "last.ckpt"), uninterrupted, 4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("hook", "call", "step"),
    [
        ("on_before_backward", 9, 5),  # the first batch of two: the step is finished
        ("on_train_batch_end", 10, 5),
        ("on_train_batch_end", 11, 6),  # the last batch of an epoch
        ("on_validation_start", 2, 5),
        ("on_validation_batch_start", 3, 5),  # a validation is not waited for
        ("on_validation_end", 3, 8),
    ],
)
def test_a_signal_ends_training_between_two_steps_and_loses_nothing(
    tmp_path, corpus_file, uninterrupted, hook, call, step, number
):
    before = signal.getsignal(signal.SIGINT)
    stopped = fit(tmp_path, corpus_file, [At(hook, call, lambda: os.kill(os.getpid(), number))])
    assert stopped.global_step == step
    if hook == "on_validation_batch_start":
        assert len(stopped.datamodule.validations) == 1  # and not the second one
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    assert_went_on(stopped, fit(tmp_path, corpus_file, ckpt_path=tmp_path / "last.ckpt"), uninterrupted, step)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("batch", [1, 8, 9, 10, 11, 12, 21])
def test_a_time_limit_ends_training_as_a_signal_does(tmp_path, corpus_file, uninterrupted, batch):
    limit = TimeLimit("01:00:00:00")
    stopped = fit(
        tmp_path, corpus_file, [At("on_train_batch_end", batch, lambda: setattr(limit, "_duration", 0)), limit]
    )
    step = stopped.global_step
    assert batch // 2 <= step <= batch // 2 + 1
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    assert_went_on(stopped, fit(tmp_path, corpus_file, ckpt_path=tmp_path / "last.ckpt"), uninterrupted, step)


@pytest.mark.parametrize("interval", [5, BATCHES])
def test_a_validation_that_is_broken_off_twice_is_run_in_the_end(tmp_path, corpus_file, capsys, interval):
    options = {"val_check_interval": interval}
    uninterrupted = fit(tmp_path / "uninterrupted", corpus_file, **options)
    first = fit(tmp_path, corpus_file, [At("on_validation_start", 2, fail)], **options)
    last = tmp_path / "last.ckpt"
    second = fit(tmp_path, corpus_file, [At("on_validation_start", 1, fail)], ckpt_path=last, **options)
    assert first.global_step == second.global_step
    assert "could not be saved" not in capsys.readouterr().out
    resumed = fit(tmp_path, corpus_file, ckpt_path=last, **options)
    assert_went_on(first, resumed, uninterrupted, second.global_step)


def test_a_validation_that_was_run_after_a_resume_is_not_due_again(tmp_path, corpus_file, uninterrupted):
    first = fit(tmp_path, corpus_file, [At("on_validation_start", 2, fail)])
    last = tmp_path / "last.ckpt"
    second = fit(tmp_path, corpus_file, [At("on_train_batch_start", 1, fail)], ckpt_path=last)
    first.datamodule.validations += second.datamodule.validations
    first.datamodule.curves += second.datamodule.curves
    assert_went_on(first, fit(tmp_path, corpus_file, ckpt_path=last), uninterrupted, 10)


@pytest.mark.parametrize(
    "places",
    [
        [
            ("on_train_batch_end", 5),
            ("on_validation_start", 1),
            ("on_validation_batch_end", 1),
            ("on_validation_end", 1),
        ],
        [("on_train_batch_end", 11), ("on_train_epoch_end", 1)],  # the last batch of an epoch
    ],
)
def test_a_checkpoint_says_the_same_wherever_it_is_saved(tmp_path, corpus_file, places):
    saved, trainers = [], []

    class Trainer(L.Callback):
        def on_fit_start(self, trainer, module):
            trainers.append(trainer)

    def save():
        state = trainers[0]._checkpoint_connector.dump_checkpoint()["loops"]["fit_loop"]
        saved.append({name: value for name, value in state.items() if "val_loop" not in name})

    fit(tmp_path, corpus_file, [Trainer(), *(At(hook, call, save) for hook, call in places)])
    assert len(saved) == len(places)
    for state in saved[1:]:
        assert state == saved[0]


def test_where_a_validation_follows_it_is_saved_after_that(tmp_path, corpus_file):
    saved = []

    def look():
        saved.append(torch.load(tmp_path / "last.ckpt", weights_only=True))

    fit(tmp_path, corpus_file, [At("on_train_batch_start", 9, look)], val_check_interval=8)  # saves every 4 steps of 2
    assert saved[0]["global_step"] == 4
    assert not saved[0]["validation_due"]


def test_a_save_that_fails_does_not_hide_why_the_run_ended(tmp_path, corpus_file, capsys):
    def fail_and_block():
        shutil.rmtree(tmp_path)
        tmp_path.write_text("in the way")
        fail()

    fit(tmp_path, corpus_file, [At("on_train_batch_start", 3, fail_and_block)])  # which lets nothing but Failure pass
    assert "The state at step 1 could not be saved" in capsys.readouterr().out


class Looks(ValidationCallback):
    def __init__(self) -> None:
        super().__init__(every_n_validations=2)
        self.steps = []

    def look(self, trainer, pl_module, step):
        self.steps.append(step)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_validation_that_was_looked_at_and_then_broken_off_is_not_looked_at_again(tmp_path, corpus_file, call):
    undisturbed, before, after = Looks(), Looks(), Looks()
    fit(tmp_path / "uninterrupted", corpus_file, [undisturbed])
    fit(tmp_path, corpus_file, [before, At("on_validation_end", call, fail)])
    fit(tmp_path, corpus_file, [after], ckpt_path=tmp_path / "last.ckpt")
    assert len(undisturbed.steps) == 2
    assert before.steps + after.steps == undisturbed.steps


class FailingScan(DepthScan):
    """Fails after looking at a step."""

    def __init__(self, step: int | None = None) -> None:
        super().__init__(2)
        self.step = step

    def look(self, trainer, pl_module, step):
        super().look(trainer, pl_module, step)
        if step == self.step:
            fail()


def test_a_scan_that_fails_is_made_again_and_counts_once(tmp_path, corpus_file):
    uninterrupted, failing, resumed = FailingScan(), FailingScan(4), FailingScan()
    fit(tmp_path / "uninterrupted", corpus_file, [uninterrupted])
    fit(tmp_path, corpus_file, [failing])
    assert failing.history
    fit(tmp_path, corpus_file, [resumed], ckpt_path=tmp_path / "last.ckpt")
    assert str(resumed.history) == str(uninterrupted.history)
