"""Reading a checkpoint outside training: network, tokenizer and a little text, without the corpus or Lightning."""

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch import Tensor
from tqdm import tqdm

from gpt_lightning.data.tokenizer import tokenizer_from_state
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig

NETWORK_PREFIX = "model."  # GPTModule keeps the network in `.model`
BLOCK_BYTES = 1 << 22
DATA_KEY = "TextDataModule"  # Lightning saves a datamodule's state under the name of its class


@dataclass
class LoadedCheckpoint:
    """What a checkpoint holds for someone who wants to look at the network or sample from it."""

    model: GPT  # in eval mode, on the CPU, float32
    encoding: tiktoken.Encoding
    step: int  # optimiser steps taken
    validation_sequences: Tensor | None  # (n, context_length) int64, as scanned during training
    scans: list[dict]  # records of the depth scans before this step, oldest first, see interpret.result


class DamagedCheckpoint(UserError):
    """The file is not what was written: truncated, or bits have changed."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The raw checkpoint, as plain types and tensors mapped from the file. Nothing in it is executed (weights_only).

    Raises:
        DamagedCheckpoint: the file is truncated, or some of its content is not what was written.
        UserError: the file is missing, not a checkpoint, or not one of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}.")
    try:
        check_content(path)  # first: what is not as it was written is not unpickled at all
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than plain data and was not loaded; only open checkpoints that this project wrote."
        ) from error
    except PermissionError:
        raise
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(
            f"{path} is not a complete checkpoint (truncated or damaged); use an earlier one."
        ) from error
    try:
        saved_config(checkpoint)
        checkpoint[DATA_KEY]["tokenizer"]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint that this project's train.py wrote.") from error
    return checkpoint


def check_content(path: Path) -> None:
    """Compare all that is in a file of `torch.save`, which is a zip archive, with the checksums in it; `torch.load`
    does not.

    Raises:
        zipfile.BadZipFile: they differ, or the archive is none that torch wrote.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("compressed")  # could unpack to more than there is memory
        with tqdm(total=path.stat().st_size, desc=f"checking {path.name}", unit="B", unit_scale=True, delay=2) as bar:
            for member in members:
                with archive.open(member) as file:
                    while block := file.read(BLOCK_BYTES):
                        bar.update(len(block))


def saved_config(checkpoint: dict[str, Any]) -> GPTConfig:
    """Sizes and options of the network in a checkpoint."""
    return GPTConfig(**checkpoint["hyper_parameters"]["gpt"])


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Load the network and what is needed to use it.

    Raises:
        UserError: as `read_checkpoint`, or when the weights don't fit the sizes that the checkpoint states.
    """
    checkpoint = read_checkpoint(path)
    weights = {
        name.removeprefix(NETWORK_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }
    config = saved_config(checkpoint)
    try:
        check_sizes(weights, config)  # before memory for the sizes is asked for
        model = GPT(config)
        model.load_state_dict(weights)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"The weights in {path} don't fit the network sizes stated beside them.") from error
    data = checkpoint[DATA_KEY]
    sequences = data.get("validation_sequences")
    scans = checkpoint.get("callbacks", {}).get("DepthScan", {}).get("history", [])
    return LoadedCheckpoint(
        model=model.eval(),
        encoding=tokenizer_from_state(data["tokenizer"]),
        step=checkpoint["global_step"],
        validation_sequences=None if sequences is None else sequences.long(),
        scans=[scan for scan in scans if scan["step"] < checkpoint["global_step"]],
    )


def check_sizes(weights: dict[str, Tensor], config: GPTConfig) -> None:
    """Raise RuntimeError unless these are the weights of a network of that config."""
    if f"blocks.{config.n_layer - 1}.mlp.down.weight" not in weights:
        raise RuntimeError("another number of layers")
    with torch.device("meta"):
        GPT(config).load_state_dict(weights, assign=True)


def check_same_network(checkpoint: dict[str, Any], config: GPTConfig, path: str | Path) -> None:
    """Raise UserError naming every field of the network in which a checkpoint differs from the configuration.

    Dropout may differ: it has no weights.
    """
    saved = asdict(saved_config(checkpoint))
    wanted = asdict(config)
    differences = [f"{k} {saved[k]} (not {wanted[k]})" for k in saved if k != "dropout" and saved[k] != wanted[k]]
    if differences:
        raise UserError(
            f"{path} holds another network than the configuration: it has {', '.join(differences)}. Give the "
            "configuration it was trained with (config.yaml in its run directory) with --config."
        )
