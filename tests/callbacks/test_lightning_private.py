"""Each private name of Lightning's by itself, in a real run: the test that fails says what a new version broke."""

import ast
import importlib
import inspect

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from callbacks import lightning_private
from gpt_lightning.training.guarded_step import is_accumulating
from tests.conftest import REPO

BATCHES, ACCUMULATED = 6, 2  # of each run


class Linear(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        self.log("loss", self.weight.sum(), on_step=True)
        return (self.weight * batch).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Do(L.Callback):
    """Run a test's functions, which take the trainer, in hooks."""

    def __init__(self, **hooks) -> None:
        for hook, act in hooks.items():
            setattr(self, hook, lambda trainer, *args, act=act, **_: act(trainer, *args))


def fit(*extra, ckpt_path=None, **options) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        accumulate_grad_batches=ACCUMULATED,
        callbacks=list(extra),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1} | options,
    )
    batches = torch.utils.data.DataLoader(torch.ones(BATCHES, 1))
    trainer.fit(Linear(), batches, batches, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def at_each_batch(look, **options) -> list:
    """What `look` returns after each batch."""
    seen = []
    fit(Do(on_train_batch_end=lambda trainer, *_: seen.append(look(trainer))), **options)
    return seen


def test_is_validation_next():
    seen = at_each_batch(lightning_private.is_validation_next, val_check_interval=2)
    assert seen == [False, True] * 3


def test_tensorboard_step():
    assert at_each_batch(lightning_private.tensorboard_step) == [0, 0, 1, 1, 2, 2]


def test_is_accumulating():
    """Ours, in place of a private one."""
    both = lambda trainer: (is_accumulating(trainer), trainer.fit_loop._should_accumulate())  # noqa: E731
    for batches in (BATCHES, BATCHES - 1):  # where an epoch ends inside an accumulation window, the optimiser steps
        seen = at_each_batch(both, limit_train_batches=batches)
        assert seen == [(batch % 2 == 0 and batch + 1 < batches,) * 2 for batch in range(batches)]


def test_log_latest_batch(tmp_path):
    """After an exception in a callback's hook, nothing else logs the batch."""

    class Points(L.pytorch.loggers.Logger):
        name, version, steps = "points", 0, ()

        def log_metrics(self, metrics, step=None):
            self.steps = (*self.steps, step) if "loss" in metrics else self.steps

        def log_hyperparams(self, *args, **kwargs):
            pass

    def fail(trainer, *_):
        if trainer.global_step == 2:
            raise RuntimeError("as planned")

    points = Points()
    log = Do(on_exception=lambda trainer, *_: lightning_private.log_latest_batch(trainer))
    with pytest.raises(RuntimeError, match="as planned"):
        fit(Do(on_train_batch_end=fail), log, logger=points)
    assert points.steps == (0, 1)


def saved(trainer: L.Trainer, path) -> dict:
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def test_is_restoring_checkpoint(tmp_path):
    path, seen = tmp_path / "saved.ckpt", {}
    fit(Do(on_train_end=lambda trainer, *_: trainer.save_checkpoint(path)))

    def note(hook):
        return lambda trainer, *_: seen.update({hook: lightning_private.is_restoring_checkpoint(trainer)})

    fit(Do(**{hook: note(hook) for hook in ("on_load_checkpoint", "on_train_start")}), ckpt_path=path, max_epochs=2)
    assert seen == {"on_load_checkpoint": True, "on_train_start": False}


def test_set_to_batch_end(tmp_path):
    """A state saved at the end of an epoch, a validation or training becomes that of the last batch."""
    states = {}

    def save(name):
        def at(trainer, *_):
            states[name] = saved(trainer, tmp_path / "saved.ckpt")["loops"]["fit_loop"]

        return at

    hooks = ("on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_end")
    fit(Do(**{hook: save(hook) for hook in hooks}))
    of_batch = states["on_train_batch_end"]
    for state in states.values():
        lightning_private.set_to_batch_end(state, epoch=0, global_step=3, accumulating=False)
        for key in ("epoch_loop.batch_progress", "epoch_progress", "epoch_loop.state_dict"):
            assert state[key] == of_batch[key]


def checkpoint(directory) -> ModelCheckpoint:
    return ModelCheckpoint(directory, "{step}", every_n_train_steps=1000, save_top_k=-1, save_on_train_epoch_end=False)


def files(directory) -> set[str]:
    return {path.name for path in directory.glob("*.ckpt")}


def test_save_and_may_save(tmp_path):
    kept, seen = checkpoint(tmp_path), []

    def save_second_step(trainer, *_):
        if trainer.global_step == 2 and not is_accumulating(trainer):
            seen.append(lightning_private.may_save(kept, trainer))
            lightning_private.save(kept, trainer)
            seen.append(lightning_private.may_save(kept, trainer))

    fit(kept, Do(on_train_batch_end=save_second_step), enable_checkpointing=True)
    assert files(tmp_path) == {"step=2.ckpt"}
    assert seen == [True, False]


def test_save_after_validation(tmp_path):
    kept, seen = checkpoint(tmp_path), []

    def ask(trainer, *_):
        seen.append(files(tmp_path))
        if trainer.global_step == 2:
            lightning_private.save_after_validation(kept)

    fit(Do(on_train_batch_end=ask), kept, enable_checkpointing=True, val_check_interval=4)
    assert seen == [set()] * 4 + [{"step=2.ckpt"}] * 2


def test_mark_saved(tmp_path):
    kept, seen = checkpoint(tmp_path), []

    def mark(trainer, *_):
        lightning_private.mark_saved(kept, trainer.global_step)
        seen.append(lightning_private.may_save(kept, trainer))

    fit(kept, Do(on_train_batch_end=mark), enable_checkpointing=True)
    assert seen == [False] * BATCHES


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)]
)
def test_compute_dtype(precision, dtype):
    trainer = L.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    assert lightning_private.compute_dtype(trainer) == dtype


