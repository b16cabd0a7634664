"""What the tests of interpret/ share: networks, tokens, a scanned network, and what a look must leave as it was."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.model import GPT, Block, GPTConfig


def sharpened_gpt(n_layer: int = 2, n_head: int = 2, context_length: int = 72, **options) -> GPT:
    """A random network whose attention is far from uniform, unlike that of a fresh one."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer, n_head, 8 * n_head, context_length, vocab_size=50, **options))
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(8)
    return gpt


def random_tokens(B: int, T: int) -> torch.Tensor:
    return torch.randint(50, (B, T), generator=torch.Generator().manual_seed(1))


class Largest(TorchDispatchMode):
    """While this lasts, `numel` is the size of the largest storage that an operation returned, in its numbers."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if torch.is_tensor(x)]
        self.numel = max([self.numel, *sizes])
        return out


def with_checkpointed_blocks(gpt: GPT) -> GPT:
    """The network with every block wrapped, as activation checkpointing does."""
    wrapper = partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    apply_activation_checkpointing(gpt, wrapper, lambda module: isinstance(module, Block))
    assert type(gpt.blocks[0]) is not Block
    return gpt


@contextmanager
def left_as_it_was(gpt: GPT) -> Iterator[None]:
    """Asserts that what happens inside leaves no hooks, and modes, weights, gradients and random numbers as before."""
    modes, weights = [module.training for module in gpt.modules()], copy.deepcopy(gpt.state_dict())
    random_state = torch.get_rng_state()
    yield
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in gpt.modules())
    assert [module.training for module in gpt.modules()] == modes
    assert torch.get_rng_state().equal(random_state)
    assert all(gpt.state_dict()[name].equal(weight) for name, weight in weights.items())
    assert all(parameter.grad is None for parameter in gpt.parameters())
    assert torch.is_grad_enabled()


@pytest.fixture
def scanned() -> DepthScanResult:
    """A scan of 3 layers × 5 heads in which every kind of verdict occurs once, and of no alarm."""
    result = depth_scan(sharpened_gpt(n_layer=3, n_head=5), random_tokens(2, 70), step=300)
    kinds = list(KINDS)
    result.verdicts = [
        [Verdict(kinds[5 * layer + head], kinds[5 * layer + head], "why") for head in range(5)] for layer in range(3)
    ]
    result.alarms = []
    return result
