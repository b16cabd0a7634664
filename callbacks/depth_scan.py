"""The depth scan at validation: write what every layer and head does to TensorBoard, and act on alarms."""

from pathlib import Path
from typing import Literal, get_args

import lightning as L
from torch.utils.tensorboard import SummaryWriter

from callbacks.tensorboard import add_picture, tensorboard
from callbacks.validation import ValidationCallback
from gpt_lightning.data.token_label import token_label
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.draw.cached_figures import Frames
from gpt_lightning.interpret.draw.matrices import entropy_of_records, head_matrix
from gpt_lightning.interpret.judge.alarms import Alarm, what_is_wrong
from gpt_lightning.interpret.metrics import METRICS, PICTURED
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.interpret.write.tables import verdict_table, worst_of
from gpt_lightning.ranges import NonNegativeInt, PositiveInt, check_arguments

OnAlarm = Literal["warn", "checkpoint", "stop"]


def _charts(kind: str, curve: str) -> dict[str, list]:
    """A chart of the curves with that name for each metric that has charts of this kind."""
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
    """Scan a few fixed validation sequences. TensorBoard gets, as scalars, `depth_scan/<metric>/layer_LL` (mean over
    heads), `/worst` and the number of alarms; `/heads` as histograms; `depth_scan/<metric>` (layer × head) and
    `depth_scan/entropy_over_time` as images; `depth_scan/verdicts` as text.

    The network is hooked only during a scan, so that training steps cost nothing extra.

    Args:
        n_sequences: Validation sequences to scan, always the same ones.
        every_n_validations: Scan at every n-th validation; 0 never.
        on_alarm: What to do when a second scan confirms a layer's alarm: "warn" prints it, "checkpoint" also keeps the
            state in checkpoints/alarm-step=N.ckpt, "stop" also ends training.
    """

    def __init__(
        self, n_sequences: PositiveInt = 8, every_n_validations: NonNegativeInt = 1, on_alarm: OnAlarm = "warn"
    ) -> None:
        check_arguments(DepthScan.__init__, locals(), "depth_scan")
        if on_alarm not in get_args(OnAlarm):
            raise UserError(f"depth_scan.on_alarm is {on_alarm!r} but must be warn, checkpoint or stop.")
        super().__init__(every_n_validations)
        self.n_sequences, self.on_alarm = n_sequences, on_alarm
        self.history: list[dict] = []  # DepthScanResult.record of every scan so far
        self.result: DepthScanResult | None = None  # the last scan
        self.stopped_by: str | None = None  # the alarm that ended training
        self._announced: list[list] = []  # [kind, layer] of the alarms that hold and have been printed
        self._raised: list[list] = []  # [kind, layer] of all alarms so far
        self._new_alarms: list[Alarm] = []

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Scan the network as it is now, keep what later scans need to know, and write everything."""
        data = trainer.datamodule
        # A look may be repeated after a resume.
        self.history = [scan for scan in self.history if scan["step"] < trainer.global_step]
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
        self._raised += [alarm for alarm in self._announced if alarm not in self._raised]
        writer = tensorboard(trainer)
        if writer is not None:
            write_scalars(writer, self.result, step)
            writer.add_scalar("depth_scan/alarms_raised", len(self._raised), step)
            write_pictures(writer, self.result, self.history, step, self.frames)
            writer.add_text("depth_scan/verdicts", verdict_table(self.result), step)
            if len(self.history) == 1:
                writer.add_custom_scalars(LAYOUT)

    def act(self, trainer: L.Trainer) -> None:
        """Print new alarms; on every rank at once, save or stop if asked to."""
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
        """The scans so far, for a resumed run to go on from and for analyze.py to look back on."""
        own = {"history": self.history, "announced": self._announced, "raised": self._raised}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.history, self._announced = state_dict["history"], state_dict["announced"]
        self._raised = state_dict["raised"]


def write_scalars(writer: SummaryWriter, result: DepthScanResult, step: int) -> None:
    """Write, for each metric, a curve per layer, one of the worst value and a histogram over heads; and the alarms."""
    layer_values = {name: result.heads[name].mean(1) for name in PICTURED} | result.layers
    for name, values in layer_values.items():
        for layer, value in enumerate(values.tolist()):
            writer.add_scalar(f"depth_scan/{name}/layer_{layer:02d}", value, step)
        writer.add_scalar(f"depth_scan/{name}/worst", worst_of(result, name), step)
    for name in PICTURED:
        finite = result.heads[name][result.heads[name].isfinite()]
        if len(finite):
            # Not under the picture's name: of two kinds of data with one name TensorBoard shows only the first.
            writer.add_histogram(f"depth_scan/{name}/heads", finite, step)
    confirmed = sum(alarm.confirmed for alarm in result.alarms)
    writer.add_scalar("depth_scan/alarms", confirmed, step)
    writer.add_scalar("depth_scan/suspicions", len(result.alarms) - confirmed, step)


def write_pictures(
    writer: SummaryWriter, result: DepthScanResult, history: list[dict], step: int, frames: Frames
) -> None:
    """Write a matrix per metric, and the layers' entropy over time."""
    for name in PICTURED:
        add_picture(writer, f"depth_scan/{name}", head_matrix(result, name, frames), step)
    add_picture(writer, "depth_scan/entropy_over_time", entropy_of_records(history, frames), step)