@pytest.mark.parametrize(
    ("parent", "method"), [(parent, name) for parent, names in lightning_private.OVERRIDDEN.items() for name in names]
)
def test_lightning_still_has_what_we_override(parent, method):
    assert callable(getattr(parent, method))


def test_every_function_has_a_test():
    here = " ".join(name for name in globals() if name.startswith("test_"))
    public = [name for name, _ in inspect.getmembers(lightning_private, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in public if name not in here] == []


def private_attributes(source: str, of_self: bool) -> set[str]:
    """Names with a leading underscore, after `self.` or else after anything else."""
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in attributes if (ast.unparse(node.value) == "self") == of_self}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("path", sorted((REPO / "callbacks").rglob("*.py")), ids=lambda path: path.stem)
def test_no_other_file_touches_what_is_private(path):
    """Nor does a callback, by chance or design, have a private attribute with the same name as its parent's."""
    if path.stem == "lightning_private":
        return
    source = path.read_text()
    assert private_attributes(source, of_self=False) <= {"_exit"}  # os._exit
    module = importlib.import_module(".".join(path.relative_to(REPO).with_suffix("").parts))
    for ours in vars(module).values():
        for parent in ours.__mro__ if inspect.isclass(ours) and ours.__module__ == module.__name__ else ():
            if parent.__module__.startswith("lightning."):
                theirs = inspect.getsource(inspect.getmodule(parent))
                assert not private_attributes(source, of_self=True) & private_attributes(theirs, of_self=True)


def test_the_command_line_overrides_only_what_is_listed():
    for path in (REPO / "cli").rglob("*.py"):
        source = path.read_text()
        touched = private_attributes(source, of_self=True) | private_attributes(source, of_self=False)
        assert touched - {"_option_string_actions"} <= set(lightning_private.OVERRIDDEN[LightningCLI]), (
            path
        )  # argparse's
