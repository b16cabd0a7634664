"""Writing a checkpoint atomically: under a temporary name beside it, which is then renamed.

Lightning itself writes to the system's temporary directory; where that is another file system, its last step is a copy
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
    """Lightning's checkpoint plugin, with `torch.save` straight into an atomic file. The `last.ckpt` before is kept as
    `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; an interruption leaves what was there before.

        Raises:
            UserError: it cannot be written.
        """
        path = Path(path)
        previous = path.with_name(runs.PREVIOUS.name) if path.name == runs.LAST.name else None
        try:
            with atomic_file(path, previous) as file:
                torch.save(checkpoint, file)
        # torch hides the OSError of a file that can't be written behind a RuntimeError of its own.
        except (OSError, RuntimeError) as error:
            reason = _reason(error)
            raise UserError(
                f"{path} could not be written ({reason}): make room, or see that the directory is writable; the "
                "checkpoints that were there are undamaged."
            ) from error


def _reason(error: BaseException) -> str:
    while not isinstance(error, OSError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    return (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
