"""A run's checkpoints: `last.ckpt` to resume from and `best.ckpt` to use. Both are Lightning's ModelCheckpoint."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.lightning_private import is_validation_next, mark_saved, may_save, save, save_after_validation
from callbacks.resuming.exact_resume import VALIDATION_DUE, ExactResume
from callbacks.resuming.graceful_stop import Stopped
from gpt_lightning.ranges import PositiveInt, check_arguments


class LastCheckpoint(ModelCheckpoint):
    """Keep the newest state in `checkpoints/last.ckpt`, to resume from, and the one before it beside it.

    Args:
        every_n_train_steps: Optimiser steps between two saves; a killed run loses at most this many.

    Raises:
        UserError: `every_n_train_steps` is below 1.
    """

    def __init__(self, every_n_train_steps: PositiveInt = 100) -> None:
        check_arguments(LastCheckpoint.__init__, locals(), "last_checkpoint")
        self.every_n_train_steps = every_n_train_steps
        # Without the version counter, each save replaces the file (atomically, see AtomicCheckpointIO).
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Don't save the state again that the run resumes from, unless a validation is still due in it."""
        if not checkpoint.get(VALIDATION_DUE):
            mark_saved(self, checkpoint["global_step"])

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save at every n-th step; if a validation follows, save after it, so that none is lost or seen twice."""
        if trainer.global_step % self.every_n_train_steps == 0 and may_save(self, trainer):
            if is_validation_next(trainer):
                save_after_validation(self)
            else:
                save(self, trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save a state that resumes exactly: after a signal, the one between two steps; else where the step began."""
        # Only a signal brings every rank here; a rank alone would wait for the others for ever.
        alone = trainer.world_size > 1 and not isinstance(exception, Stopped)
        if alone or isinstance(exception, KeyboardInterrupt):
            return
        resume = next((callback for callback in trainer.callbacks if isinstance(callback, ExactResume)), None)
        try:
            if resume is not None and resume.rewind(trainer, pl_module, exception):
                self.on_train_end(trainer, pl_module)
        except Exception as error:  # must not hide the exception that ended the run
            trainer.print(f"The state at step {trainer.global_step:,} could not be saved: {error}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of training, whatever the interval."""
        if may_save(self, trainer):
            save(self, trainer)


class BestCheckpoint(ModelCheckpoint):
    """Keep the state with the lowest validation loss in `checkpoints/best.ckpt`."""

    def __init__(self) -> None:
        super().__init__(
            filename="best", monitor="val/loss", save_on_train_epoch_end=False, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best checkpoint even if the run was moved or is named by another path: Lightning would forget
        it, and overwrite it with the next."""
        best = Path(self.dirpath) / Path(state_dict["best_model_path"]).name
        if state_dict["best_model_path"] and best.is_file():
            here = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            state_dict = state_dict | here | {"best_k_models": {str(best): state_dict["best_model_score"]}}
        super().load_state_dict(state_dict)
