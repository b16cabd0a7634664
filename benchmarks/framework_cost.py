"""What a step costs beyond its arithmetic: `train.py fit` against a bare loop over the same network and text.

    python -m benchmarks.framework_cost

A network so small that nearly all of a step is overhead. Progress bar, TensorBoard, checkpoints and the look at
numerical faults are on, validations are left out. Each round measures both, in fresh processes.
"""

import argparse
import contextlib
import logging
import os
import runpy
import statistics
import sys
import tempfile
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import lightning as L
import torch

from benchmarks.fresh_process import Meter, measured
from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.training.loss import next_token_loss
from gpt_lightning.training.optim import build_optimizer, parameter_groups, warmup_cosine

TRAIN = Path(__file__).parent.parent / "train.py"
SIZES = {"n_layer": 1, "n_head": 1, "d_model": 16, "context_length": 16}
BATCH = 4
WARM_UP = 50  # steps before the first that counts


class Stopwatch(L.Callback):
    """Begin and end the measurement, which leaves out the warm-up."""

    meter: Meter  # set by `through_train_py`

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        if index == WARM_UP:
            self.meter.begin()

    def on_train_end(self, *_: object) -> None:
        self.meter.end()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rounds = [
            [measured(act, directory, args.steps)[0] * 1e3 / args.steps for act in (bare_loop, through_train_py)]
            for _ in range(args.rounds)
        ]
    bare, ours = (statistics.median(times) for times in zip(*rounds, strict=True))
    extra = sorted(b - a for a, b in rounds)
    print(f"{machine('cpu')}; {args.steps} steps of 1 layer × 16, batch {BATCH} × {SIZES['context_length']}")
    print(f"bare loop {bare:.2f} ms a step, train.py fit {ours:.2f} ms: ", end="")
    print(f"{statistics.median(extra):.2f} ms more ({extra[0]:.2f} to {extra[-1]:.2f})")


def through_train_py(directory: str, steps: int, meter: Meter) -> None:
    """Train as a user would."""
    from benchmarks import framework_cost  # not __main__, so that train.py finds the same class

    framework_cost.Stopwatch.meter = meter
    sizes = [f"--model.gpt.{name}={value}" for name, value in SIZES.items()]
    options = [f"--data.batch_size={BATCH}", "--trainer.accumulate_grad_batches=1", "--trainer.limit_val_batches=0"]
    options += [
        f"--trainer.max_steps={WARM_UP + steps}",
        f"--runs_dir={directory}/runs",
        f"--data.data_dir={directory}",
    ]
    options += ["--trainer.accelerator=cpu", "--trainer.callbacks+=benchmarks.framework_cost.Stopwatch"]
    sys.argv = ["train.py", "fit", *sizes, *options]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        runpy.run_path(str(TRAIN), run_name="__main__")


def bare_loop(directory: str, steps: int, meter: Meter) -> None:
    """The same step without a framework: batch, loss, backward, clipping, AdamW, schedule."""
    logging.disable()
    data = TextDataModule("pydoc", batch_size=BATCH, context_length=SIZES["context_length"], data_dir=directory)
    data.prepare_data()
    data.setup("fit")
    gpt = GPT(GPTConfig(**SIZES, vocab_size=256))
    optimiser = build_optimizer(parameter_groups(gpt, 1e-3, (0.9, 0.95), 0.1), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_cosine(10, WARM_UP + steps, 0.1))
    for number, (inputs, targets) in zip(range(WARM_UP + steps), data.train_dataloader(), strict=False):
        if number == WARM_UP:
            meter.begin()
        next_token_loss(gpt, inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    meter.end()


if __name__ == "__main__":
    with clear_errors():
        main()
