"""Checkpoints that resume exactly, from wherever they are saved: after a batch, in or after a validation, at the end of
an epoch or of training, or where an exception ended a step in the middle.

Lightning's loops save how far each hook got, and resume differently from each place. Here every checkpoint of a fit
says the same: "as in `on_train_batch_end` of the last complete batch", and whether the validation after it is due.
"""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.lightning_private import as_after_a_batch, is_validation_next, log_latest_batch
from callbacks.validation import batches_into_step
from gpt_lightning.errors import UserError
from gpt_lightning.training.guarded_step import is_accumulating

STAGES = ("ready", "started", "processed", "completed")  # of a batch, in Lightning's progress trackers
VALIDATION_DUE = "validation_due"  # a key of the checkpoint


class ExactResume(Checkpoint):
    """Bring every checkpoint into one form, run a validation that was due when it was saved, and after an exception in
    the middle of an optimiser step go back to where the step began.

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
            fit_loop = checkpoint["loops"]["fit_loop"]
            as_after_a_batch(fit_loop, self._epoch, trainer.global_step, is_accumulating(trainer))

    def _is_validation_due(self, trainer: L.Trainer) -> bool:
        loop = trainer.fit_loop.epoch_loop
        done = self._validated_after == loop.total_batch_idx or loop.batch_progress.current.ready == 0
        return not done and is_validation_next(trainer)

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
        """From here until the batch is processed, some weights may be updated and others not."""
        self._updating = True

    def on_train_batch_end(self, *_: Any) -> None:
        """Now all weights are updated."""
        self._updating = False

    def rewind(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> bool:
        """After an exception: go back to where a checkpoint resumes exactly, which is after the last complete batch or,
        from the middle of an optimiser step, where that step began.

        Returns:
            Whether there is such a place: a batch was trained, and the weights are not half updated.
        """
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.state.fn != TrainerFn.FITTING or not progress.total.completed:
            return False
        if progress.current.processed == progress.current.ready:  # the exception came between two batches
            # Before the last one's figures were logged; not in a validation that was due when this process began.
            if progress.current.completed < progress.current.ready and trainer.training:
                log_latest_batch(trainer)
            return True
        # We raise UserError, on a numerical fault, before any weight is touched.
        if self._updating and not isinstance(exception, UserError):
            return False
        into_step = batches_into_step(trainer)
        total, current = progress.total.completed - into_step, progress.current.completed - into_step
        if into_step and self._start != total:
            return False  # resumed inside an accumulation window, which may have begun with other batches
        trainer.train_dataloader.position -= progress.current.ready - current
        for stage in STAGES:
            setattr(progress.total, stage, total)
            setattr(progress.current, stage, current)
        progress.is_last_batch = False
        self._epoch = trainer.current_epoch  # which may have begun with the batch that failed
        return True
