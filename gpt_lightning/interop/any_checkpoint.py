"""A network and its tokenizer, whoever wrote the checkpoint: train.py, another project, or we in our plain form."""

from pathlib import Path

import tiktoken

from gpt_lightning.checkpoints.content import is_ours
from gpt_lightning.checkpoints.load import LoadedCheckpoint, load_own
from gpt_lightning.checkpoints.torch_files import read_content
from gpt_lightning.data.tokenizer import GPT2_VOCABULARY_SIZE, load_tokenizer
from gpt_lightning.errors import UserError
from gpt_lightning.interop.huggingface import load_huggingface
from gpt_lightning.interop.nanogpt import is_nanogpt, nanogpt_network
from gpt_lightning.interop.plain import is_plain, load_plain
from gpt_lightning.interop.tokenizer import find_tokenizer
from gpt_lightning.model import GPT, padded_vocabulary


def load_checkpoint(path: str | Path, tokenizer: str | None = None) -> LoadedCheckpoint:
    """Load the network and what is needed to use it.

    Args:
        path: A checkpoint of train.py, a directory of Hugging Face's GPT-2 or of `save_plain`, or nanoGPT's ckpt.pt.
        tokenizer: As for `load_tokenizer`, for a network that comes without one; else it is not looked at.

    Raises:
        UserError: there is no file, or it is damaged or of another kind, or its weights don't fit its sizes, or as
            `choose_tokenizer`.
    """
    path = Path(path)
    if path.is_dir():
        model = load_plain(path) if is_plain(path) else load_huggingface(path)
        return LoadedCheckpoint(model, choose_tokenizer(model, find_tokenizer(path), tokenizer, path))
    content = read_content(path)
    if is_ours(content):
        return load_own(content, path)
    if is_nanogpt(content):
        model = nanogpt_network(content, path)
        return LoadedCheckpoint(model, choose_tokenizer(model, None, tokenizer, path))
    raise UserError(f"{path} is not a checkpoint that this project's train.py wrote, nor one of nanoGPT's.")


def choose_tokenizer(
    model: GPT, beside: tiktoken.Encoding | None, asked_for: str | None, path: Path
) -> tiktoken.Encoding:
    """The tokenizer that lies beside the network, else the one asked for, else GPT-2's if the number of ids is GPT-2's
    (rounded up or not).

    Raises:
        UserError: nothing says which tokenizer the network was trained with, or it has more ids than the network.
    """
    n_ids, gpt2s = model.config.vocab_size, (GPT2_VOCABULARY_SIZE, padded_vocabulary(GPT2_VOCABULARY_SIZE))
    if beside is None and n_ids < 256:  # such as nanoGPT's of single characters
        raise UserError(f"{path} has {n_ids} ids, fewer than there are bytes: there is no tokenizer for it here.")
    if beside is None and asked_for is None and n_ids not in gpt2s:
        raise UserError(
            f"Nothing beside {path} says which tokenizer its {n_ids:,} ids are of: give --tokenizer bytes, gpt2 or a "
            "file of tiktoken ranks."
        )
    encoding = load_tokenizer(asked_for or "gpt2") if beside is None else beside
    if encoding.n_vocab > n_ids:
        raise UserError(
            f"The tokenizer {encoding.name!r} has {encoding.n_vocab:,} ids, but the network in {path} {n_ids:,}."
        )
    return encoding
