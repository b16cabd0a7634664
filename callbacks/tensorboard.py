"""Where callbacks write: TensorBoard's writer, if the run has one, and pictures in its own format."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from callbacks.validation import ValidationCallback
from gpt_lightning.interpret.draw.cached_figures import Drawn
from gpt_lightning.interpret.draw.canvas import to_png


class TensorBoardCallback(ValidationCallback):
    """Base of the callbacks that have nothing to do without TensorBoard: calls `write`."""

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Write, if there is a TensorBoard to write to."""
        if tensorboard(trainer) is not None:
            self.write(trainer, pl_module, step)

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """As `look`, with `trainer.logger.experiment` a TensorBoard writer."""
        raise NotImplementedError


def tensorboard(trainer: L.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, if the run has one: on rank zero alone, elsewhere Lightning hands out a dummy."""
    writes = trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger.experiment if writes else None


def add_picture(writer: SummaryWriter, tag: str, picture: Drawn, step: int) -> None:
    """Like `writer.add_image`, which spends longer on compressing a picture than the picture took to draw."""
    height, width, channels = picture.pixels.shape  # TensorBoard's number for a kind of pixels is that of its channels
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=to_png(picture))
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
