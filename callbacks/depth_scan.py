"""The depth scan at validation: what every layer and head does, to TensorBoard, and what follows from an alarm."""

from pathlib import Path
from typing import Literal

import lightning as L
import torch
from torch.utils.tensorboard import SummaryWriter

from callbacks.tensorboard import add_picture, tensorboard
from callbacks.validation import ValidationCallback
from gpt_lightning.data.token_label import token_label
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.draw.cached_figures import Frames
from gpt_lightning.interpret.draw.matrices import entropy_over_time, head_matrix
from gpt_lightning.interpret.judge.alarms import Alarm, what_is_wrong
from gpt_lightning.interpret.metrics import METRICS, PICTURED
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.interpret.write.tables import verdict_table, worst_of


def _charts(kind: str, curve: str) -> dict[str, list]:
    """A chart for each metric that wants one of this kind, showing the curves of that name."""
    return {name: ["Multiline", [f"depth_scan/{name}/{curve}"]] for name, row in METRICS.items() if kind in row.charts}


LAYOUT = {  # of TensorBoard's Custom Scalars
    "Training": {
        "loss (nats per token)": ["Multiline", ["train/loss", "val/loss"]],
        "alarms": ["Multiline", ["depth_scan/alarms", "depth_scan/suspicions", "depth_scan/alarms_raised"]],
    },
    "Depth scan: every layer": _charts("layer", r"layer_\d+"),
    "Depth scan: worst head": _charts("worst", "worst"),
}


class DepthScan(ValidationCallback):
    """Scan a few fixed validation sequences and write to TensorBoard `depth_scan/<metric>/layer_LL` (mean over heads)
    and `/worst` as scalars, `/heads` as histograms, `depth_scan/<metric>` (layer × head) and
    `depth_scan/entropy_over_time` as images, `depth_scan/verdicts` as text, and the number of alarms.

    It hooks into the network only while it scans; training steps cost the same with it as without.

    Args:
        n_sequences: Validation sequences to scan, always the same ones.
        every_n_validations: Scan at every n-th validation; 0 never.
        on_alarm: When a layer's alarm is confirmed by a second scan: "warn" prints it, "checkpoint" also keeps the
            state in checkpoints/alarm-step=N.ckpt, "stop" also ends training.
    """

    def __init__(
        self,
        n_sequences: int = 8,
        every_n_validations: int = 1,
        on_alarm: Literal["warn", "checkpoint", "stop"] = "warn",
    ) -> None:
        if n_sequences < 1:
            raise UserError(f"depth_scan.n_sequences is {n_sequences} but must be at least 1.")
        if on_alarm not in ("warn", "checkpoint", "stop"):
            raise UserError(f"depth_scan.on_alarm is {on_alarm!r} but must be warn, checkpoint or stop.")
        super().__init__(every_n_validations)
        self.n_sequences, self.on_alarm = n_sequences, on_alarm
        self.history: list[dict] = []  # DepthScanResult.record of every scan so far
        self.result: DepthScanResult | None = None  # the last scan
        self.stopped_by: str | None = None  # the alarm that ended training
        self._announced: list[list] = []  # [kind, layer] of the alarms that were spoken of and still hold
        self._raised: list[list] = []  # and of all that ever were
        self._new_alarms: list[Alarm] = []

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Scan the network as it is now, keep what later scans need of it, and write everything."""
        data = trainer.datamodule
        self.history = [scan for scan in self.history if scan["step"] < trainer.global_step]  # a look may come again
        self.result = depth_scan(
            pl_module.model,
            data.validation_sequences(self.n_sequences),
            trainer.global_step,
            lambda token: token_label(data.encoding, token),
            history=self.history,
        )
        self.history.append(self.result.record())
        confirmed = [alarm for alarm in self.result.alarms if alarm.confirmed]
        self._new_alarms = [alarm for alarm in confirmed if [alarm.kind, alarm.layer] not in self._announced]
        self._announced = [[alarm.kind, alarm.layer] for alarm in confirmed]
        self._raised += [place for place in self._announced if place not in self._raised]
        writer = tensorboard(trainer)
        if writer is not None:
            write_scalars(writer, self.result, step)
            writer.add_scalar("depth_scan/alarms_raised", len(self._raised), step)
            write_pictures(writer, self.result, self.history, step, self.frames)
            writer.add_text("depth_scan/verdicts", verdict_table(self.result), step)
            if len(self.history) == 1:
                writer.add_custom_scalars(LAYOUT)

    def act(self, trainer: L.Trainer) -> None:
        """Say what is newly wrong; save or stop if asked to, on every rank at once."""
        alarms = trainer.strategy.broadcast(self._new_alarms)
        if not alarms:
            return
        sentence = what_is_wrong(trainer.global_step, alarms)
        trainer.print(f"step {trainer.global_step:>6,}  ALARM  {sentence}")
        if self.on_alarm in ("checkpoint", "stop"):
            directory = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
            trainer.save_checkpoint(directory / f"alarm-step={trainer.global_step}.ckpt")
        if self.on_alarm == "stop":
            self.stopped_by = sentence
            trainer.should_stop = True

    def state_dict(self) -> dict:
        """The scans so far, so that a resumed run goes on from them and analyze.py can look back."""
        return super().state_dict() | {
            "history": self.history,
            "announced": self._announced,
            "raised": self._raised,
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from the scans of a checkpoint."""
        super().load_state_dict(state_dict)
        self.history, self._announced = state_dict["history"], state_dict["announced"]
        self._raised = state_dict["raised"]


def write_scalars(writer: SummaryWriter, result: DepthScanResult, step: int) -> None:
    """For each metric a curve per layer, one for the worst head, and a histogram over all heads; and the alarms."""
    layer_values = {name: result.heads[name].mean(1) for name in PICTURED} | result.layers
    for name, values in layer_values.items():
        for layer, value in enumerate(values.tolist()):
            writer.add_scalar(f"depth_scan/{name}/layer_{layer:02d}", value, step)
        writer.add_scalar(f"depth_scan/{name}/worst", worst_of(result, name), step)
    for name in PICTURED:
        finite = result.heads[name][result.heads[name].isfinite()]
        if len(finite):
            # Not the name of the picture: of two kinds under one name TensorBoard shows only the first.
            writer.add_histogram(f"depth_scan/{name}/heads", finite, step)
    confirmed = sum(alarm.confirmed for alarm in result.alarms)
    writer.add_scalar("depth_scan/alarms", confirmed, step)
    writer.add_scalar("depth_scan/suspicions", len(result.alarms) - confirmed, step)


def write_pictures(
    writer: SummaryWriter, result: DepthScanResult, history: list[dict], step: int, frames: Frames
) -> None:
    """A matrix per metric, and the layers' entropy so far."""
    for name in PICTURED:
        add_picture(writer, f"depth_scan/{name}", head_matrix(result, name, frames), step)
    steps = [scan["step"] for scan in history]
    entropies = torch.tensor([[layer["normalized_entropy"] for layer in scan["layers"]] for scan in history])
    add_picture(writer, "depth_scan/entropy_over_time", entropy_over_time(steps, entropies, frames), step)
