"""Reading a checkpoint outside training: network, tokenizer and a little text, without the corpus or Lightning.

Besides this project's own, a directory that interop/ reads, or nanoGPT's ckpt.pt.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tiktoken
import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gpt_lightning.data.corpora import full_path
from gpt_lightning.data.tokenizer import GPT2_VOCABULARY_SIZE, load_tokenizer, tokenizer_from_state
from gpt_lightning.errors import UserError
from gpt_lightning.files import is_name
from gpt_lightning.interop.huggingface import load_huggingface
from gpt_lightning.interop.nanogpt import is_nanogpt, nanogpt_network
from gpt_lightning.interop.plain import is_plain, load_plain
from gpt_lightning.interop.tokenizer import find_tokenizer
from gpt_lightning.model import GPT, GPTConfig, padded_vocabulary
from gpt_lightning.torch_files import read_content

NETWORK_PREFIX = "model."  # GPTModule keeps the network in `.model`
DATA_KEY = "TextDataModule"  # Lightning saves a datamodule's state under the name of its class


@dataclass
class LoadedCheckpoint:
    """What a checkpoint holds for someone who wants to look at the network or sample from it."""

    model: GPT  # in eval mode, on the CPU, float32
    encoding: tiktoken.Encoding
    step: int | None  # optimiser steps taken; None if it came from elsewhere
    validation_sequences: Tensor | None  # (n, context_length) int64, as scanned during training
    scans: list[dict]  # records of the depth scans before this step, oldest first, see interpret.result


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The raw checkpoint, as plain types and tensors mapped from the file. Nothing in it is executed (weights_only).

    Raises:
        DamagedCheckpoint: the file is truncated, or some of its content is not what was written.
        UserError: the file is missing, not a checkpoint, or not one of this project.
    """
    path = Path(path)
    checkpoint = read_content(path)
    check_is_ours(checkpoint, path)
    return checkpoint


def check_is_ours(checkpoint: Any, path: Path) -> None:
    """Raise UserError unless train.py wrote this."""
    try:
        check_structure(checkpoint)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint that this project's train.py wrote.") from error


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


def trained_on(checkpoint: dict[str, Any]) -> str | None:
    """The corpus by its `full_path`; None if nothing says. Older checkpoints have only what the user called it."""
    text, options = checkpoint[DATA_KEY].get("text"), checkpoint.get("datamodule_hyper_parameters")
    if isinstance(text, dict) and isinstance(text.get("source"), str):
        return text["source"]
    named = [options.get(name) for name in ("corpus", "data_dir")] if isinstance(options, dict) else []
    if named and all(isinstance(name, str) and is_name(name) for name in named):
        return full_path(named[0], Path(named[1]))
    return None


def saved_tokenizer(checkpoint: dict[str, Any], path: str | Path) -> tiktoken.Encoding:
    """The tokenizer in a checkpoint; UserError if it is none."""
    try:
        return tokenizer_from_state(checkpoint[DATA_KEY]["tokenizer"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"The tokenizer in {path} is none: {error}.") from error


def load_checkpoint(path: str | Path, tokenizer: str | None = None) -> LoadedCheckpoint:
    """Load the network and what is needed to use it.

    Args:
        path: A checkpoint of train.py, a directory of Hugging Face's GPT-2 or of `interop.save_plain`, or a ckpt.pt of
            nanoGPT.
        tokenizer: As for `load_tokenizer`, for a network that comes without one; else it is not looked at.

    Raises:
        UserError: as `read_checkpoint`, or when the weights don't fit the sizes that the checkpoint states, or nothing
            says which tokenizer the network was trained with.
    """
    path = Path(path)
    if path.is_dir():
        model = load_plain(path) if is_plain(path) else load_huggingface(path)
        return _from_elsewhere(model, find_tokenizer(path), tokenizer, path)
    checkpoint = read_content(path)
    if is_nanogpt(checkpoint):
        return _from_elsewhere(nanogpt_network(checkpoint, path), None, tokenizer, path)
    check_is_ours(checkpoint, path)
    check_weights(checkpoint, path)  # before memory for the sizes is asked for
    model = GPT(saved_config(checkpoint))
    model.load_state_dict(network_weights(checkpoint))
    sequences = checkpoint[DATA_KEY].get("validation_sequences")
    return LoadedCheckpoint(
        model=model.eval(),
        encoding=saved_tokenizer(checkpoint, path),
        step=checkpoint["global_step"],
        validation_sequences=None if sequences is None or len(sequences) == 0 else sequences.long(),
        scans=[scan for scan in scans_in(checkpoint) if scan["step"] < checkpoint["global_step"]],
    )


def _from_elsewhere(model: GPT, found: tiktoken.Encoding | None, tokenizer: str | None, path: Path) -> LoadedCheckpoint:
    """A network without a run, and its tokenizer: what was found beside it, else what was asked for, else GPT-2's if
    the number of ids is GPT-2's (rounded up or not)."""
    n_ids, gpt2s = model.config.vocab_size, (GPT2_VOCABULARY_SIZE, padded_vocabulary(GPT2_VOCABULARY_SIZE))
    if found is None and n_ids < 256:  # such as nanoGPT's of single characters
        raise UserError(f"{path} has {n_ids} ids, fewer than there are bytes: there is no tokenizer for it here.")
    if found is None and tokenizer is None and n_ids not in gpt2s:
        raise UserError(
            f"Nothing beside {path} says which tokenizer its {n_ids:,} ids are of: give --tokenizer bytes, gpt2 or a "
            "file of tiktoken ranks."
        )
    if found is None:
        found = load_tokenizer(tokenizer or "gpt2")
    if found.n_vocab > n_ids:
        raise UserError(f"The tokenizer {found.name!r} has {found.n_vocab:,} ids, but the network in {path} {n_ids:,}.")
    return LoadedCheckpoint(model, found, step=None, validation_sequences=None, scans=[])


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights by their names in the network."""
    weights = checkpoint["state_dict"].items()
    return {name.removeprefix(NETWORK_PREFIX): w for name, w in weights if name.startswith(NETWORK_PREFIX)}


def check_weights(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise UserError unless the weights are those of a network of the sizes that are stated beside them."""
    weights, config = network_weights(checkpoint), saved_config(checkpoint)
    try:
        if config.n_layer > len(weights) or f"blocks.{config.n_layer - 1}.mlp.down.weight" not in weights:
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
