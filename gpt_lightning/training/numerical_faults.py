"""Numerical faults before an optimiser step: a weight, loss or gradient that is NaN or infinite, or a spike. Finds
them, puts them into words, and decides whether the step is taken or skipped, or the run stops.

It knows the network's layers, but nothing of Lightning, optimisers or ranks.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT
from gpt_lightning.training.loss import next_token_loss
from gpt_lightning.training.sharding import full_tensor

WINDOW = 50  # optimiser steps whose median the next is compared with
AT_LEAST = 5  # steps before anything is called a spike
LOSS_SPIKE = 3  # times the median loss; no healthy run came above 1.2
# A network that memorises its text has a tiny loss and tiny gradients, which jump. Medians count as at least this.
LEAST_NORM, LEAST_LOSS = 0.1, 1.0
HUGE = 1e4  # far above any output of a healthy network
MOST_SKIPPED = 20  # optimiser steps in a row
ADVICE = (
    "No weight was changed in this step. Try a lower --model.learning_rate, more --model.warmup_steps, "
    "--trainer.gradient_clip_val 1.0, or skip such steps (--model.on_nonfinite, --model.on_spike)."
)
GO_BACK = "Go on from an earlier checkpoint, with a lower --model.learning_rate."


class Kind(IntEnum):
    """What can be wrong, in ascending order: bad weights make the loss bad, and a bad loss the gradients."""

    NONE = 0
    SPIKE = 1
    OVERFLOW = 2  # gradients beyond fp16's range: its scaler skips the step and adapts
    NORM = 3  # finite gradients, whose norm is too large for float32
    GRADIENTS = 4
    LOSS = 5
    WEIGHTS = 6


class Fault(NamedTuple):
    """What is wrong, and a sentence that says where."""

    kind: Kind
    sentence: str


NO_FAULT = Fault(Kind.NONE, "")


# ---- finding


def describe_parameter(name: str) -> str:
    """The name of a parameter or module, and the part of the network it belongs to.

    >>> describe_parameter("blocks.3.mlp.down.weight")
    "blocks.3.mlp.down.weight (layer 3's MLP)"
    """
    # Activation checkpointing wraps a block in a module whose name begins with an underscore.
    path = [step for step in name.split(".") if not step.startswith("_")]
    match path:
        case ["blocks", layer, "attention" | "norm1", *_]:
            place = f"layer {layer}'s attention"
        case ["blocks", layer, "mlp" | "norm2", *_]:
            place = f"layer {layer}'s MLP"
        case ["blocks", layer]:
            place = f"layer {layer}'s output"
        case ["token_embedding" | "position_embedding", *_]:
            place = "the embedding"
        case ["norm", *_]:
            place = "the final norm"
        case _:
            place = "the head"
    return f"{'.'.join(path)} ({place})"


def count_nonfinite(values: Tensor) -> str:
    """How many values are NaN or infinite, in words.

    >>> count_nonfinite(torch.tensor([1.0, float("nan"), 3.0]))
    '1 NaN among its 3 values'
    """
    masks = {"NaN": values.isnan(), "inf": values.isposinf(), "-inf": values.isneginf()}
    counts = [f"{int(mask.sum()):,} {kind}" for kind, mask in masks.items() if mask.any()]
    return f"{', '.join(counts)} among its {values.numel():,} values"


def bad_tensors(named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """The named tensors that hold a value that is NaN or infinite."""
    if not named:
        return []
    # Stacked, so that the CPU waits for the device only once.
    finite = torch.stack([full_tensor(values.isfinite().all()) for _, values in named]).tolist()
    return [pair for pair, is_finite in zip(named, finite, strict=True) if not is_finite]


def bad_weights(gpt: nn.Module) -> str | None:
    """Which weights are not finite; None if all are finite."""
    return bad_values(gpt.named_parameters())


def bad_values(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Which of the network's named tensors are not finite; None if all are finite."""
    bad = bad_tensors(list(named))
    if not bad:
        return None
    name, values = bad[0]
    more = f"; so have {len(bad) - 1} other parameters" if len(bad) > 1 else ""
    return f"{describe_parameter(name)} has {count_nonfinite(full_tensor(values))}{more}"


