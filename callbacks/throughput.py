"""Tokens per second and MFU, measured where figures are logged anyway."""

import time
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.utilities import rank_zero_only

from callbacks.lightning_private import compute_dtype

PEAK_MATRIX_SIZE = 1024  # large enough to reach a CPU's peak, small enough for a fraction of a second


class Throughput(L.Callback):
    """Log `train/tokens_per_second` (all devices together) and `train/mfu`, averaged since they were last logged.

    MFU (model FLOPs utilisation) is the share of the device's peak that the network's own arithmetic uses. For GPUs in
    Lightning's table the peak is taken from there; otherwise it is measured once, with a matrix product in float32.

    Lightning's ThroughputMonitor synchronises CUDA after every batch; this callback measures only when the figures are
    due, and leaves out the time that validation, its callbacks and checkpoints take.
    """

    def __init__(self) -> None:
        self.available_flops: float | None = None  # of this device, per second
        self._batches = 0  # since the last logged step
        self._since: float | None = None  # when that was, in seconds, plus the pauses since
        self._paused_at: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the device's peak."""
        if stage == "fit":
            device = trainer.strategy.root_device
            self.available_flops = get_available_flops(device, compute_dtype(trainer)) or measured_peak_flops(device)

    @rank_zero_only
    def on_train_start(self, *_: Any) -> None:
        """Begin anew: no logged step precedes the first."""
        self._batches, self._since = 0, None

    @rank_zero_only
    def on_train_batch_start(self, *_: Any) -> None:
        """Resume the clock after a pause."""
        if self._paused_at is not None and self._since is not None:
            self._since += time.perf_counter() - self._paused_at
        self._paused_at = None

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the batch; measure and log if it completes an optimiser step that is logged."""
        self._batches += 1
        if not pl_module.completes_logged_step:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._since is not None:
            batches_per_second = self._batches / (now - self._since)
            figures = {
                "train/tokens_per_second": batches_per_second * batch[0].numel() * trainer.world_size,
                "train/mfu": batches_per_second * pl_module.flops_per_batch / self.available_flops,
            }
            pl_module.log_dict(figures, rank_zero_only=True)
        self._batches, self._since = 0, now

    @rank_zero_only
    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock until training goes on."""
        self._paused_at = self._paused_at or time.perf_counter()

    on_save_checkpoint = on_validation_start


def measured_peak_flops(device: torch.device) -> float:
    """Floating-point operations per second of the fastest of a few float32 matrix products on `device`."""
    a = torch.randn(PEAK_MATRIX_SIZE, PEAK_MATRIX_SIZE, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # .item() waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * PEAK_MATRIX_SIZE**3 / min(seconds)
