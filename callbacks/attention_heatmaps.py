"""Pictures of attention weights at validation, for TensorBoard's image tab."""

import lightning as L

from callbacks.depth_scan import DepthScan
from callbacks.tensorboard import TensorBoardCallback, add_picture
from gpt_lightning.data.token_label import token_label
from gpt_lightning.interpret.draw.galleries import NOTE_TITLE, attention_gallery, head_gallery, panels_of_note
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import attention_maps, depth_scan
from gpt_lightning.ranges import LARGEST_INT, NonNegativeInt, PositiveInt, check_arguments, number_type

AtLeastTwo = number_type("AtLeastTwo", int, "at least 2", (">=", 2), ("<=", LARGEST_INT))


class AttentionHeatmaps(TensorBoardCallback):
    """Write `attention/layer_LL`, every head's attention over the beginning of one fixed validation sequence, and
    `attention/heads_of_note`, the heads that stand out and one of every other kind.

    The verdicts in the titles come from the run's depth scan at this step or, without one, from a scan of its own.

    Args:
        max_tokens: Tokens to show; up to 48 the axes carry each token's text.
        n_sequences: Validation sequences for a scan of its own; the first one is shown.
        every_n_validations: Write at every n-th validation; 0 never.
    """

    def __init__(
        self, max_tokens: AtLeastTwo = 48, n_sequences: PositiveInt = 8, every_n_validations: NonNegativeInt = 1
    ) -> None:
        check_arguments(AttentionHeatmaps.__init__, locals(), "attention_heatmaps")
        super().__init__(every_n_validations)
        self.max_tokens, self.n_sequences = max_tokens, n_sequences

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        data, writer = trainer.datamodule, trainer.logger.experiment
        sequences = data.validation_sequences(self.n_sequences)
        maps = attention_maps(pl_module.model, sequences[0], self.max_tokens)
        labels = [token_label(data.encoding, token) for token in sequences[0, : self.max_tokens].tolist()]
        scan = latest_scan(trainer) or depth_scan(pl_module.model, sequences, trainer.global_step)
        for layer, pattern in enumerate(maps):
            picture = attention_gallery(pattern, labels, scan.verdicts[layer], layer, self.frames)
            add_picture(writer, f"attention/layer_{layer:02d}", picture, step)
        picture = head_gallery(panels_of_note(scan, maps), labels, NOTE_TITLE, self.frames)
        add_picture(writer, "attention/heads_of_note", picture, step)


def latest_scan(trainer: L.Trainer) -> DepthScanResult | None:
    """The run's depth scan at this very step, if there was one."""
    scans = (callback.result for callback in trainer.callbacks if isinstance(callback, DepthScan))
    return next((scan for scan in scans if scan and scan.step == trainer.global_step), None)
