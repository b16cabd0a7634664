"""Which parameters decay, which optimiser takes them, and how the learning rate moves over optimiser steps."""

import math
from collections.abc import Callable

import torch
from torch import nn


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for AdamW: matrices (embeddings included) decay; vectors (biases, norms) don't."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(
    network: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float, fused: bool
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; `fused` updates all parameters in one kernel."""
    return torch.optim.AdamW(parameter_groups(network, weight_decay), lr=learning_rate, betas=betas, fused=fused)


def warmup_cosine(warmup_steps: int, decay_steps: int, final_fraction: float) -> Callable[[int], float]:
    """Multiplier of the learning rate at an optimiser step: linear from 1/warmup_steps to 1, then a half cosine down to
    `final_fraction` at `decay_steps`, where it stays (GPT-3, Brown et al. 2020, appendix B)."""

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, decay_steps - warmup_steps))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return multiplier
