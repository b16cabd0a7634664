"""Which parameters decay, which optimiser takes them, and how the learning rate moves over optimiser steps."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from gpt_lightning.training.muon import Muon


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_learning_rate: float | None = None,
    embedding_learning_rate: float | None = None,
    muon_momentum: float = 0.95,
) -> list[dict[str, Any]]:
    """The network's parameters in groups, each with its settings and, as `optimizer`, "adamw" or "muon".

    AdamW alone has two groups: matrices, embeddings included, and vectors (biases, norms), which never decay. With a
    `muon_learning_rate` there are four: the matrices in the blocks, which go to Muon, embeddings, other matrices, and
    vectors. `embedding_learning_rate` is `learning_rate` if None.
    """
    matrices = [p for p in network.parameters() if p.dim() >= 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    adamw = {"optimizer": "adamw", "lr": learning_rate, "betas": betas, "weight_decay": weight_decay}
    groups = [adamw | {"params": matrices}]
    if muon_learning_rate is not None:
        hidden = {id(p) for p in network.blocks.parameters()}
        embedding = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
        embedding_lr = learning_rate if embedding_learning_rate is None else embedding_learning_rate
        muon = {"optimizer": "muon", "lr": muon_learning_rate, "momentum": muon_momentum, "weight_decay": weight_decay}
        groups = [
            muon | {"params": [p for p in matrices if id(p) in hidden]},
            adamw | {"params": [p for p in matrices if id(p) in embedding], "lr": embedding_lr},
            adamw | {"params": [p for p in matrices if id(p) not in hidden | embedding]},
        ]
    groups.append(adamw | {"params": vectors, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, Any]], fused: bool) -> Optimizer:
    """Muon if one of the groups is for it, else AdamW; `fused` updates all of AdamW's parameters in one kernel."""
    if any(group["optimizer"] == "muon" for group in groups):
        return Muon(groups, fused)
    return AdamW(groups, fused=fused)


def warmup_linear(warmup_steps: int, decay_steps: int, final_fraction: float) -> Callable[[int], float]:
    """Multiplier of the learning rate at an optimiser step: linear from 1/warmup_steps to 1, where it stays for half of
    `decay_steps`; then linear down to `final_fraction`, where it stays (Hägele et al. 2024)."""

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, max(0.0, 2 * step / decay_steps - 1))  # of the second half
        return 1 - (1 - final_fraction) * progress

    return multiplier


def warmup_cosine(warmup_steps: int, decay_steps: int, final_fraction: float) -> Callable[[int], float]:
    """Multiplier of the learning rate at an optimiser step: linear from 1/warmup_steps to 1, then a half cosine down to
    `final_fraction` at `decay_steps`, where it stays (GPT-3, Brown et al. 2020, appendix B)."""

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, decay_steps - warmup_steps))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return multiplier


SCHEDULES = {"cosine": warmup_cosine, "linear": warmup_linear}
