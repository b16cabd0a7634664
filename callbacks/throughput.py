"""Tokens per second and MFU: Lightning's ThroughputMonitor under our names, without its cost per batch."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import rank_zero_only

PEAK_MATRIX_SIZE = 1024  # large enough to reach a CPU's peak, small enough for a fraction of a second


class Throughput(ThroughputMonitor):
    """Log `train/tokens_per_second` (all devices together) and `train/mfu`, averaged since the last time they were
    logged.

    MFU (model FLOPs utilisation) is the share of the device's peak that the network's own arithmetic uses. The peak is
    Lightning's table for known GPUs; elsewhere it is measured once, with a matrix product in float32.

    The base class synchronises CUDA after every batch; this one measures only when the figures are due, and leaves out
    the time that validation, its callbacks and checkpoints take.
    """

    def __init__(self) -> None:
        # A window of two is the span between two logged steps.
        super().__init__(batch_size_fn=lambda batch: len(batch[0]), length_fn=lambda b: b[0].numel(), window_size=2)
        self._batches_since_update = 0
        self._paused_at: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the device's peak."""
        super().setup(trainer, pl_module, stage)
        if self.available_flops is None and stage == "fit":
            self.available_flops = measured_peak_flops(trainer.strategy.root_device)
            for throughput in self._throughputs.values():
                throughput.available_flops = self.available_flops

    @rank_zero_only
    def on_train_batch_start(self, *_: Any) -> None:
        """Go on counting time after a pause."""
        if self._paused_at is not None:
            self._t0s[RunningStage.TRAINING] += time.perf_counter() - self._paused_at
            self._paused_at = None

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the batch; measure and log if this optimiser step is one that logs."""
        self._batches_since_update += 1
        if not pl_module.completes_logged_step:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        stage, batches = RunningStage.TRAINING, self._batches_since_update
        self._batches_since_update = 0
        self._batches[stage] += batches
        self._samples[stage] += batches * self.batch_size_fn(batch)
        self._lengths[stage] += batches * self.length_fn(batch)
        self._throughputs[stage].update(
            time=time.perf_counter() - self._t0s[stage],
            batches=self._batches[stage],
            samples=self._samples[stage],
            lengths=self._lengths[stage],
            flops=batches * pl_module.flops_per_batch,
        )
        figures = self._throughputs[stage].compute()
        if "device/items_per_sec" in figures:
            pl_module.log(
                "train/tokens_per_second", figures["device/items_per_sec"] * trainer.world_size, rank_zero_only=True
            )
            pl_module.log("train/mfu", figures["device/mfu"], rank_zero_only=True)

    @rank_zero_only
    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop counting time until training goes on."""
        if not trainer.sanity_checking:
            self._paused_at = self._paused_at or time.perf_counter()

    def on_save_checkpoint(self, *_: Any) -> None:
        """As for validation."""
        self._paused_at = self._paused_at or time.perf_counter()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Not measured: only training's speed is this callback's subject."""

    def on_validation_end(self, *_: Any) -> None:
        """As above."""


def measured_peak_flops(device: torch.device) -> float:
    """Floating-point operations per second of the best of a few float32 matrix products on `device`."""
    a = torch.randn(PEAK_MATRIX_SIZE, PEAK_MATRIX_SIZE, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # .item() waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * PEAK_MATRIX_SIZE**3 / min(seconds)
