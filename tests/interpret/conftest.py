"""What the interpretation's tests share: a scanned network."""

import pytest
import torch

from gpt_lightning.interpret.advice import KINDS
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.interpret.verdicts import Verdict
from gpt_lightning.model import GPT, GPTConfig


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
