"""Where callbacks write: TensorBoard's writer, if the run has one, and pictures in TensorBoard's format."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from callbacks.validation import ValidationCallback
from gpt_lightning.interpret.draw.cached_figures import Drawn
from gpt_lightning.interpret.draw.canvas import to_png


class TensorBoardCallback(ValidationCallback):
    """Base of the callbacks that have nothing to do without TensorBoard: calls `write` at a look."""

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        if tensorboard(trainer) is not None:
            self.write(trainer, pl_module, step)

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Look, with a TensorBoard writer as `trainer.logger.experiment`."""
        raise NotImplementedError


def tensorboard(trainer: L.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, if the run has one; on rank zero only, since Lightning gives other ranks a dummy."""
    writes = trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger.experiment if writes else None


def add_picture(writer: SummaryWriter, tag: str, picture: Drawn, step: int) -> None:
    """Like `writer.add_image`, which takes longer to compress a picture than it took to draw."""
    height, width, channels = picture.pixels.shape  # TensorBoard's code of a colour space is its number of channels
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=to_png(picture))
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
