"""Save a run's configuration in its directory."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from gpt_lightning.files import atomic_file


class SaveConfig(SaveConfigCallback):
    """Write `config.yaml` into the run's directory, atomically: Lightning's own callback overwrites it in place."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it; Lightning calls this once, on rank zero."""
        text = self.parser.dump(self.config, skip_none=False)
        with atomic_file(Path(trainer.default_root_dir) / self.config_filename) as file:
            file.write(text.encode())
