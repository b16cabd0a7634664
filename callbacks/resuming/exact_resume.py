"""Checkpoints that resume exactly wherever they were saved: after a batch, in or after a validation, at the end of an
epoch or of training, or where an exception ended a step halfway.

Lightning's loops save how far each hook got, and resume differently from each place. Here every checkpoint of a fit is
in one form: the state in `on_train_batch_end` of the last complete batch, and whether a validation is still due.
"""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.lightning_private import is_validation_next, log_latest_batch, set_to_batch_end
from callbacks.validation import batches_into_step
from gpt_lightning.errors import UserError
from gpt_lightning.training.guarded_step import is_accumulating

VALIDATION_DUE = "validation_due"  # a key of the checkpoint


class ExactResume(Checkpoint):
    """Bring every checkpoint into one form; on resuming, run a validation that was due; after an exception within an
    optimiser step, go back to where the step began.

    It is a `Checkpoint`, so that Lightning calls it after the callbacks that look at a validation. It must precede the
    callbacks that save.
    """

    def __init__(self) -> None:
        self._validated_after = -1  # the batch, counted over epochs, before the last complete validation
        self._validation_due = False
        self._updating = False
        self._epoch = 0  # of the last batch
        self._start: int | None = None  # batches before the current optimiser step

    # ---- saving

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the epoch and, before the first batch of an optimiser step, the place to go back to."""
        self._epoch = trainer.current_epoch
        if batches_into_step(trainer) == 0:
            self._start = trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._validated_after = trainer.fit_loop.epoch_loop.total_batch_idx

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Rewrite the loops' progress and add whether a validation is due."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.fit_loop.epoch_loop.batch_progress.total.ready > 0:
            checkpoint[VALIDATION_DUE] = self._is_validation_due(trainer)
            fit_loop = checkpoint["loops"]["fit_loop"]
            set_to_batch_end(fit_loop, self._epoch, trainer.global_step, is_accumulating(trainer))

    def _is_validation_due(self, trainer: L.Trainer) -> bool:
        loop = trainer.fit_loop.epoch_loop
        done = self._validated_after == loop.total_batch_idx or loop.batch_progress.current.ready == 0
        return not done and is_validation_next(trainer)

    # ---- resuming

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
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
        """Note that from here until the batch is processed, only some of the weights may be updated."""
        self._updating = True

    def on_train_batch_end(self, *_: Any) -> None:
        self._updating = False

    def rewind(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> bool:
        """After an exception, go back to a state from which a checkpoint resumes exactly: the one after the last
        complete batch or, from within an optimiser step, the one where that step began.

        Returns:
            Whether there is such a state: a batch was trained, and the weights are not half updated.
        """
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.state.fn != TrainerFn.FITTING or not progress.total.completed:
            return False
        if progress.current.processed == progress.current.ready:  # the exception came between two batches
            # The last batch's figures are not logged yet, unless this is a validation that was due on resuming.
            if progress.current.completed < progress.current.ready and trainer.training:
                log_latest_batch(trainer)
            return True
        # UserError comes from us, on a numerical fault, before any weight changes.
        if self._updating and not isinstance(exception, UserError):
            return False
        into_step = batches_into_step(trainer)
        total, current = progress.total.completed - into_step, progress.current.completed - into_step
        if into_step and self._start != total:
            return False  # resumed inside an accumulation window, whose first batches this process has not seen
        trainer.train_dataloader.position -= progress.current.ready - current
        for stage in ("ready", "started", "processed", "completed"):
            setattr(progress.total, stage, total)
            setattr(progress.current, stage, current)
        progress.is_last_batch = False
        self._epoch = trainer.current_epoch  # may have begun with the batch that failed
        return True
