"""Muon: gradient descent with momentum on matrices, each step made orthogonal (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); AdamW for everything else, in one optimiser.

`torch.optim.Muon` takes one matrix after another, in bf16, which takes 30 times as long on a CPU without bf16
instructions. Here matrices of the same shape go together, in bf16 only where the hardware has it.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from gpt_lightning.training.precision import cpu_has_bf16

# a, b, c of the iteration x ← a·x + (b·m + c·m²)·x with m = x·xᵀ, which drives singular values towards 1 (ibid.).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices (N, R, C), roughly: singular values come out between about 0.7 and 1.2."""
    dtype = torch.bfloat16 if matrices_NRC.is_cuda or cpu_has_bf16() else torch.float32
    tall = matrices_NRC.size(-2) > matrices_NRC.size(-1)
    x = (matrices_NRC.mT if tall else matrices_NRC).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    # Squared singular values need the digits of float32.
    x = _iterate_on_square(x) if x.size(-2) < x.size(-1) and dtype == torch.float32 else _iterate(x)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


def _iterate(x_NRC: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        m = x_NRC @ x_NRC.mT
        x_NRC = torch.baddbmm(x_NRC, torch.baddbmm(m, m, m, beta=b, alpha=c), x_NRC, beta=a)
    return x_NRC


def _iterate_on_square(x_NRC: Tensor) -> Tensor:
    """As `_iterate`, with half the arithmetic where x is wide. Each step multiplies x from the left by a polynomial of
    m, so it is enough to iterate on the square m and to multiply x by the product of the polynomials at the end."""
    a, b, c = COEFFICIENTS
    m, product = x_NRC @ x_NRC.mT, None
    for _ in range(ITERATIONS):
        polynomial = torch.baddbmm(m, m, m, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        m = polynomial @ m @ polynomial
    return product @ x_NRC


class Muon(Optimizer):
    """Muon on the parameter groups whose `optimizer` is "muon", AdamW on those where it is "adamw".

    Args:
        groups: Each with `params`, `optimizer`, `lr` and `weight_decay`; Muon's, which hold matrices only, with
            `momentum`; AdamW's with `betas`.
        fused: Whether AdamW updates all its parameters in one kernel.
    """

    def __init__(self, groups: list[dict[str, Any]], fused: bool) -> None:
        self._adamw = AdamW([group for group in groups if group["optimizer"] == "adamw"], fused=fused)
        adamw_groups = iter(self._adamw.param_groups)
        super().__init__([group if group["optimizer"] == "muon" else next(adamw_groups) for group in groups], {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as PyTorch does, which replaces the groups. Before 2026-11-25 they named no `optimizer`."""
        optimizers = [group["optimizer"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, optimizer in zip(self.param_groups, optimizers, strict=True):
            group["optimizer"] = optimizer

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # At every step, since loading replaces both groups and state.
        self._adamw.param_groups = [group for group in self.param_groups if group["optimizer"] == "adamw"]
        self._adamw.state = self.state
        self._adamw.step()
        for group in self.param_groups:
            if group["optimizer"] == "muon":
                self._muon_step(group)
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        alike: defaultdict[Any, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape, parameter.device, parameter.dtype].append(parameter)
        momentum, lr = group["momentum"], group["lr"]
        for (shape, *_), parameters in alike.items():
            directions = []
            for parameter in parameters:
                state, gradient = self.state[parameter], parameter.grad
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                directions.append(gradient.lerp(state["momentum_buffer"], momentum))  # Nesterov's
            updates = orthogonalise(torch.stack(directions)).unbind()
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            # So that the update per output is as large for a tall matrix as for a square one.
            torch._foreach_add_(parameters, updates, alpha=-lr * math.sqrt(max(1, shape[0] / shape[1])))
