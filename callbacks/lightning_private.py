"""Every private name of Lightning's that this project touches, as of lightning 2.6.6, and why there is no public way.

tests/callbacks/test_lightning_private.py tries each by itself, to show which one a new version of Lightning breaks.
"""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, throughput_monitor
from lightning.pytorch.cli import LightningCLI

Counters = dict[str, dict[str, int]]  # a progress tracker of Lightning's: total and current, each by ready, started, …

# Methods that our subclasses override or call; LightningCLI has no public hooks for them.
OVERRIDDEN = {LightningCLI: ("_set_seed", "_parse_ckpt_path", "_prepare_subcommand_kwargs", "_run_subcommand", "_get")}


# ---- the training loop


def is_validation_next(trainer: L.Trainer) -> bool:
    """Whether a validation follows the latest batch. That depends on intervals in batches, epochs and seconds, on early
    stopping and more, and Lightning decides only after the callbacks' hooks."""
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def tensorboard_step(trainer: L.Trainer) -> int:
    """The x-axis of Lightning's loggers: the number of the last optimiser step, from 0. `global_step` is one ahead,
    except inside an accumulation window."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def log_latest_batch(trainer: L.Trainer) -> None:
    """Hand the latest batch's figures to the loggers, after an exception kept the loop from doing so."""
    trainer._logger_connector.on_batch_end()
    trainer._logger_connector.update_train_step_metrics()


def is_restoring_checkpoint(trainer: L.Trainer) -> bool:
    """Whether the trainer is restoring a checkpoint, so that an error is the checkpoint's fault. No hook marks the end
    of that."""
    return bool(trainer._checkpoint_connector._loaded_checkpoint)


def set_to_batch_end(fit_loop: dict[str, Any], epoch: int, global_step: int, accumulating: bool) -> None:
    """Rewrite a fit loop's state to what it is in `on_train_batch_end` of the last complete batch. Lightning documents
    neither the keys nor how a resume reads them.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`, changed in place.
        epoch: Of that batch, from 0. Lightning's own count is too low in a run that was extended after its end.
        global_step: Optimiser steps taken.
        accumulating: Whether that batch was not the last of an optimiser step.
    """
    batches: Counters = fit_loop["epoch_loop.batch_progress"]
    for counters in (batches["total"], batches["current"]):
        for stage in ("ready", "started"):
            counters[stage] = counters["processed"]
        counters["completed"] = counters["processed"] - 1  # Lightning counts the batch when it resumes
    epochs: Counters = fit_loop["epoch_progress"]
    for counters in (epochs["total"], epochs["current"]):
        counters["ready"] = counters["started"] = epoch + 1
        counters["processed"] = counters["completed"] = epoch  # inside the epoch
    # TensorBoard's axis; Lightning counts the last step when it resumes.
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = global_step - (not accumulating)


# ---- ModelCheckpoint: its public hooks save at times of their own; no public method saves now


def may_save(checkpoint: ModelCheckpoint, trainer: L.Trainer) -> bool:
    """Whether this is a fit whose latest step is not saved yet."""
    return not checkpoint._should_skip_saving_checkpoint(trainer)


def save(checkpoint: ModelCheckpoint, trainer: L.Trainer) -> None:
    checkpoint._save_topk_checkpoint(trainer, checkpoint._monitor_candidates(trainer))


def save_after_validation(checkpoint: ModelCheckpoint) -> None:
    """Save at the end of the next validation."""
    checkpoint._defer_save_until_validation = True


def mark_saved(checkpoint: ModelCheckpoint, step: int) -> None:
    """Count the state after an optimiser step as saved."""
    checkpoint._last_global_step_saved = step


# ---- hardware


def compute_dtype(trainer: L.Trainer) -> torch.dtype:
    """The type in which matrix products are computed. Lightning keeps this table for its ThroughputMonitor alone."""
    return throughput_monitor._plugin_to_compute_dtype(trainer.precision_plugin)
