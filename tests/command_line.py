"""Running entry points as a user does, as processes; and the options of a tiny network."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO

# Small enough to train in seconds, with everything on: dropout, accumulation, validations, checkpoints.
TINY = [
    "--model.gpt.n_layer=2",
    "--model.gpt.n_head=2",
    "--model.gpt.d_model=16",
    "--model.gpt.context_length=32",
    "--model.gpt.dropout=0.1",
    "--model.warmup_steps=5",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=60",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.val_check_interval=40",
    "--trainer.limit_val_batches=4",
    "--trainer.log_every_n_steps=5",
    "--attention_heatmaps.max_tokens=16",
    "--last_checkpoint.every_n_train_steps=10",
]


def command(script: str, *args: object) -> list[str]:
    return [sys.executable, str(REPO / script), *map(str, args)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(script: str, *args: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run to the end, whatever the exit status."""
    pipes = {"capture_output": True, "text": True}
    return subprocess.run(command(script, *args), cwd=cwd, env=environment(), timeout=300, **pipes)
