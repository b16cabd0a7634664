"""When a callback looks at the network: at real validations during fit, on rank zero."""

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.lightning_private import tensorboard_step
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.draw.cached_figures import kept_frames, new_frame
from gpt_lightning.training.sharding import gathered_network


def batches_into_step(trainer: L.Trainer) -> int:
    """How many batches of the current optimiser step are done; 0 between two steps."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches


class ValidationCallback(L.Callback):
    """Base of the callbacks that look at the network at validation: calls `look`, then `act`, when it is time.

    Args:
        every_n_validations: Look at every n-th validation; 0 never.
    """

    def __init__(self, every_n_validations: int = 1) -> None:
        if every_n_validations < 0:
            raise UserError(f"every_n_validations is {every_n_validations} but must be 0 (never) or more.")
        self.every_n_validations = every_n_validations
        self.frames = new_frame  # of pictures; during a run, those of one look are kept for the next
        self._validations = 0
        self._last_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep frames from now on, which no other run shares."""
        self.frames = kept_frames()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the frames go."""
        self.frames = new_frame

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count real validations and look at every n-th."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or not self.every_n_validations:
            return
        # Lightning's x-axis, so that these curves line up with val/loss and a resume keeps or drops them with it.
        step = tensorboard_step(trainer)
        if step == self._last_step:
            return  # a run that was stopped may validate the same weights twice
        due = (self._validations + 1) % self.every_n_validations == 0
        if due:
            with gathered_network(pl_module):
                if trainer.is_global_zero:
                    self.look(trainer, pl_module, step)
        # Only now: if the look failed, a resumed run does it again.
        self._last_step = step
        self._validations += 1
        if due:
            self.act(trainer)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Compute and write what this callback is for, on rank zero alone: nothing here may wait for another rank.
        `step` is TensorBoard's: the number of the last optimiser step, counted from 0."""
        raise NotImplementedError

    def act(self, trainer: L.Trainer) -> None:
        """Do what follows from the look, on every rank."""

    def state_dict(self) -> dict:
        """How many validations there were, so that a resumed run keeps the rhythm, and the step of the last, since an
        interrupted validation is run again."""
        return {"validations": self._validations, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore both; checkpoints of older versions have no last step."""
        self._validations, self._last_step = state_dict["validations"], state_dict.get("last_step", -1)
