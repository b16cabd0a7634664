"""How many sequences of a training step fit into a given memory: weights, gradients, AdamW's state, activations.

    python -m benchmarks.largest_batch                                   configs/enwik8.yaml in the 15 GB of a T4
    python -m benchmarks.largest_batch --precision 32-true --gigabytes 15

Each size is tried in a fresh process: doubled until one is too large, then searched by bisection.
"""

import argparse
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch
import yaml

from benchmarks.fresh_process import Meter, measured
from benchmarks.side_by_side import machine
from benchmarks.training import DTYPES, training_step
from gpt_lightning.command_line import clear_errors
from gpt_lightning.data.tokenizer import vocabulary_size
from gpt_lightning.device import choose_device
from gpt_lightning.model import GPT, GPTConfig, padded_vocabulary
from gpt_lightning.training.loss import next_token_loss

ENWIK8 = Path(__file__).parent.parent / "configs" / "enwik8.yaml"


def main() -> None:
    """Parse, try, print each try and the largest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ENWIK8)
    parser.add_argument("--gigabytes", type=float, default=15.0)
    parser.add_argument("--precision", choices=DTYPES, default="16-mixed")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()

    device = choose_device(args.device).type
    config = yaml.safe_load(args.config.read_text())
    vocabulary = padded_vocabulary(vocabulary_size(config["data"]["tokenizer"]))
    gpt = GPTConfig(**config["model"]["gpt"], vocab_size=vocabulary)
    print(f"{machine(device)}; {args.config.name}, {args.precision}, context {gpt.context_length}")
    largest = largest_within(args.gigabytes * 1e9, gpt, args.precision, device)
    print(f"{largest} sequences fit into {args.gigabytes:g} GB.")


def largest_within(limit: float, config: GPTConfig, precision: str, device: str) -> int:
    """The largest batch whose peak stays within `limit` bytes; 0 if not even one sequence does."""

    def fits(batch: int) -> bool:
        try:
            _, megabytes = measured(two_steps, config, batch, precision, device, device=device)
        except torch.OutOfMemoryError:
            print(f"{batch:>6} sequences: more than this device has")
            return False
        print(f"{batch:>6} sequences: {megabytes / 1e3:.2f} GB", flush=True)
        return megabytes * 1e6 <= limit

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def two_steps(config: GPTConfig, batch: int, precision: str, device: str, meter: Meter) -> None:
    """Train two steps from nothing; the second has the optimiser's state as well."""
    meter.begin()
    gpt = GPT(config).to(device)
    tokens = torch.randint(config.vocab_size, (batch, config.context_length + 1), device=device)
    step = training_step(gpt, lambda x, y: next_token_loss(gpt, x, y), tokens, DTYPES[precision], compiled=False)
    step()
    step()
    meter.end()


if __name__ == "__main__":
    with clear_errors():
        main()
