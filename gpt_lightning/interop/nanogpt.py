"""nanoGPT's `ckpt.pt`: one file of `torch.save` with the sizes in `model_args` and the weights in `model`."""

from pathlib import Path
from typing import Any

from torch import Tensor

from gpt_lightning.checkpoints.torch_files import is_stored, read_content
from gpt_lightning.errors import UserError
from gpt_lightning.interop.gpt2_names import SIZES, their_name
from gpt_lightning.interop.network_files import fill, network_config
from gpt_lightning.model import GPT

COMPILED = "_orig_mod."  # before each name if the network was compiled when it was saved
MASK = ".attn.bias"  # a causal mask, which nanoGPT holds among the weights under old versions of torch


def load_nanogpt(path: str | Path) -> GPT:
    """The network of a nanoGPT checkpoint, in evaluation mode, float32, on the CPU. Nothing in the file is executed.

    Raises:
        UserError: the file is missing or damaged, it is not nanoGPT's, or the weights don't fit the sizes.
    """
    return nanogpt_network(read_content(Path(path)), Path(path))


def is_nanogpt(checkpoint: Any) -> bool:
    """Whether the content of a file looks like nanoGPT's."""
    parts = ("model", "model_args")
    return isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(part), dict) for part in parts)


def nanogpt_network(checkpoint: Any, path: Path) -> GPT:
    """The network in a file's content; UserError as `load_nanogpt`."""
    if not is_nanogpt(checkpoint):
        raise UserError(f"{path} is not a checkpoint of nanoGPT: it has no model or no model_args.")
    args = checkpoint["model_args"]
    config = network_config(
        args,
        SIZES | {"context_length": "block_size"},
        path,
        dropout=args.get("dropout", 0.0),
        bias=args.get("bias", True),
        activation="gelu_erf" if "bias" in args else "gelu",  # nanoGPT changed it when it introduced `bias`
    )
    weights = {}
    for name, weight in checkpoint["model"].items():
        complete = isinstance(weight, Tensor) and is_stored(weight) and weight.is_floating_point()
        if not (isinstance(name, str) and complete):
            raise UserError(f"{path} has a weight {name!r} that is not a complete tensor of floating-point numbers.")
        if not name.endswith(MASK):
            weights[name.removeprefix(COMPILED)] = weight
    return fill(config, weights, path, their_name)
