"""Networks that others wrote, or that we wrote in another form than train.py's: which form it is, and the tokenizer."""

from pathlib import Path
from typing import Any

import tiktoken

from gpt_lightning.data.tokenizer import GPT2_VOCABULARY_SIZE, load_tokenizer
from gpt_lightning.errors import UserError
from gpt_lightning.interop.huggingface import load_huggingface
from gpt_lightning.interop.nanogpt import is_nanogpt, nanogpt_network
from gpt_lightning.interop.plain import is_plain, load_plain
from gpt_lightning.interop.tokenizer import find_tokenizer
from gpt_lightning.model import GPT, padded_vocabulary


def load_from_elsewhere(path: Path, content: Any, tokenizer: str | None) -> tuple[GPT, tiktoken.Encoding]:
    """The network in a directory of Hugging Face's GPT-2 or of `interop.save_plain`, or in nanoGPT's ckpt.pt, and its
    tokenizer.

    Args:
        path: The directory or file.
        content: What the file holds; None for a directory.
        tokenizer: As for `load_tokenizer`, for a network that comes without one.

    Raises:
        UserError: it is none of these, files are missing or damaged, or as `choose_tokenizer`.
    """
    if path.is_dir():
        model = load_plain(path) if is_plain(path) else load_huggingface(path)
        return model, choose_tokenizer(model, find_tokenizer(path), tokenizer, path)
    if not is_nanogpt(content):
        raise UserError(f"{path} is not a checkpoint that this project's train.py wrote, nor one of nanoGPT's.")
    model = nanogpt_network(content, path)
    return model, choose_tokenizer(model, None, tokenizer, path)


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
