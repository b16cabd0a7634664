"""What the depth scan's statistics add to the forward passes in which they are computed: time and memory.

    python -m benchmarks.scan_statistics                                 GPT-2's width, 4 layers, 4 sequences of 1,024

The forward passes alone; with the statistics, as the scan computes them; and keeping every T × T matrix of attention
weights, as is usual. Each in a fresh process; the vocabulary is small, the scan computes no logits.
"""

import argparse
import statistics

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch

from benchmarks.fresh_process import Meter, measured
from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors
from gpt_lightning.device import choose_device
from gpt_lightning.interpret.measure.attention import attention_pattern
from gpt_lightning.interpret.measure.hooks import observed
from gpt_lightning.interpret.measure.probes import repeated_tokens
from gpt_lightning.interpret.scan import REPEATED_SEQUENCES, depth_scan
from gpt_lightning.model import GPT, GPTConfig

VOCABULARY = 256


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"n_layer": 4, "n_head": 12, "d_model": 768, "context": 1024, "sequences": 4, "rounds": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()

    device = choose_device(args.device).type
    config = GPTConfig(args.n_layer, args.n_head, args.d_model, args.context, VOCABULARY)
    ways = {name: [] for name in ("forward", "scan", "keep T × T")}
    for _ in range(args.rounds):
        for name in ways:
            ways[name].append(measured(look, config, args.sequences, name, device, device=device))
    print(f"{machine(device)}; {args.n_layer} layers × {args.n_head} heads × {args.d_model}, ", end="")
    print(f"{args.sequences} sequences of {args.context}")
    medians = {name: [statistics.median(values) for values in zip(*ways[name], strict=True)] for name in ways}
    for name, (seconds, megabytes) in medians.items():
        print(
            f"{name:<12} {seconds:8.2f} s ({seconds / medians['forward'][0]:.2f}×) "
            f"{megabytes:8.0f} MB ({megabytes / medians['forward'][1]:.2f}×)"
        )


@torch.no_grad()
def look(config: GPTConfig, sequences: int, way: str, device: str, meter: Meter) -> None:
    """The passes that a scan makes: over the sequences, and over random tokens repeated."""
    gpt = GPT(config).to(device).eval()
    tokens = torch.randint(VOCABULARY, (sequences, config.context_length), device=device)
    repeated, _ = repeated_tokens(tokens, REPEATED_SEQUENCES, config.context_length)
    passes = (tokens, repeated.to(device))
    gpt.hidden_states(tokens[:1, :64])  # warms up
    meter.begin()
    if way == "scan":
        depth_scan(gpt, tokens)
    elif way == "forward":
        for batch in passes:
            gpt.hidden_states(batch)
    else:
        kept = []
        with observed(gpt, lambda layer, q, k, v: kept.append(attention_pattern(q, k))):
            for batch in passes:
                gpt.hidden_states(batch)


if __name__ == "__main__":
    with clear_errors():
        main()
