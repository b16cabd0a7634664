"""Loading a checkpoint of train.py outside training: network, tokenizer, a little text; no corpus and no Lightning."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiktoken
from torch import Tensor

from gpt_lightning.checkpoints.content import (
    DATA_KEY,
    check_content,
    check_weights,
    network_weights,
    saved_config,
    saved_tokenizer,
    scans_in,
)
from gpt_lightning.model import GPT


@dataclass
class LoadedCheckpoint:
    """What a checkpoint holds for someone who wants to look at the network or sample from it."""

    model: GPT  # in eval mode, on the CPU, float32
    encoding: tiktoken.Encoding
    step: int | None = None  # optimiser steps taken; None if it came from elsewhere
    validation_sequences: Tensor | None = None  # (n, context_length) int64, as scanned during training
    scans: list[dict] = field(default_factory=list)  # of the depth scans before this step, see interpret.result


def load_own(content: Any, path: Path) -> LoadedCheckpoint:
    """Build the network of a checkpoint that `checkpoints.content.read_checkpoint` can read.

    Raises:
        UserError: parts are missing or of another type, or the weights don't fit the sizes stated beside them.
    """
    check_content(content, path)
    check_weights(content, path)  # before memory for the sizes is asked for
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
