"""What mixed precision gains: one training step (forward, loss, backward, AdamW) in each precision, side by side.

    python -m benchmarks.precision                      on this machine's CPU, or GPU if it has one
    python -m benchmarks.precision --d_model 768 --n_layer 12 --n_head 12 --context 1024 --vocab 50257 --batch 8

The steps of the precisions alternate, so that a machine that speeds up or slows down does so for both.
"""

import argparse
import statistics
import time

import torch

from gpt_lightning.device import choose_device
from gpt_lightning.loss import next_token_loss
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.optim import build_optimizer, parameter_groups
from gpt_lightning.precision import cpu_has_bf16

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "n_layer": 4, "n_head": 4, "d_model": 128, "context": 128, "vocab": 256, "batch": 16, "steps": 20
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()

    device = choose_device(args.device)
    precisions = [name for name in PRECISIONS if device.type == "cuda" or name != "16-mixed"]
    torch.manual_seed(0)
    config = GPTConfig(args.n_layer, args.n_head, args.d_model, args.context, args.vocab)
    tokens = torch.randint(args.vocab, (args.batch, args.context + 1), device=device)
    networks = {name: GPT(config).to(device) for name in precisions}
    optimisers = {
        name: build_optimizer(parameter_groups(gpt, 1e-4, (0.9, 0.95), 0.1), fused=True)
        for name, gpt in networks.items()
    }
    seconds = {name: [] for name in precisions}
    for step in range(args.steps + 1):
        for name in precisions:
            elapsed = training_step(networks[name], optimisers[name], tokens, PRECISIONS[name])
            if step > 0:  # the first one warms up
                seconds[name].append(elapsed)

    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, bf16 in hardware: {cpu_has_bf16()}"
    print(f"{where}; {args.n_layer} layers × {args.n_head} heads × {args.d_model}, batch {args.batch} × {args.context}")
    print(f"{'precision':<12} {'ms a step (median)':>20} {'tokens/s':>12} {'speed vs 32-true':>18}")
    baseline = statistics.median(seconds["32-true"])
    for name in precisions:
        median = statistics.median(seconds[name])
        rate = args.batch * args.context / median
        print(f"{name:<12} {median * 1e3:>20.1f} {rate:>12,.0f} {baseline / median:>17.2f}×")


def training_step(gpt: GPT, optimiser: torch.optim.Optimizer, tokens: torch.Tensor, dtype: torch.dtype | None) -> float:
    """One step; returns its seconds. (fp16 goes without a loss scaler: same speed, and the numbers don't matter.)"""
    start = time.perf_counter()
    with torch.autocast(tokens.device.type, dtype, enabled=dtype is not None):
        loss = next_token_loss(gpt, tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    if tokens.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
