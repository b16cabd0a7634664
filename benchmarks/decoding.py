"""Tokens per second while sampling: this project, nanoGPT (which has no cache) and transformers, in turns.

    python -m benchmarks.decoding --nanogpt ../nanoGPT --transformers            GPT-2 124M, prompt of 32, 224 new
    python -m benchmarks.decoding --batch 8

The weights are random: the cost does not depend on the text.
"""

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch

from benchmarks import peers
from benchmarks.side_by_side import machine, print_table, take_turns
from gpt_lightning.command_line import clear_errors
from gpt_lightning.decoding.generation import generate
from gpt_lightning.decoding.options import Sampling
from gpt_lightning.device import choose_device
from gpt_lightning.model import GPT, GPTConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Parse, measure, print a table and the time to the first token."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"n_layer": 12, "n_head": 12, "d_model": 768, "context": 256, "vocab": 50257}
    for name, value in (sizes | {"batch": 1, "prompt": 32, "new": 224, "rounds": 3}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32"])
    parser.add_argument("--compile", action="store_true", help="ours with a compiled step, too; for GPUs")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT to compare with")
    parser.add_argument("--transformers", action="store_true", help="compare with Hugging Face's, too")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args()

    device = choose_device(args.device)
    config = GPTConfig(args.n_layer, args.n_head, args.d_model, args.context, args.vocab)
    prompt = torch.randint(args.vocab, (args.batch, args.prompt), device=device)
    decoders: dict[str, Callable[[], object]] = {}
    for name in args.dtype:
        gpt = GPT(config).to(device, DTYPES[name]).eval()
        for kind in ["", " compiled"] if args.compile else [""]:
            decoders[f"gpt_lightning {name}{kind}"] = lambda gpt=gpt, kind=kind: list(
                islice(generate(gpt, prompt, Sampling(), compiled=bool(kind)), args.new)
            )
        if args.nanogpt is not None:
            theirs = peers.nanogpt_network(args.nanogpt, config).to(device, DTYPES[name]).eval()
            decoders[f"nanoGPT {name}"] = lambda theirs=theirs: theirs.generate(prompt, args.new)
        if args.transformers:
            network = peers.huggingface_network(config).to(device, DTYPES[name]).eval()
            options = {"max_new_tokens": args.new, "min_new_tokens": args.new, "do_sample": True, "top_k": 0}
            options |= {"use_cache": True, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
            decoders[f"transformers {name}"] = lambda network=network, o=options: network.generate(prompt, **o)
    seconds = take_turns(decoders, args.rounds, device.type)
    first, forward = first_token(gpt, prompt)

    print(f"{machine(device.type)}; {GPT(config).parameter_count():,} parameters, batch {args.batch}, ", end="")
    print(f"prompt of {args.prompt} tokens, {args.new} new")
    reference = next((name for name in decoders if name.startswith("transformers")), next(iter(decoders)))
    print_table(seconds, args.batch * args.new, "tokens", reference)
    print(
        f"The first token takes {first * 1e3:.1f} ms, a forward over the prompt with its logits {forward * 1e3:.1f} ms."
    )


@torch.no_grad()
def first_token(gpt: GPT, prompt: torch.Tensor) -> tuple[float, float]:
    """Seconds until `generate` yields a token, and seconds of one forward pass over the prompt; the best of a few."""

    def best_of(act: Callable[[], object]) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            act()
            if prompt.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return best_of(lambda: next(generate(gpt, prompt, Sampling()))), best_of(lambda: gpt(prompt))


if __name__ == "__main__":
    with clear_errors():
        main()
