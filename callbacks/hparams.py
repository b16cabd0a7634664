"""TensorBoard's HParams tab: a run's options, beside its loss and its number of alarms."""

from typing import Any

import lightning as L
from torch.utils.tensorboard.summary import hparams

from callbacks.tensorboard import tensorboard

# Curves that the run writes anyway; the tab shows their latest values.
METRICS = ("val/loss", "val/bits_per_byte", "depth_scan/alarms_raised")


class HyperParameters(L.Callback):
    """Write the options of the network, the optimiser and the data, by which TensorBoard compares runs."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writer = tensorboard(trainer)
        if writer is None:
            return
        values = flat(dict(pl_module.hparams)) | flat({"data": dict(trainer.datamodule.hparams)})
        values["trainer.accumulate_grad_batches"] = trainer.accumulate_grad_batches
        values["trainer.gradient_clip_val"] = trainer.gradient_clip_val or 0.0
        values["trainer.precision"] = str(trainer.precision)
        values["trainer.max_steps"] = trainer.max_steps
        for summary in hparams(values, dict.fromkeys(METRICS, 0.0)):  # the zeros only declare numbers
            writer.file_writer.add_summary(summary)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested options under dotted names such as `gpt.n_layer`, as types that TensorBoard knows."""
    leaves = {}
    for name, value in values.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return leaves
