"""Train, validate and test through LightningCLI.

    python train.py                                              train the default configuration
    python train.py fit --config configs/shakespeare.yaml        another one, layered over the default
    python train.py fit --config … --ckpt_path last              go on where the newest run of that experiment stopped
    python train.py validate --config … --ckpt_path best         figures of a checkpoint
    python train.py test --ckpt_path … --data.corpus other.txt   … on all of a text that it was not trained on
    python train.py audit --checkpoint …/last.ckpt               prove that stopping and resuming changes nothing

`python train.py fit --help` lists every option; `--print_config` shows the full configuration.
"""

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cli.train import main
from gpt_lightning.command_line import clear_errors

if __name__ == "__main__":
    with clear_errors(MisconfigurationException):
        main()
