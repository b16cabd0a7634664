"""The depth scan at validation: what every layer and head does, to TensorBoard, as scalars, pictures and a table."""

import lightning as L
import torch

from callbacks.when import TensorBoardCallback
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.figures import TITLES, entropy_over_time, figure_to_array, head_matrix
from gpt_lightning.interpret.labels import token_label
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.interpret.tables import verdict_table, worst_of


class DepthScan(TensorBoardCallback):
    """Scan a few fixed validation sequences and write to TensorBoard `depth_scan/<metric>/layer_LL` (mean over heads)
    and `/worst` as scalars, `depth_scan/<metric>` (layer × head) and `depth_scan/entropy_over_time` as images, and
    `depth_scan/verdicts` as text.

    It hooks into the network only while it scans; training steps cost the same with it as without.

    Args:
        n_sequences: Validation sequences to scan, always the same ones.
        every_n_validations: Scan at every n-th validation; 0 never.
    """

    def __init__(self, n_sequences: int = 8, every_n_validations: int = 1) -> None:
        if n_sequences < 1:
            raise UserError(f"depth_scan.n_sequences is {n_sequences} but must be at least 1.")
        super().__init__(every_n_validations)
        self.n_sequences = n_sequences
        self.steps: list[int] = []
        self.entropies: list[list[float]] = []  # normalised entropy, a row of layers for each of `steps`

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Scan the network as it is now and write everything."""
        data = trainer.datamodule
        tokens = data.validation_sequences(self.n_sequences)
        steps_taken = trainer.global_step
        result = depth_scan(pl_module.model, tokens, steps_taken, lambda token: token_label(data.encoding, token))
        self.steps.append(steps_taken)
        self.entropies.append(result.heads["normalized_entropy"].mean(1).tolist())
        self.write_scalars(trainer, result, step)
        self.write_pictures(trainer, result, step)
        trainer.logger.experiment.add_text("depth_scan/verdicts", verdict_table(result), step)

    def write_scalars(self, trainer: L.Trainer, result: DepthScanResult, step: int) -> None:
        """One curve per layer and one for the worst head."""
        writer = trainer.logger.experiment
        layer_values = {name: result.heads[name].mean(1) for name in TITLES} | result.layers
        for name, values in layer_values.items():
            for layer, value in enumerate(values.tolist()):
                writer.add_scalar(f"depth_scan/{name}/layer_{layer:02d}", value, step)
            writer.add_scalar(f"depth_scan/{name}/worst", worst_of(result, name), step)

    def write_pictures(self, trainer: L.Trainer, result: DepthScanResult, step: int) -> None:
        """A matrix per metric, and how the layers' entropy has gone so far."""
        writer = trainer.logger.experiment
        for name in TITLES:
            writer.add_image(f"depth_scan/{name}", figure_to_array(head_matrix(result, name)), step)
        history = entropy_over_time(self.steps, torch.tensor(self.entropies))
        writer.add_image("depth_scan/entropy_over_time", figure_to_array(history), step)

    def state_dict(self) -> dict:
        """The history of the entropy picture, so that a resumed run goes on drawing it."""
        return super().state_dict() | {"steps": self.steps, "entropies": self.entropies}

    def load_state_dict(self, state_dict: dict) -> None:
        """The opposite."""
        super().load_state_dict(state_dict)
        self.steps, self.entropies = state_dict["steps"], state_dict["entropies"]
