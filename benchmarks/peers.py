"""What a user might pick instead: the same network in nanoGPT and in Hugging Face's transformers."""

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError
from gpt_lightning.model import GPTConfig


def nanogpt(path: Path) -> ModuleType:
    """nanoGPT's `model.py` from a checkout of https://github.com/karpathy/nanoGPT.

    Raises:
        UserError: `path` has no model.py.
    """
    file = path / "model.py"
    if not file.is_file():
        raise UserError(f"There is no {file}: --nanogpt takes a checkout of https://github.com/karpathy/nanoGPT.")
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where torch.compile looks for it
    spec.loader.exec_module(module)
    return module


def nanogpt_network(path: Path, config: GPTConfig) -> nn.Module:
    """nanoGPT's GPT of the same sizes; `network(inputs, targets)` gives (logits, loss)."""
    module = nanogpt(path)
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.d_model}
    sizes |= {"block_size": config.context_length, "vocab_size": config.vocab_size}
    with contextlib.redirect_stdout(None):  # it prints its number of parameters
        network = module.GPT(module.GPTConfig(**sizes, dropout=config.dropout, bias=config.bias))
    if not config.tie_weights:
        network.lm_head.weight = nn.Parameter(network.lm_head.weight.detach().clone())
    return network


def huggingface_network(config: GPTConfig) -> nn.Module:
    """transformers' GPT-2 of the same sizes; it always has biases."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.d_model}
    sizes |= {"n_positions": config.context_length, "vocab_size": config.vocab_size}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    tied = {"tie_word_embeddings": config.tie_weights}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **tied, attn_implementation="sdpa", use_cache=False))


def huggingface_loss(network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean next-token loss. The targets are shifted already; transformers' own loss would shift them again."""
    logits = network(inputs_BT).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten())
