"""Looking into a GPT while it runs: forward hooks that exist only for as long as someone looks.

The one way in for everything in this folder. Knows nothing of statistics.

Shapes: B sequences, H heads, T tokens, D head width, C model width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError


@contextmanager
def observed(
    model: nn.Module,
    on_attention: Callable[[int, Tensor, Tensor, Tensor], None],
    on_block: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """While this lasts: evaluation mode, no gradients, and hooks that call `on_attention(layer, q, k, v)` and
    `on_block(layer, before, after)`. Afterwards, whatever happened: no hooks, and every module in its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    handles = []
    try:
        model.eval()
        for layer, module in enumerate(model.blocks):
            handles.append(module.attention.attend.register_forward_hook(partial(_attend_hook, on_attention, layer)))
            if on_block is not None:
                handles.append(module.register_forward_hook(partial(_block_hook, on_block, layer)))
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _attend_hook(callback: Callable, layer: int, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    callback(layer, *inputs[:3])  # returns None: what a hook returns would replace the output


def _block_hook(callback: Callable, layer: int, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    callback(layer, inputs[0], output)


def checked_tokens(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The tokens on the model's device, or a UserError: on a GPU an id out of range would kill the process."""
    config = model.config
    if tokens_BT.dim() != 2 or tokens_BT.size(0) < 1 or not 2 <= tokens_BT.size(1) <= config.context_length:
        raise UserError(
            f"a scan needs sequences of 2 to {config.context_length} tokens (this model's context), "
            f"not tokens of shape {tuple(tokens_BT.shape)}"
        )
    low, high = int(tokens_BT.min()), int(tokens_BT.max())
    if low < 0 or high >= config.vocab_size:
        wrong = low if low < 0 else high
        raise UserError(f"token id {wrong} is outside this model's vocabulary of {config.vocab_size} ids")
    return tokens_BT.to(next(model.parameters()).device)


def residual_streams(model: nn.Module, tokens_BT: Tensor) -> list[Tensor]:
    """The input of the first layer and the output of each: L + 1 tensors (B, T, C), before the final norm."""
    streams: list[Tensor] = []

    def on_block(layer: int, before_BTC: Tensor, after_BTC: Tensor) -> None:
        streams.extend([before_BTC, after_BTC] if layer == 0 else [after_BTC])

    with observed(model, lambda layer, q, k, v: None, on_block):
        model.hidden_states(tokens_BT)
    return streams
