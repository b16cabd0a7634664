"""When a callback looks at the network: at real validations during fit, on rank zero."""

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.lightning_private import tensorboard_step
from gpt_lightning.interpret.draw.cached_figures import kept_frames, new_frame
from gpt_lightning.ranges import NonNegativeInt, check_arguments
from gpt_lightning.training.sharding import gathered_network


def batches_into_step(trainer: L.Trainer) -> int:
    """How many batches of the current optimiser step are done; 0 between two steps."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches


class ValidationCallback(L.Callback):
    """Base of the callbacks that look at the network at validation: calls `look`, then `act`, when it is time.

    Args:
        every_n_validations: Look at every n-th validation; 0 never.
    """

    def __init__(self, every_n_validations: NonNegativeInt = 1) -> None:
        check_arguments(ValidationCallback.__init__, locals(), type(self).__name__)
        self.every_n_validations = every_n_validations
        self.frames = new_frame  # of pictures; during a run they are kept from one look to the next
        self._validations = 0
        self._last_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep frames from now on, shared with no other callback or run."""
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
            return  # a run that was stopped and resumed may validate the same weights twice
        due = (self._validations + 1) % self.every_n_validations == 0
        if due:
            with gathered_network(pl_module):
                if trainer.is_global_zero:
                    self.look(trainer, pl_module, step)
        # Only now: if the look failed, a resumed run repeats it.
        self._last_step = step
        self._validations += 1
        if due:
            self.act(trainer)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Compute and write, on rank zero alone: nothing here may wait for another rank. `step` is TensorBoard's: the
        number of the last optimiser step, counted from 0."""
        raise NotImplementedError

    def act(self, trainer: L.Trainer) -> None:
        """Do what follows from the look, on every rank."""

    def state_dict(self) -> dict:
        """The number of validations, so that a resumed run keeps the rhythm, and the step of the last one, since an
        interrupted validation is run again."""
        return {"validations": self._validations, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore both; checkpoints of older versions lack the last step."""
        self._validations, self._last_step = state_dict["validations"], state_dict.get("last_step", -1)
