"""Reading a checkpoint outside training: network, tokenizer and a little text, without the corpus or Lightning."""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch import Tensor

from gpt_lightning.data.tokenizer import tokenizer_from_state
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig

NETWORK_PREFIX = "model."  # GPTModule keeps the network in `.model`
DATA_KEY = "TextDataModule"  # Lightning saves a datamodule's state under the name of its class


@dataclass
class LoadedCheckpoint:
    """What a checkpoint holds for someone who wants to look at the network or sample from it."""

    model: GPT  # in eval mode, on the CPU, float32
    encoding: tiktoken.Encoding
    step: int  # optimiser steps taken
    validation_sequences: Tensor | None  # (n, context_length) int64, as scanned during training
    scans: list[dict]  # records of the depth scans before this step, oldest first, see interpret.result


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The raw checkpoint, as plain types and tensors mapped from the file. Nothing in it is executed (weights_only).

    Raises:
        UserError: the file is missing, truncated, not a checkpoint, or not one of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than plain data and was not loaded; only open checkpoints that this project wrote."
        ) from error
    except PermissionError:
        raise
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a complete checkpoint (truncated or damaged); use an earlier one.") from error
    try:
        saved_config(checkpoint)
        checkpoint[DATA_KEY]["tokenizer"]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint that this project's train.py wrote.") from error
    return checkpoint


def saved_config(checkpoint: dict[str, Any]) -> GPTConfig:
    """Sizes and options of the network in a checkpoint."""
    return GPTConfig(**checkpoint["hyper_parameters"]["gpt"])


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Load the network and what is needed to use it.

    Raises:
        UserError: as `read_checkpoint`, or when the weights don't fit the sizes that the checkpoint states.
    """
    checkpoint = read_checkpoint(path)
    model = GPT(saved_config(checkpoint))
    weights = {
        name.removeprefix(NETWORK_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
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
