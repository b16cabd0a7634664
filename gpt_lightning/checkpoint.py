"""Reading a checkpoint outside training: network, tokenizer and a little text, without the corpus or Lightning."""

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tiktoken
import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor
from torch.utils._pytree import tree_leaves
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
        check_structure(checkpoint)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
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


def check_structure(checkpoint: dict[str, Any]) -> None:
    """Raise TypeError, KeyError, AttributeError or ValueError unless what every reader needs is there, of its type."""
    saved_config(checkpoint)
    step, weights, data = checkpoint["global_step"], checkpoint["state_dict"], checkpoint[DATA_KEY]
    sequences, scans = data.get("validation_sequences"), scans_in(checkpoint)
    as_written = {
        "tokenizer": isinstance(data["tokenizer"], dict),
        "global_step": isinstance(step, int) and 0 <= step < 2**53,
        "state_dict": all(
            isinstance(name, str) and isinstance(values, Tensor) and values.is_floating_point()
            for name, values in weights.items()
        ),
        "validation_sequences": sequences is None
        or (isinstance(sequences, Tensor) and sequences.dim() == 2 and not sequences.is_floating_point()),
        "scans": all(isinstance(scan["step"], int) for scan in scans),
    }
    tensors = [leaf for leaf in tree_leaves(checkpoint) if isinstance(leaf, Tensor)]
    # A tensor may say that it is larger than what is stored, repeating it.
    as_written["stored"] = all(t.nbytes <= t.untyped_storage().nbytes() for t in tensors)
    if not all(as_written.values()):
        raise ValueError(str(as_written))


def check_training_state(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise UserError unless a run can go on from a checkpoint; Lightning would begin anew where a part is missing."""
    needed = {"optimizer_states", "lr_schedulers", "loops"}
    places = {"state_dict", "epoch_progress", "epoch_loop.state_dict", "epoch_loop.batch_progress"}
    loops = checkpoint.get("loops")
    is_there = needed <= checkpoint.keys() and isinstance(loops, dict) and places <= set(loops.get("fit_loop", ()))
    try:
        Version(checkpoint.get("pytorch-lightning_version"))
    except (InvalidVersion, TypeError):
        is_there = False
    if not is_there:
        raise UserError(f"{path} does not say where its run was: no run can go on from it.")


def scans_in(checkpoint: dict[str, Any]) -> list[dict]:
    """Records of the depth scans so far, oldest first."""
    return checkpoint.get("callbacks", {}).get("DepthScan", {}).get("history", [])


def saved_config(checkpoint: dict[str, Any]) -> GPTConfig:
    """Sizes and options of the network in a checkpoint."""
    return GPTConfig(**checkpoint["hyper_parameters"]["gpt"])


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Load the network and what is needed to use it.

    Raises:
        UserError: as `read_checkpoint`, or when the weights don't fit the sizes that the checkpoint states.
    """
    checkpoint = read_checkpoint(path)
    check_weights(checkpoint, path)  # before memory for the sizes is asked for
    model = GPT(saved_config(checkpoint))
    model.load_state_dict(network_weights(checkpoint))
    data = checkpoint[DATA_KEY]
    sequences = data.get("validation_sequences")
    try:
        encoding = tokenizer_from_state(data["tokenizer"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"The tokenizer in {path} is none: {error}.") from error
    return LoadedCheckpoint(
        model=model.eval(),
        encoding=encoding,
        step=checkpoint["global_step"],
        validation_sequences=None if sequences is None else sequences.long(),
        scans=[scan for scan in scans_in(checkpoint) if scan["step"] < checkpoint["global_step"]],
    )


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights by their names in the network."""
    weights = checkpoint["state_dict"].items()
    return {name.removeprefix(NETWORK_PREFIX): w for name, w in weights if name.startswith(NETWORK_PREFIX)}


def check_weights(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise UserError unless the weights are those of a network of the sizes that are stated beside them."""
    weights, config = network_weights(checkpoint), saved_config(checkpoint)
    try:
        if f"blocks.{config.n_layer - 1}.mlp.down.weight" not in weights:
            raise RuntimeError("another number of layers")
        with torch.device("meta"):
            GPT(config).load_state_dict(weights, assign=True)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"The weights in {path} don't fit the network sizes stated beside them.") from error


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
    check_weights(checkpoint, path)
