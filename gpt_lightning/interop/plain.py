"""Any network of ours as a plain directory: `config.json`, `weights.safetensors`, and the tokenizer if it has one."""

from dataclasses import asdict
from pathlib import Path

import tiktoken

from gpt_lightning.interop.network_files import (
    CONFIG,
    fill,
    network_config,
    read_json,
    read_weights,
    stored_shapes,
    write_network,
)
from gpt_lightning.interop.tokenizer import save_tokenizer
from gpt_lightning.model import GPT

MODEL_TYPE = "gpt_lightning"
WEIGHTS = "weights.safetensors"


def save_plain(model: GPT, directory: str | Path, encoding: tiktoken.Encoding | None = None) -> list[Path]:
    """Write a network, whatever its options, in float32, and its tokenizer; return the paths of the files."""
    directory, ours = Path(directory), model.state_dict()
    config = {"model_type": MODEL_TYPE, **asdict(model.config)}
    files = write_network(directory, config, WEIGHTS, {name: ours[name] for name in stored_shapes(model.config)})
    return files if encoding is None else [*files, save_tokenizer(encoding, directory)]


def is_plain(directory: Path) -> bool:
    """Whether a directory's config says that `save_plain` wrote it."""
    path = directory / CONFIG
    return path.is_file() and read_json(path).get("model_type") == MODEL_TYPE


def load_plain(directory: str | Path) -> GPT:
    """The network that `save_plain` wrote, in evaluation mode, float32, on the CPU.

    Raises:
        UserError: files are missing or damaged, or the weights don't fit the sizes.
    """
    directory = Path(directory)
    fields = {name: value for name, value in read_json(directory / CONFIG).items() if name != "model_type"}
    config = network_config(fields, {name: name for name in fields}, directory / CONFIG)
    return fill(config, read_weights([directory / WEIGHTS]), directory)
