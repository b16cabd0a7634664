"""When a callback looks, in one place: at real validations during fit, on rank zero, with TensorBoard to write to."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from gpt_lightning.errors import UserError


class TensorBoardCallback(L.Callback):
    """Base of the callbacks that write to TensorBoard at validation: calls `write` when it is time.

    Args:
        every_n_validations: Write at every n-th validation; 0 never.
    """

    def __init__(self, every_n_validations: int = 1) -> None:
        if every_n_validations < 0:
            raise UserError(f"every_n_validations is {every_n_validations} but must be 0 (never) or more.")
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._last_step = -1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count real validations and write at every n-th."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or not self.every_n_validations:
            return
        # Lightning's x-axis, so that these curves line up with val/loss and a resume keeps or drops them with it.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if step == self._last_step:
            return  # a run that is stopped inside an accumulation window may validate the same weights twice
        self._last_step = step
        self._validations += 1
        due = self._validations % self.every_n_validations == 0
        if due and trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            self.write(trainer, pl_module, step)

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Compute and write what this callback is for; `step` is TensorBoard's: the number of the last optimiser step,
        counted from 0."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """How many validations there were, so that a resumed run keeps the rhythm."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict) -> None:
        """The opposite."""
        self._validations = state_dict["validations"]
