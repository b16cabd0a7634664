"""How Lightning writes a checkpoint here: to a temporary name beside it, then renamed: it is whole, or not there.

Lightning's own writing goes through the system's temporary directory; where that is another file system, the last
step is a copy over the only good file.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from gpt_lightning.files import whole_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin with `torch.save` straight to a file, and a rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; an interruption leaves what was there before."""
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)
