"""What the depth scan adds to the cost of training, and whether drawing leaks memory in the long run.

    python -m benchmarks.scan_cost                                    the default configuration's sizes and interval
    python -m benchmarks.scan_cost --validations 1000 --tiny          memory, over many validations of a small network

Prints the share of training time that scan and pictures take, from one run: both are timed in the same process.
"""

import argparse
import gc
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

import callbacks
import callbacks.depth_scan
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.model import GPTConfig
from gpt_lightning.module import GPTModule

DEFAULT = {"n_layer": 4, "n_head": 4, "d_model": 128, "context_length": 128}  # configs/default.yaml
TINY = {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 32}


class Stopwatch(L.Callback):
    """Seconds spent in training steps, and memory at each validation."""

    def __init__(self) -> None:
        self.training, self._start = 0.0, 0.0
        self.megabytes: list[float] = []
        self.figures: list[int] = []

    def on_train_batch_start(self, *args: object) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *args: object) -> None:
        self.training += time.perf_counter() - self._start

    def on_validation_start(self, *args: object) -> None:
        gc.collect()  # figures refer to themselves: without this, those no longer in use would count
        self.megabytes.append(resident_megabytes())
        self.figures.append(sum(isinstance(thing, Figure) for thing in gc.get_objects()))


def resident_megabytes() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(function, seconds: list[float]):
    """The function, noting how long each call takes."""

    def call(*args: object, **kwargs: object):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    return call


def main() -> None:
    """Train, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validations", type=int, default=4)
    parser.add_argument("--interval", type=int, default=200, help="batches from one validation to the next")
    parser.add_argument("--tiny", action="store_true", help="a small network, validated after every batch")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    sizes, interval = (TINY, 1) if args.tiny else (DEFAULT, args.interval)

    scan, heatmaps, stopwatch = callbacks.DepthScan(), callbacks.AttentionHeatmaps(), Stopwatch()
    scanning, looking, drawing = [], [], []
    callbacks.depth_scan.depth_scan = timed(callbacks.depth_scan.depth_scan, scanning)
    scan.look, heatmaps.look = timed(scan.look, looking), timed(heatmaps.look, drawing)
    with tempfile.TemporaryDirectory() as directory:
        context = sizes["context_length"]
        data = TextDataModule("pydoc", batch_size=16, context_length=context, data_dir=directory)
        trainer = L.Trainer(
            max_steps=args.validations * interval,
            val_check_interval=interval,
            check_val_every_n_epoch=None,
            limit_val_batches=1,
            num_sanity_val_steps=0,
            callbacks=[scan, heatmaps, stopwatch],
            logger=TensorBoardLogger(directory, default_hp_metric=False),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(GPTModule(GPTConfig(**sizes, vocab_size=256)), data)

    def share(seconds: float) -> str:
        return f"{seconds:8.2f} s  {100 * seconds / stopwatch.training:6.2f} % of training"

    pictures = sum(looking) - sum(scanning) + sum(drawing)
    device = type(trainer.accelerator).__name__
    print(f"{len(looking)} validations, one every {interval} batches of 16 × {context} tokens, {device}")
    print(f"training          {stopwatch.training:8.2f} s")
    print(f"scan              {share(sum(scanning))}")
    print(f"pictures, writing {share(pictures)}")
    print(f"  of the first    {looking[0] + drawing[0] - scanning[0]:8.2f} s")
    for what, values in (("memory, MB", stopwatch.megabytes), ("figures alive", stopwatch.figures)):
        after = {f"{tenths * 10} %": values[(len(values) - 1) * tenths // 10] for tenths in (1, 5, 10)}
        print(f"{what:<17} " + ", ".join(f"{value:.0f} after {when}" for when, value in after.items()))


if __name__ == "__main__":
    main()
