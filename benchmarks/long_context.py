"""The memory that a study of long sequences takes: scan, probes, logit lens, similarity, ablation, pooled pictures.

    python -m benchmarks.long_context --tokens 4096 --n_layer 4

On a random network of GPT-2's width, heads and vocabulary. Prints the peak memory of the process after each part. The
dense attention weights of one layer alone would be 12 · 4096² · 4 bytes = 805 MB, and a scan would need several such.
"""

import argparse
import resource
import time

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch

from gpt_lightning.interpret.measure.pooled import attention_pooled_maps
from gpt_lightning.interpret.study import study
from gpt_lightning.model import GPT, GPTConfig


def main() -> None:
    """Study and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--n_layer", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=args.n_layer, context_length=args.tokens)).eval()
    tokens = torch.randint(gpt.config.vocab_size, (args.sequences, args.tokens))
    start = time.perf_counter()

    def say(done: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in kilobytes
        print(f"{time.perf_counter() - start:8.1f} s   peak {peak:.2f} GB   before {done}", flush=True)

    study(gpt, tokens, step=1, on_progress=lambda task, steps: say(task))
    say("pooled pictures")
    attention_pooled_maps(gpt, tokens[0])
    say("the end")


if __name__ == "__main__":
    main()