def bad_optimizer_states(states: list[dict[str, Any]]) -> str | None:
    """What is not finite in the `state_dict`s of optimisers; None if everything is finite."""
    entries = [item for state in states for values in state["state"].values() for item in values.items()]
    bad = bad_tensors([(name, value) for name, value in entries if isinstance(value, Tensor)])
    return f"{bad[0][0]} has {count_nonfinite(full_tensor(bad[0][1]))}" if bad else None


def gradients(gpt: nn.Module) -> list[tuple[str, Tensor]]:
    """The gradients by name, in the order in which the network uses their parameters."""
    return [(name, p.grad) for name, p in gpt.named_parameters() if p.grad is not None]


def bad_gradients(gpt: nn.Module) -> str | None:
    """Which gradients are not finite; None if all are finite."""
    bad = bad_tensors(gradients(gpt))
    if not bad:
        return None
    name, values = bad[-1]  # the first that backward met
    more = f"; so have {len(bad) - 1} parameters before it, to which backward comes later" if len(bad) > 1 else ""
    return f"{describe_parameter(name)} has {count_nonfinite(full_tensor(values))}{more}"


def largest_gradient(gpt: nn.Module) -> str:
    """Which parameter has the gradient with the largest absolute value, in words."""
    largest = [(full_tensor(gradient.abs().max()).item(), name) for name, gradient in gradients(gpt)]
    if not largest:
        return "there is no gradient"
    value, name = max(largest)
    return f"the largest gradient, {value:.4g}, is in {describe_parameter(name)}"


