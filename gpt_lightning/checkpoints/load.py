"""Loading a checkpoint outside training: the network, its tokenizer and a little text; no corpus and no Lightning."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiktoken
from torch import Tensor

from gpt_lightning.checkpoints.content import (
    DATA_KEY,
    check_structure,
    check_weights,
    network_weights,
    saved_config,
    saved_tokenizer,
    scans_in,
)
from gpt_lightning.model import GPT


@dataclass
class LoadedCheckpoint:
    """What is needed to analyse a network or to sample from it."""

    model: GPT  # in eval mode, on the CPU, float32
    encoding: tiktoken.Encoding
    step: int | None = None  # optimiser steps taken; None if another project trained it
    validation_sequences: Tensor | None = None  # (n, context_length) int64, which the depth scans read
    scans: list[dict] = field(default_factory=list)  # records of the depth scans before this step, see interpret.result


def load_own(content: Any, path: Path) -> LoadedCheckpoint:
    """Build the network in the content of a train.py checkpoint, and look up what belongs to it.

    Raises:
        UserError: parts are missing or of another type, or the weights don't fit the sizes stated beside them.
    """
    check_structure(content, path)
    check_weights(content, path)  # before memory is taken for the network
    model = GPT(saved_config(content))
    model.load_state_dict(network_weights(content))
    sequences = content[DATA_KEY].get("validation_sequences")
    return LoadedCheckpoint(
        model=model.eval(),
        encoding=saved_tokenizer(content, path),
        step=content["global_step"],
        validation_sequences=None if sequences is None or len(sequences) == 0 else sequences.long(),
        scans=[scan for scan in scans_in(content) if scan["step"] < content["global_step"]],
    )
