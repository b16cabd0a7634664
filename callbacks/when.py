"""When a callback looks or acts, in one place: at real validations during fit, on rank zero; between two steps."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from callbacks.lightning_private import tensorboard_step
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.figures import figure_to_array, figure_to_png
from gpt_lightning.interpret.redraw import Drawn
from gpt_lightning.sharding import gathered_network

RGBA = 4  # TensorBoard's number for that kind of pixels


def batches_into_step(trainer: L.Trainer) -> int:
    """How many batches of the optimiser step under way are done; 0 between two steps."""
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
        self._validations = 0
        self._last_step = -1

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
        # Not before: what a look that failed leaves undone, a resumed run does again.
        self._last_step = step
        self._validations += 1
        if due:
            self.act(trainer)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Compute and write what this callback is for, on rank zero alone: nothing here may wait for another rank.
        `step` is TensorBoard's: the number of the last optimiser step, counted from 0."""
        raise NotImplementedError

    def act(self, trainer: L.Trainer) -> None:
        """What follows from the look, on every rank."""

    def state_dict(self) -> dict:
        """How many validations there were, so that a resumed run keeps the rhythm; and the last that was looked at,
        since one that was interrupted is run again."""
        return {"validations": self._validations, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """The opposite."""
        self._validations, self._last_step = state_dict["validations"], state_dict.get("last_step", -1)


class TensorBoardCallback(ValidationCallback):
    """Base of those that have nothing to do without TensorBoard: calls `write`."""

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Write, if there is where to."""
        if tensorboard(trainer) is not None:
            self.write(trainer, pl_module, step)

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """As `look`, with `trainer.logger.experiment` a TensorBoard writer."""
        raise NotImplementedError


def add_picture(writer: SummaryWriter, tag: str, picture: Figure | Drawn, step: int) -> None:
    """As `writer.add_image`, which spends longer on compressing a picture than the picture took to draw."""
    height, width = figure_to_array(picture).shape[1:]
    image = Summary.Image(height=height, width=width, colorspace=RGBA, encoded_image_string=figure_to_png(picture))
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def tensorboard(trainer: L.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, if the run has one: on rank zero alone, elsewhere Lightning hands out a dummy."""
    writes = trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger.experiment if writes else None
