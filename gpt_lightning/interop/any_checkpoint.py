"""Loading a network and its tokenizer from any checkpoint: train.py's, our plain directory, or another project's."""

from pathlib import Path

import tiktoken

from gpt_lightning.checkpoints.content import is_ours
from gpt_lightning.checkpoints.load import LoadedCheckpoint, load_own
from gpt_lightning.checkpoints.torch_files import read_content
from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.errors import UserError
from gpt_lightning.interop.gpt2_names import VOCABULARY_SIZES
from gpt_lightning.interop.huggingface import load_huggingface
from gpt_lightning.interop.nanogpt import is_nanogpt, nanogpt_network
from gpt_lightning.interop.plain import is_plain, load_plain
from gpt_lightning.interop.tokenizer import find_tokenizer


def load_checkpoint(path: str | Path, tokenizer: str | None = None) -> LoadedCheckpoint:
    """Load a network, its tokenizer, and what else the checkpoint holds for analysing it.

    Args:
        path: A checkpoint of train.py, a directory of Hugging Face's GPT-2 or of `save_plain`, or nanoGPT's ckpt.pt.
        tokenizer: As for `load_tokenizer`, for a network that comes without one; otherwise ignored.

    Raises:
        UserError: the checkpoint is missing, damaged or of another kind; its weights don't fit its sizes; nothing
            says which tokenizer it was trained with; or the tokenizer has more ids than the network.
    """
    path, beside = Path(path), None
    content = None if path.is_dir() else read_content(path)
    if is_ours(content):
        return load_own(content, path)
    if is_nanogpt(content):
        model = nanogpt_network(content, path)
    elif path.is_dir():
        model = load_plain(path) if is_plain(path) else load_huggingface(path)
        beside = find_tokenizer(path)
    else:
        raise UserError(f"{path} is not a checkpoint that this project's train.py wrote, nor one of nanoGPT's.")
    return LoadedCheckpoint(model, choose_tokenizer(beside, tokenizer, model.config.vocab_size, path))


def choose_tokenizer(beside: tiktoken.Encoding | None, chosen: str | None, n_ids: int, path: Path) -> tiktoken.Encoding:
    """The tokenizer beside a network, else the one the user chose, else GPT-2's if the network has as many ids."""
    if beside is None and n_ids < 256:  # such as nanoGPT's networks of single characters
        raise UserError(f"{path} has {n_ids} ids, fewer than there are bytes: there is no tokenizer for it here.")
    if beside is None and chosen is None and n_ids not in VOCABULARY_SIZES:
        raise UserError(
            f"Nothing beside {path} says which tokenizer its {n_ids:,} ids belong to: give --tokenizer bytes, gpt2 or "
            "a file of tiktoken ranks."
        )
    encoding = beside or load_tokenizer(chosen or "gpt2")
    if encoding.n_vocab > n_ids:
        raise UserError(
            f"The tokenizer {encoding.name!r} has {encoding.n_vocab:,} ids, but the network in {path} has {n_ids:,}."
        )
    return encoding
