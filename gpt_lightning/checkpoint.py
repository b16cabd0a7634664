"""Loading a checkpoint outside training: network, tokenizer and a little text, without the corpus or Lightning."""

from dataclasses import dataclass, field
from pathlib import Path

import tiktoken
from torch import Tensor

from gpt_lightning.checkpoints.content import (
    DATA_KEY,
    check_content,
    check_weights,
    is_ours,
    network_weights,
    saved_config,
    saved_tokenizer,
    scans_in,
)
from gpt_lightning.model import GPT
from gpt_lightning.torch_files import read_content


@dataclass
class LoadedCheckpoint:
    """What a checkpoint holds for someone who wants to look at the network or sample from it."""

    model: GPT  # in eval mode, on the CPU, float32
    encoding: tiktoken.Encoding
    step: int | None = None  # optimiser steps taken; None if it came from elsewhere
    validation_sequences: Tensor | None = None  # (n, context_length) int64, as scanned during training
    scans: list[dict] = field(default_factory=list)  # of the depth scans before this step, see interpret.result


def load_checkpoint(path: str | Path, tokenizer: str | None = None) -> LoadedCheckpoint:
    """Load the network and what is needed to use it.

    Args:
        path: A checkpoint of train.py, a directory of Hugging Face's GPT-2 or of `interop.save_plain`, or a ckpt.pt of
            nanoGPT.
        tokenizer: As for `load_tokenizer`, for a network that comes without one; else it is ignored.

    Raises:
        UserError: as `read_checkpoint`, or when the weights don't fit the sizes that the checkpoint states, or nothing
            says which tokenizer the network was trained with.
    """
    path = Path(path)
    content = None if path.is_dir() else read_content(path)
    if not is_ours(content):
        from gpt_lightning.checkpoints.elsewhere import load_from_elsewhere  # not before: most checkpoints are ours

        return LoadedCheckpoint(*load_from_elsewhere(path, content, tokenizer))
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
