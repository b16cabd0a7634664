"""How Lightning writes a checkpoint here: to a temporary name beside it, then renamed: it is whole, or not there.

Lightning's own writing goes through the system's temporary directory; where that is another file system, the last
step is a copy over the only good file.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin with `torch.save` straight to a file, and a rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; an interruption leaves what was there before."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # else the name could reach the disk before the content
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
