"""The depth scan at validation: every metric of every layer to TensorBoard, as scalars, matrices and a table."""

import lightning as L

from callbacks.when import TensorBoardCallback


class AttentionHeatmaps(TensorBoardCallback):
    """Scan.

    Args:
        n_sequences: Validation sequences to scan, always the same ones.
        every_n_validations: Scan at every n-th validation; 0 never.
    """

    def __init__(self, n_sequences: int = 8, every_n_validations: int = 1) -> None:
        super().__init__(every_n_validations)
        self.n_sequences = n_sequences

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Scan and write."""
