"""A training step (forward, loss, backward, clipping, AdamW) of ours, of nanoGPT and of transformers, in turns.

    python -m benchmarks.training --nanogpt ../nanoGPT --transformers
    python -m benchmarks.training --nanogpt ../nanoGPT --n_layer 12 --n_head 12 --d_model 768 --vocab 50257 --batch 2
    python -m benchmarks.training --precision 32-true bf16-mixed --compile both

Without a peer it compares precisions. On a GPU it also prints the memory that each needs.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks import peers
from benchmarks.side_by_side import machine, print_table, take_turns
from callbacks.throughput import measured_peak_flops
from gpt_lightning.command_line import clear_errors
from gpt_lightning.device import choose_device
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.training.loss import next_token_loss
from gpt_lightning.training.optim import build_optimizer, parameter_groups

DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
COMPILED = {"no": [False], "yes": [True], "both": [False, True]}
LEARNING_RATE, BETAS, WEIGHT_DECAY = 6e-4, (0.9, 0.95), 0.1
Loss = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"n_layer": 6, "n_head": 6, "d_model": 384, "context": 256, "vocab": 256, "batch": 8, "rounds": 10}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--untied", action="store_true", help="a head of its own: 163M parameters for GPT-2's sizes")
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=["32-true"])
    parser.add_argument("--compile", choices=["no", "yes", "both"], default="no", help="with torch.compile")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT to compare with")
    parser.add_argument("--transformers", action="store_true", help="compare with Hugging Face's, too")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()

    device = choose_device(args.device)
    sizes = (args.n_layer, args.n_head, args.d_model, args.context, args.vocab)
    config = GPTConfig(*sizes, tie_weights=not args.untied)
    tokens = torch.randint(args.vocab, (args.batch, args.context + 1), device=device)
    steps, memory = {}, {}
    for precision, compiled in itertools.product(args.precision, COMPILED[args.compile]):
        for name, (network, loss) in networks(config, args.nanogpt, args.transformers).items():
            one_step = training_step(network.to(device), loss, tokens, DTYPES[precision], compiled)
            label = f"{name}{' compiled' if compiled else ''} {precision}"
            steps[label], memory[label] = one_step, peak_memory(one_step, device.type)
    seconds = take_turns(steps, args.rounds, device.type)

    print(machine(device.type))
    print(
        f"{config.n_layer} layers × {config.n_head} heads × {config.d_model}, batch {args.batch} × {args.context}, ",
        end="",
    )
    print(f"vocabulary {config.vocab_size:,}, {GPT(config).parameter_count():,} parameters")
    reference = next((name for name in steps if name.startswith("nanoGPT")), next(iter(steps)))
    flops = GPT(config).flops_per_token() * tokens[:, 1:].numel()
    for label, times in seconds.items():
        mfu = flops / statistics.median(times) / peak_flops(device, DTYPES[label.split()[-1]])
        memory[label] = f"MFU {mfu:.0%}{memory[label]}"
    print_table(seconds, tokens[:, 1:].numel(), "tokens", reference, memory)


def networks(config: GPTConfig, nanogpt: Path | None, transformers: bool) -> dict[str, tuple[nn.Module, Loss]]:
    """Each contender's network, with random weights, and its mean loss of (inputs, targets)."""
    ours = GPT(config)
    contenders = {"gpt_lightning": (ours, lambda x, y: next_token_loss(ours, x, y))}
    if nanogpt is not None:
        theirs = peers.nanogpt_network(nanogpt, config)
        contenders["nanoGPT"] = (theirs, lambda x, y: theirs(x, y)[1])
    if transformers:
        network = peers.huggingface_network(config)
        contenders["transformers"] = (network, lambda x, y: peers.huggingface_loss(network, x, y))
    return contenders


def training_step(
    network: nn.Module, loss: Loss, tokens: Tensor, dtype: torch.dtype | None, compiled: bool
) -> Callable[[], float]:
    """A function that trains one step on the same batch each time, and returns the loss as a number."""
    loss = torch.compile(loss) if compiled else loss
    groups = [{"params": [p for p in network.parameters() if p.dim() >= 2]}]
    groups += [{"params": [p for p in network.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    scaled = dtype == torch.float16
    if isinstance(network, GPT):
        optimiser = build_optimizer(parameter_groups(network, LEARNING_RATE, BETAS, WEIGHT_DECAY), fused=not scaled)
    else:  # as nanoGPT's train.py: fused on a GPU only
        on_gpu = tokens.device.type == "cuda"
        optimiser = torch.optim.AdamW(groups, LEARNING_RATE, BETAS, weight_decay=WEIGHT_DECAY, fused=on_gpu)
    scaler = torch.amp.GradScaler(tokens.device.type, enabled=scaled)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> float:
        with torch.autocast(tokens.device.type, dtype, enabled=dtype is not None):
            value = loss(inputs, targets)
        scaler.scale(value).backward()
        scaler.unscale_(optimiser)
        clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        return value.item()

    return step


@functools.cache  # a CPU's peak is measured once, so that shares of it compare
def peak_flops(device: torch.device, dtype: torch.dtype | None) -> float:
    """A GPU's peak by its maker; a CPU's as a float32 matrix product reaches it."""
    known = get_available_flops(device, dtype or torch.float32) if device.type == "cuda" else None
    return known or measured_peak_flops(device)


def peak_memory(step: Callable[[], float], device: str) -> str:
    """In words, the memory that a step takes on a GPU beyond weights and optimiser; empty on a CPU."""
    if device != "cuda":
        return ""
    step()  # compiles, and makes the optimiser's state
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return f", {(torch.cuda.max_memory_allocated() - before) / 1e9:.2f} GB beyond weights and optimiser"


if __name__ == "__main__":
    with clear_errors():
        main()
