"""A run's checkpoints, `last.ckpt` to resume from and `best.ckpt` to use: Lightning's ModelCheckpoint, twice."""

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException


class LastCheckpoint(ModelCheckpoint):
    """Keep the newest state in `checkpoints/last.ckpt`, to resume from.

    Args:
        every_n_train_steps: Optimiser steps between two saves; a killed run loses at most this many.
    """

    def __init__(self, every_n_train_steps: int = 100) -> None:
        # Without the version counter, each save replaces the file (AtomicCheckpointIO renames, never half-writes).
        super().__init__(filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """After SIGTERM, which Lightning lets take effect between two batches, save first. Other exceptions can come in
        the middle of a step, from where nothing resumes exactly."""
        if isinstance(exception, SIGTERMException):
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save where training ended, whatever the interval."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class BestCheckpoint(ModelCheckpoint):
    """Keep the state with the lowest validation loss in `checkpoints/best.ckpt`."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/loss",
            every_n_epochs=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
