"""nanoGPT's `ckpt.pt`: one file of torch.save with `model_args` and `model`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_lightning.errors import UserError
from gpt_lightning.interop.gpt2_names import fill
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.torch_files import read_content

COMPILED = "_orig_mod."  # in front of each name if the network was compiled when it was saved
MASK = ".attn.bias"  # a causal mask that old versions of torch made it keep among the weights


def load_nanogpt(path: str | Path) -> GPT:
    """The network of a nanoGPT checkpoint, in evaluation mode, float32, on the CPU. Nothing in the file is executed.

    Raises:
        UserError: no file, none of nanoGPT's, or the weights don't fit the sizes.
    """
    return nanogpt_network(read_content(Path(path)), Path(path))


def is_nanogpt(checkpoint: Any) -> bool:
    """Whether what a file holds looks like nanoGPT's."""
    return isinstance(checkpoint, dict) and {"model", "model_args"} <= checkpoint.keys()


def nanogpt_network(checkpoint: Any, path: Path) -> GPT:
    """The network of what `torch.load` found in `path`; UserError as `load_nanogpt`."""
    if not is_nanogpt(checkpoint):
        raise UserError(f"{path} is not a checkpoint of nanoGPT: it has no model_args.")
    try:
        args = checkpoint["model_args"]
        config = GPTConfig(
            n_layer=args["n_layer"],
            n_head=args["n_head"],
            d_model=args["n_embd"],
            context_length=args["block_size"],
            vocab_size=args["vocab_size"],
            dropout=args.get("dropout", 0.0),
            bias=args.get("bias", True),
            activation="gelu_erf" if "bias" in args else "gelu",  # changed at the same time
        )
        weights = {name.removeprefix(COMPILED): weight for name, weight in checkpoint["model"].items()}
        weights = {name: weight for name, weight in weights.items() if not name.endswith(MASK)}
        if not all(is_stored(weight) for weight in weights.values()):
            raise TypeError("a weight is no tensor of floating-point numbers that are all there")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} gives no sizes and weights of a GPT-2: {error}.") from error
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    return fill(config, shapes, weights.__getitem__, transposed=False, what=str(path))


def is_stored(weight: Any) -> bool:
    """Whether this is a floating-point tensor, of which each number has its own place in the file."""
    plain = isinstance(weight, Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
    return plain and weight.is_floating_point() and weight.nbytes <= weight.untyped_storage().nbytes()
