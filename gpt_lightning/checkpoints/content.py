"""What a checkpoint of train.py holds, as plain types and tensors: reading it, checking it, and looking parts up.

No weights are copied here, and other projects' checkpoints are unknown.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tiktoken
import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gpt_lightning.checkpoints.torch_files import is_stored, read_content
from gpt_lightning.data.tokenizer import tokenizer_from_state
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig

NETWORK_PREFIX = "model."  # GPTModule keeps the network in `.model`
DATA_KEY = "TextDataModule"  # Lightning saves a datamodule's state under the name of its class
MALFORMED = (TypeError, KeyError, ValueError, AttributeError)  # raised where a part is missing or of another type


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The raw checkpoint, as plain types and tensors mapped from the file. Nothing in it is executed (weights_only).

    Raises:
        DamagedCheckpoint: the file is truncated, or its content has changed since it was written.
        UserError: the file is missing, not a checkpoint, or not one of this project.
    """
    path = Path(path)
    checkpoint = read_content(path)
    check_structure(checkpoint, path)
    return checkpoint


def is_ours(content: Any) -> bool:
    """Whether the content of a file looks like a checkpoint that train.py wrote."""
    return isinstance(content, dict) and DATA_KEY in content


def check_structure(checkpoint: Any, path: Path) -> None:
    """Raise UserError unless every part that readers need is there and has the right type."""
    try:
        saved_config(checkpoint)
        step, weights, data = checkpoint["global_step"], checkpoint["state_dict"], checkpoint[DATA_KEY]
        sequences = data.get("validation_sequences")
        as_written = (
            isinstance(data["tokenizer"], dict)
            and isinstance(step, int)
            and 0 <= step < 2**53
            and all(isinstance(name, str) and torch.is_floating_point(weight) for name, weight in weights.items())
            and (sequences is None or (sequences.dim() == 2 and not sequences.is_floating_point()))
            and all(isinstance(scan["step"], int) for scan in scans_in(checkpoint))
            and all(is_stored(leaf) for leaf in tree_leaves(checkpoint) if isinstance(leaf, Tensor))
        )
        if not as_written:
            raise ValueError("a part is of another type or out of range")
    except MALFORMED as error:
        raise UserError(f"{path} is not a checkpoint that this project's train.py wrote.") from error


def check_training_state(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise UserError unless a run can go on from a checkpoint; where a part is missing Lightning would begin anew."""
    progress = {"state_dict", "epoch_progress", "epoch_loop.state_dict", "epoch_loop.batch_progress"}
    loops = checkpoint.get("loops")
    complete = {"optimizer_states", "lr_schedulers"} <= checkpoint.keys() and isinstance(loops, dict)
    try:
        Version(checkpoint.get("pytorch-lightning_version"))
    except (InvalidVersion, TypeError):
        complete = False
    if not complete or not progress <= set(loops.get("fit_loop", ())):
        raise UserError(f"{path} does not say where its run was: no run can go on from it.")


def scans_in(checkpoint: dict[str, Any]) -> list[dict]:
    """Records of the run's depth scans, oldest first."""
    return checkpoint.get("callbacks", {}).get("DepthScan", {}).get("history", [])


def saved_config(checkpoint: dict[str, Any]) -> GPTConfig:
    """The sizes and options of the network."""
    return GPTConfig(**checkpoint["hyper_parameters"]["gpt"])


def saved_tokenizer(checkpoint: dict[str, Any], path: str | Path) -> tiktoken.Encoding:
    """The tokenizer; UserError if it can't be used."""
    try:
        return tokenizer_from_state(checkpoint[DATA_KEY]["tokenizer"])
    except MALFORMED as error:
        raise UserError(f"The tokenizer in {path} can't be used: {error}.") from error


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights, by their names in the network."""
    weights = checkpoint["state_dict"].items()
    return {name.removeprefix(NETWORK_PREFIX): w for name, w in weights if name.startswith(NETWORK_PREFIX)}


def check_weights(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise UserError unless the weights fit the network sizes stated beside them; it takes no memory to find out."""
    weights, config = network_weights(checkpoint), saved_config(checkpoint)
    try:
        if config.n_layer > len(weights) or f"blocks.{config.n_layer - 1}.mlp.down.weight" not in weights:
            raise RuntimeError("another number of layers")
        with torch.device("meta"):
            GPT(config).load_state_dict(weights, assign=True)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"The weights in {path} don't fit the network sizes stated beside them.") from error


def check_same_network(checkpoint: dict[str, Any], config: GPTConfig, path: str | Path) -> None:
    """Raise UserError naming every field in which a checkpoint's network differs from the configuration's.

    Dropout may differ: it has no weights.
    """
    saved, wanted = asdict(saved_config(checkpoint)), asdict(config)
    differences = [f"{k} {saved[k]} (not {wanted[k]})" for k in saved if k != "dropout" and saved[k] != wanted[k]]
    if differences:
        raise UserError(
            f"{path} holds another network than the configuration: it has {', '.join(differences)}. Give the "
            "configuration it was trained with (config.yaml in its run directory) with --config."
        )
    check_weights(checkpoint, path)
