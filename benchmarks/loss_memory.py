"""Memory and time of a training step's forward and backward pass: the loss in chunks, and with all logits at once.

    python -m benchmarks.loss_memory                                     GPT-2 124M, 8 sequences of 512
    python -m benchmarks.loss_memory --n_layer 1 --d_model 64 --n_head 1 --vocab 1000 --context 32

Each runs in a fresh process. Memory is what the step needs beyond the weights.
"""

import argparse

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch
import torch.nn.functional as F

from benchmarks.fresh_process import Meter, measured
from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors
from gpt_lightning.device import choose_device
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.training.loss import next_token_loss


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"n_layer": 12, "n_head": 12, "d_model": 768, "context": 512, "vocab": 50257, "batch": 8, "rounds": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()

    device = choose_device(args.device).type
    config = GPTConfig(args.n_layer, args.n_head, args.d_model, args.context, args.vocab)
    rounds = {"all logits": [], "chunks": []}
    for _ in range(args.rounds):
        for name in rounds:
            rounds[name].append(measured(forward_and_backward, config, args.batch, name, device, device=device))
    print(f"{machine(device)}; {GPT(config).parameter_count():,} parameters, batch {args.batch} × {args.context}")
    (seconds, megabytes), *_ = best = [tuple(map(min, zip(*rounds[name], strict=True))) for name in rounds]
    for name, (s, mb) in zip(rounds, best, strict=True):
        print(f"{name:<12} {s:8.2f} s ({s / seconds:.2f}×) {mb / 1e3:8.2f} GB ({mb / megabytes:.2f}×)")


def forward_and_backward(config: GPTConfig, batch: int, loss: str, device: str, meter: Meter) -> None:
    """One pass over random tokens, gradients included."""
    gpt = GPT(config).to(device)
    tokens = torch.randint(config.vocab_size, (batch, config.context_length + 1), device=device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    meter.begin()
    if loss == "chunks":
        next_token_loss(gpt, inputs, targets).backward()
    else:
        F.cross_entropy(gpt(inputs).flatten(0, 1), targets.flatten()).backward()


if __name__ == "__main__":
    with clear_errors():
        main()