@torch.no_grad()
def bad_output(gpt: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> str:
    """Run a batch again whose loss was not finite, and say which module's output is the first that is not finite."""
    bad: list[str] = []
    huge: list[str] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        largest = output.abs().max().item()
        if not bad and not math.isfinite(largest):
            bad.append(f"{describe_parameter(name)}, with {count_nonfinite(output)}")
        elif not bad and not huge and largest > HUGE:
            huge.append(f"; the first above {HUGE:,.0f} is that of {describe_parameter(name)}, with {largest:.4g}")

    handles = [m.register_forward_hook(partial(look, name)) for name, m in gpt.named_modules() if name]
    try:
        loss = next_token_loss(gpt, inputs_BT, targets_BT).item()
    finally:
        for handle in handles:
            handle.remove()
    if not bad and math.isfinite(loss):
        return f"run again, it is {loss:#.4g}, so the fault is not the network's, or has passed"
    return f"run again, the first bad output is that of {(bad or ['the head'])[0]}{''.join(huge)}"


def nonfinite(
    gpt: nn.Module,
    step: int,
    losses: list[float],
    norm: float,
    overflowed_scale: float | None,
    rerun: Callable[[int], str],
) -> Fault:
    """What is NaN or infinite before an optimiser step.

    Args:
        gpt: The network, with the gradients of the step.
        step: Optimiser steps taken so far.
        losses: Of each batch of the step, in nats.
        norm: Of all gradients together.
        overflowed_scale: The loss scale, if fp16's scaler found it too large in this step.
        rerun: Runs the batch again whose loss has this index in `losses`, and says where it became bad.
    """
    # All three before returning anything: with FSDP every rank has to take part, whatever its own loss is.
    weights, bad = bad_weights(gpt), bad_gradients(gpt)
    largest = "" if bad or math.isfinite(norm) else largest_gradient(gpt)
    if weights:
        return Fault(Kind.WEIGHTS, f"A weight is not finite at optimiser step {step:,}: {weights}.")
    bad_losses = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad_losses:
        first = bad_losses[0]
        which = f", in batch {first + 1} of {len(losses)}" if len(losses) > 1 else ""
        value = "NaN" if math.isnan(losses[first]) else losses[first]
        return Fault(Kind.LOSS, f"The loss is {value} at optimiser step {step:,}{which}; {rerun(first)}.")
    when = f"at optimiser step {step:,}, with a loss of {sum(losses) / len(losses):#.4g}"
    if bad:
        if overflowed_scale is None:
            return Fault(Kind.GRADIENTS, f"A gradient is not finite {when}: that of {bad}.")
        # The scaler searches for a scale that works. Below 1 there is none.
        kind = Kind.OVERFLOW if overflowed_scale >= 1 else Kind.GRADIENTS
        return Fault(
            kind, f"A gradient overflows fp16 {when} and a loss scale of {overflowed_scale:,.10g}: that of {bad}."
        )
    if not math.isfinite(norm):
        return Fault(Kind.NORM, f"The gradient norm is too large for float32 {when}: {largest}.")
    return NO_FAULT


# ---- deciding


class RunningMedian:
    """The median of a figure over the last optimiser steps, but at least `least`."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.values: deque[float] = deque(maxlen=WINDOW)

    def ratio(self, value: float) -> float:
        """`value` as a multiple of the median; 0 while too few steps are known."""
        if len(self.values) < AT_LEAST:
            return 0.0
        return value / max(self.least, statistics.median(self.values))

    def remember(self, value: float) -> None:
        """Take a value into the median, if it is finite."""
        if math.isfinite(value):
            self.values.append(value)


class StepWatch:
    """Decides whether an optimiser step is taken, given the figures of earlier ones, which it remembers.

    Args:
        on_nonfinite: "stop" or "skip", for a loss or gradient that is NaN or infinite.
        on_spike: "warn", "skip" or "stop", for a gradient norm or a loss far above its median.
        spike_factor: How many times its median makes a gradient norm a spike.
    """

    def __init__(self, on_nonfinite: str, on_spike: str, spike_factor: float) -> None:
        self.choices = {Kind.NONE: "take", Kind.SPIKE: on_spike, Kind.OVERFLOW: "wait", Kind.WEIGHTS: "stop"}
        self.choices |= dict.fromkeys((Kind.NORM, Kind.GRADIENTS, Kind.LOSS), on_nonfinite)
        self.spike_factor = spike_factor
        self.norm, self.loss = RunningMedian(LEAST_NORM), RunningMedian(LEAST_LOSS)
        self.skipped = 0  # optimiser steps since the run began
        self.skipped_in_a_row = 0  # up to now

    def spike(self, gpt: nn.Module, step: int, norm: float, loss: float) -> Fault:
        """Whether a gradient norm or a loss, in nats, is far above its median."""
        norm_ratio, loss_ratio = self.norm.ratio(norm), self.loss.ratio(loss)
        if norm_ratio <= self.spike_factor and loss_ratio <= LOSS_SPIKE:
            return NO_FAULT
        return Fault(
            Kind.SPIKE,
            f"A spike at optimiser step {step:,}: the gradient norm is {norm:.4g}, {norm_ratio:.3g} times its median, "
            f"and the loss {loss:.4g}, {loss_ratio:.3g} times its median; {largest_gradient(gpt)}.",
        )

    def takes(self, fault: Fault) -> bool:
        """Whether to take the step rather than skip it, given the worst fault of all ranks.

        Raises:
            UserError: the run is to stop.
        """
        choice = self.choices[fault.kind]
        if choice == "stop":
            raise UserError(f"{fault.sentence} {GO_BACK if fault.kind == Kind.WEIGHTS else ADVICE}")
        if choice == "skip" and self.skipped_in_a_row + 1 == MOST_SKIPPED:
            raise UserError(f"{MOST_SKIPPED} optimiser steps in a row are bad. {fault.sentence} {ADVICE}")
        if choice in ("take", "warn"):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        return False

    def remember(self, norm: float, loss: float) -> None:
        """Take the figures of a step into the medians. Spikes count too: a lasting change is no spike."""
        self.norm.remember(norm)
        self.loss.remember(loss)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know, as plain types."""
        medians = {"norms": list(self.norm.values), "losses": list(self.loss.values)}
        return medians | {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.norm.values, self.loss.values = (deque(state[name], maxlen=WINDOW) for name in ("norms", "losses"))
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
