"""Checkpoints that resume exactly, from wherever they are saved: after a batch, in or after a validation, at the end of
an epoch or of training, or where an exception ended a step in the middle.

Lightning's loops save how far each hook got, and resume differently from each place. Here every checkpoint of a fit
says the same: "as in `on_train_batch_end` of the last whole batch", and whether the validation after it is still due.
"""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.validation import batches_into_step
from gpt_lightning.errors import UserError

Counters = dict[str, dict[str, int]]  # Lightning's progress trackers: total and current, each by ready, started, …
STAGES = ("ready", "started", "processed", "completed")
VALIDATION_DUE = "validation_due"  # a key of the checkpoint


class ExactResume(Checkpoint):
    """Bring every checkpoint into the one form, run a validation that was due when it was saved, and on an exception
    in the middle of a step go back to the step's start.

    A `Checkpoint`, so that Lightning calls it after the callbacks that look at a validation; it has to stand before
    those that save.
    """

    def __init__(self) -> None:
        self._validated_after = -1  # the batch (counted over epochs) after which the last validation ended
        self._validation_due = False
        self._updating = False
        self._epoch = 0  # of the last batch
        self._start: int | None = None  # batches before the optimiser step under way

    # ---- saving

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Note which epoch this is; before the first batch of an optimiser step, where it is, to go back to it."""
        self._epoch = trainer.current_epoch
        if batches_into_step(trainer) == 0:
            self._start = trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Remember that the validation after this batch is done."""
        if not trainer.sanity_checking:
            self._validated_after = trainer.fit_loop.epoch_loop.total_batch_idx

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Rewrite the loops' progress, and note whether a validation is due."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.fit_loop.epoch_loop.batch_progress.total.ready > 0:
            checkpoint[VALIDATION_DUE] = self._is_validation_due(trainer)
            accumulating = trainer.fit_loop._should_accumulate()
            as_after_a_batch(checkpoint["loops"]["fit_loop"], self._epoch, trainer.global_step, accumulating)

    def _is_validation_due(self, trainer: L.Trainer) -> bool:
        loop = trainer.fit_loop.epoch_loop
        done = self._validated_after == loop.total_batch_idx or loop.batch_progress.current.ready == 0
        return not done and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    # ---- resuming

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember whether a validation is due, and the epoch."""
        self._epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        self._validation_due = checkpoint.get(VALIDATION_DUE, False)

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Run the validation that was due, as Lightning would have after the batch."""
        if self._validation_due:
            self._validation_due = False
            loop = trainer.fit_loop.epoch_loop
            trainer.validating, loop.val_loop.restarting = True, False
            loop.val_loop.run()
            trainer.training = True

    # ---- exceptions

    def on_before_optimizer_step(self, *_: Any) -> None:
        """From here until the batch is processed, the weights may be half updated."""
        self._updating = True

    def on_train_batch_end(self, *_: Any) -> None:
        """Now they are whole."""
        self._updating = False

    def rewind(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> bool:
        """After an exception: go back to where a checkpoint resumes exactly, the last whole batch or, from the middle
        of an optimiser step, to that step's start.

        Returns:
            Whether there is such a place: a batch was trained, and the weights are not half updated.
        """
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.state.fn != TrainerFn.FITTING or not progress.total.completed:
            return False
        if progress.current.processed == progress.current.ready:  # the exception came between two batches
            # Before the last one's figures were logged; not in a validation that was due when this process began.
            if progress.current.completed < progress.current.ready and trainer.training:
                trainer._logger_connector.on_batch_end()
                trainer._logger_connector.update_train_step_metrics()
            return True
        # What we raise ourselves, on a gradient that is not finite, comes before the first weight is touched.
        if self._updating and not isinstance(exception, UserError):
            return False
        whole = batches_into_step(trainer)
        total, current = progress.total.completed - whole, progress.current.completed - whole
        if whole and self._start != total:
            return False  # resumed inside an accumulation window, which began with other batches perhaps
        (loader,) = trainer.fit_loop._combined_loader.flattened
        loader.position -= progress.current.ready - current
        for stage in STAGES:
            setattr(progress.total, stage, total)
            setattr(progress.current, stage, current)
        progress.is_last_batch = False
        self._epoch = trainer.current_epoch  # which may have begun with the batch that failed
        return True


def as_after_a_batch(fit_loop: dict[str, Any], epoch: int, global_step: int, accumulating: bool) -> None:
    """Rewrite a fit loop's state as `on_train_batch_end` of its last whole batch has it.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`, changed in place.
        epoch: Of that batch, from 0. Lightning's count of those begun falls behind in a run that went on from an end.
        global_step: Optimiser steps taken.
        accumulating: Whether that batch was not the last of an optimiser step.
    """
    batches: Counters = fit_loop["epoch_loop.batch_progress"]
    for counters in (batches["total"], batches["current"]):
        for stage in ("ready", "started"):
            counters[stage] = counters["processed"]
        counters["completed"] = counters["processed"] - 1  # Lightning counts it when it resumes
    epochs: Counters = fit_loop["epoch_progress"]
    for counters in (epochs["total"], epochs["current"]):
        counters["ready"] = counters["started"] = epoch + 1
        counters["processed"] = counters["completed"] = epoch  # inside the epoch
    # TensorBoard's axis; Lightning counts the last step when it resumes.
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = global_step - (not accumulating)
