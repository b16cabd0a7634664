"""Looking into a GPT while it runs: micro-batches that fit into memory, and forward hooks that last as long as a look.

Everything that measures comes in through here. Knows nothing of statistics.

Shapes: B sequences, T tokens, C model width, L layers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError

MOST_NUMBERS = 2**24  # in the tensors that a measurement holds at once: 64 MB in float32
# Hooks must return None: anything else would replace the module's output.
OnAttention = Callable[[int, Tensor, Tensor, Tensor], None]  # layer, q, k, v
OnBlock = Callable[[int, Tensor, Tensor], None]  # layer, residual stream before and after


@contextmanager
def looking(
    model: nn.Module,
    tokens_BT: Tensor,
    numbers_per_token: int | None = None,
    on_attention: OnAttention | None = None,
    on_block: OnBlock | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Check and split the tokens; while this lasts, `observed`, and no autocast: the precision is that of the weights.

    Args:
        model: A `gpt_lightning.model.GPT`.
        tokens_BT: Sequences, (B, T) int64 with 2 ≤ T ≤ context_length.
        numbers_per_token: How many numbers the measurement holds at once for each token; by default those of the MLP,
            the widest part of a forward pass.
        on_attention, on_block: As for `observed`.

    Yields:
        The sequences on the model's device, in micro-batches of as many as MOST_NUMBERS allows, at least one.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary.
    """
    tokens_BT = checked_tokens(model, tokens_BT)
    sequences = how_many_fit(tokens_BT.size(1) * (numbers_per_token or 4 * model.config.d_model))
    # Under autocast the products would become bf16, whose rounding is larger than many an effect that is measured.
    with torch.autocast(tokens_BT.device.type, enabled=False), observed(model, on_attention, on_block):
        yield tokens_BT.split(sequences)


def how_many_fit(numbers: int) -> int:
    """How many things of so many numbers each may be alive at once, at least one."""
    return max(1, MOST_NUMBERS // numbers)


@contextmanager
def observed(
    model: nn.Module, on_attention: OnAttention | None = None, on_block: OnBlock | None = None
) -> Iterator[None]:
    """While this lasts: evaluation mode, no gradients, and hooks that call `on_attention(layer, q, k, v)` and
    `on_block(layer, before, after)`. Afterwards, even after an error: no hooks, and every module in its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with ExitStack() as hooks, torch.no_grad():
            for layer, block in enumerate(model.blocks):
                attend = block.attention.attend
                if on_attention is not None:
                    handle = attend.register_forward_hook(lambda _, qkv, out, i=layer: on_attention(i, *qkv[:3]))
                    hooks.enter_context(handle)
                if on_block is not None:
                    handle = block.register_forward_hook(lambda _, inputs, out, i=layer: on_block(i, inputs[0], out))
                    hooks.enter_context(handle)
            yield
    finally:
        for module, training in modes:
            module.training = training


def of_each_layer(model: nn.Module, tokens_BT: Tensor, measure: Callable[[Tensor, Tensor, Tensor], object]) -> list:
    """What `measure(q, k, v)` returns for each layer, in one forward pass of a few sequences; raises as `looking`."""
    results: list = []
    with looking(model, tokens_BT, 1, lambda layer, *qkv: results.append(measure(*qkv))) as parts:
        model.hidden_states(torch.cat(parts))
    return results


def checked_tokens(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The tokens on the model's device, or a UserError: on a GPU an id out of range would kill the process."""
    config = model.config
    if tokens_BT.dim() != 2 or tokens_BT.size(0) < 1 or not 2 <= tokens_BT.size(1) <= config.context_length:
        raise UserError(
            f"A scan needs sequences of 2 to {config.context_length} tokens (this model's context), "
            f"not tokens of shape {tuple(tokens_BT.shape)}."
        )
    for wrong in (int(tokens_BT.min()), int(tokens_BT.max())):
        if not 0 <= wrong < config.vocab_size:
            raise UserError(f"The token id {wrong} is outside this model's vocabulary of {config.vocab_size} ids.")
    return tokens_BT.to(next(model.parameters()).device)


def residual_streams(model: nn.Module, tokens_BT: Tensor) -> list[Tensor]:
    """The input of the first layer and the output of each: L + 1 tensors (B, T, C), before the final norm."""
    streams: list[tuple[Tensor, Tensor]] = []
    with observed(model, on_block=lambda layer, before_BTC, after_BTC: streams.append((before_BTC, after_BTC))):
        model.hidden_states(tokens_BT)
    return [streams[0][0], *(after_BTC for _, after_BTC in streams)]
