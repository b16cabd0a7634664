"""A record of what a run saw and computed, batch by batch, for `train.py audit` to compare."""

import json
import os
import signal
import zlib
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor


class AuditTrail(L.Callback):
    """Write each batch's number, loss and checksum of its tokens as a line; at step `stop_at`, stop as on SIGTERM.

    Args:
        directory: Where to write `rank_R.jsonl`.
        stop_at: Optimiser step after which to stop.
    """

    def __init__(self, directory: str, stop_at: int) -> None:
        self.directory, self.stop_at = Path(directory), stop_at

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: tuple[Tensor, ...], *_) -> None:
        tokens = zlib.crc32(b"".join(part.cpu().numpy().tobytes() for part in batch))
        line = {"batch": trainer.fit_loop.total_batch_idx, "tokens": tokens, "loss": outputs["loss"].item()}
        with (self.directory / f"rank_{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if trainer.global_step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
