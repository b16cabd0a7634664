"""Which device the command-line tools compute on."""

import torch

from gpt_lightning.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the GPU if there is one. UserError for "cuda" without a GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but PyTorch sees no CUDA GPU here; use --device cpu.")
    return torch.device(name)
