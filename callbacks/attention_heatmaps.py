"""Pictures of the attention weights at validation, one gallery per layer, to TensorBoard's image tab."""

import lightning as L

from callbacks.when import TensorBoardCallback
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.figures import attention_gallery, figure_to_array
from gpt_lightning.interpret.labels import token_label
from gpt_lightning.interpret.scan import attention_maps, depth_scan


class AttentionHeatmaps(TensorBoardCallback):
    """Write `attention/layer_LL`: every head's attention over the beginning of one fixed validation sequence.

    Args:
        max_tokens: Tokens to show; up to 48 the axes carry each token's text.
        n_sequences: Validation sequences that the verdicts in the titles rest on; the first of them is shown.
        every_n_validations: Write at every n-th validation; 0 never.
    """

    def __init__(self, max_tokens: int = 48, n_sequences: int = 8, every_n_validations: int = 1) -> None:
        if max_tokens < 2 or n_sequences < 1:
            raise UserError(
                f"attention_heatmaps: max_tokens is {max_tokens} and n_sequences {n_sequences}, but a picture needs at "
                "least 2 tokens and 1 sequence."
            )
        super().__init__(every_n_validations)
        self.max_tokens, self.n_sequences = max_tokens, n_sequences

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw every layer of the network as it is now."""
        data = trainer.datamodule
        sequences = data.validation_sequences(self.n_sequences)
        maps = attention_maps(pl_module.model, sequences[0], self.max_tokens)
        labels = [token_label(data.encoding, token) for token in sequences[0, : self.max_tokens].tolist()]
        verdicts = depth_scan(pl_module.model, sequences, trainer.global_step).verdicts
        for layer, pattern in enumerate(maps):
            figure = attention_gallery(pattern, labels, verdicts[layer], layer)
            trainer.logger.experiment.add_image(f"attention/layer_{layer:02d}", figure_to_array(figure), step)
