"""Saving a checkpoint atomically: it is written beside its place under a temporary name, and then renamed.

Lightning itself writes to the system's temporary directory. Where that is another file system, its last step copies
over the only good file.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from gpt_lightning.checkpoints import runs
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin, with `torch.save` into an atomic file. Keeps the last `last.ckpt` as
    `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; an interruption leaves the file that was there before.

        Raises:
            UserError: the file cannot be written.
        """
        path = Path(path)
        previous = path.with_name(runs.PREVIOUS.name) if path.name == runs.LAST.name else None
        try:
            with atomic_file(path, previous) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{path} could not be written ({_reason(error)}): make room, or see that the directory is writable; "
                "the checkpoints that were there are undamaged."
            ) from error


def _reason(error: BaseException) -> str:
    """Why a file could not be written; torch hides the OSError that says so behind a RuntimeError of its own."""
    while not isinstance(error, OSError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    return (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
