"""Our own network as a plain directory: `config.json`, `weights.safetensors`, and the tokenizer if there is one."""

import json
from dataclasses import asdict
from pathlib import Path

import tiktoken
import torch
from safetensors.torch import save

from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.interop.json_files import read_json
from gpt_lightning.interop.tokenizer import save_tokenizer
from gpt_lightning.interop.weights import WeightFiles
from gpt_lightning.model import GPT, GPTConfig

MODEL_TYPE = "gpt_lightning"
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def save_plain(model: GPT, directory: str | Path, encoding: tiktoken.Encoding | None = None) -> list[Path]:
    """Write a network, whatever its options, in float32.

    Returns:
        The files.
    """
    directory = Path(directory)
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_weights:
        del weights["head.weight"]
    with atomic_file(directory / WEIGHTS) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_file(directory / CONFIG) as file:
        file.write(json.dumps({"model_type": MODEL_TYPE, **asdict(model.config)}, indent=2).encode() + b"\n")
    files = [directory / CONFIG, directory / WEIGHTS]
    return files if encoding is None else [*files, save_tokenizer(encoding, directory)]


def is_plain(directory: Path) -> bool:
    """Whether `save_plain` wrote this directory, by what its config says."""
    path = directory / CONFIG
    return path.is_file() and read_json(path).get("model_type") == MODEL_TYPE


def load_plain(directory: str | Path) -> GPT:
    """The network that `save_plain` wrote, in evaluation mode, on the CPU.

    Raises:
        UserError: files are missing or damaged, or the weights don't fit the sizes.
    """
    directory = Path(directory)
    sizes = {name: value for name, value in read_json(directory / CONFIG).items() if name != "model_type"}
    try:
        config = GPTConfig(**sizes)
    except (TypeError, ValueError) as error:
        raise UserError(f"{directory / CONFIG} gives no sizes of a network: {error}.") from error
    weights = WeightFiles([directory / WEIGHTS])
    last = f"blocks.{config.n_layer - 1}.mlp.down.weight"
    if config.n_layer > len(weights.shapes) or last not in weights.shapes:  # first: a billion layers take a while
        raise UserError(f"The weights in {directory} are of another number of layers than {config.n_layer}.")
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in GPT(config).state_dict().items()}
    if config.tie_weights:
        del expected["head.weight"]
    if weights.shapes != expected:
        raise UserError(f"The weights in {directory} don't fit the network sizes stated beside them.")
    gpt = GPT(config)
    gpt.load_state_dict({name: weights.read(name) for name in expected}, strict=False)  # a tied head is not there
    return gpt.eval()
