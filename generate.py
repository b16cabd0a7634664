"""Continue a prompt with text sampled from a checkpoint.

python generate.py --checkpoint runs/default/version_0/checkpoints/last.ckpt --prompt "def "
"""

import argparse
import sys
import time
from collections.abc import Iterator

from gpt_lightning.command_line import OneLineParser, clear_errors
from gpt_lightning.decoding.options import Extent, Penalty, SampleCount, Sampling
from gpt_lightning.errors import UserError
from gpt_lightning.ranges import NonNegativeFloat, PositiveInt, PositiveShare, Seed


def main() -> None:
    """Load a checkpoint and print the continuation of each prompt as it is sampled."""
    args = parse()
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty, args.seed)
    extent = Extent(args.samples, args.tokens, args.stop, args.slide)

    # These import torch, so they come after parsing: --help and a mistyped option answer at once.
    from gpt_lightning.decoding.text_generation import generate_texts
    from gpt_lightning.device import choose_device
    from gpt_lightning.interop.any_checkpoint import load_checkpoint
    from gpt_lightning.training.numerical_faults import bad_weights

    device = choose_device(args.device)
    loaded = load_checkpoint(args.checkpoint, args.tokenizer)
    if fault := bad_weights(loaded.model):
        raise UserError(f"{args.checkpoint} has a weight that is not finite: {fault}.")
    gpt = loaded.model.to(device)
    for prompt in prompts(args):
        try:
            write(prompt, generate_texts(gpt, loaded.encoding, prompt, sampling, extent, args.compile))
        except UserError as error:
            if not args.interactive:
                raise
            print(error, file=sys.stderr)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = OneLineParser(description="Sample text from a checkpoint.")
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        help="checkpoint file, e.g. runs/…/checkpoints/last.ckpt; or nanoGPT's, or a directory of Hugging Face's GPT-2",
    )
    add("--tokenizer", help="bytes, gpt2 or a ranks file, for a network that comes without a tokenizer")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--prompt", default="\n", help="text to continue (default: a line break)")
    text.add_argument("--prompt_file", metavar="FILE", help="file with the text to continue; - is standard input")
    text.add_argument("--interactive", action="store_true", help="continue each line that you type")
    add("--tokens", type=PositiveInt, help="tokens to add (default: up to the end of the context)")
    add("--samples", type=SampleCount, default=Extent.samples, help="continuations, up to 1024 (default: %(default)s)")
    add(
        "--temperature",
        type=NonNegativeFloat,
        default=Sampling.temperature,
        help="0 takes the likeliest token (default: %(default)s)",
    )
    add("--top_k", type=PositiveInt, help="sample among the k likeliest tokens only")
    add("--top_p", type=PositiveShare, help="… among the fewest tokens whose probabilities sum to this")
    add("--min_p", type=PositiveShare, help="… among those at least this share as likely as the likeliest")
    add(
        "--repetition_penalty",
        type=Penalty,
        default=Sampling.repetition_penalty,
        help="above 1: tokens that occurred before become less likely; 0.01 to 100 (default: %(default)s)",
    )
    add("--stop", action="append", default=[], help="end before this text; can be given several times")
    add("--slide", action="store_true", help="past the end of the context, go on from its second half")
    add("--seed", type=Seed, default=Sampling.seed, help="the same seed gives the same text (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute (default: auto)")
    add("--compile", action="store_true", help="much faster on a GPU, after a minute; not on a CPU")
    args = parser.parse_args()
    if "" in args.stop:
        parser.error("argument --stop: an empty text would end the continuation at once")
    return args


def prompts(args: argparse.Namespace) -> Iterator[str]:
    """The one prompt, or each line typed until the end of input."""
    if args.interactive:
        sys.stdin.reconfigure(errors="surrogateescape")  # a prompt may hold bytes that are not UTF-8
        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return
    elif args.prompt_file is None:
        yield args.prompt
    else:
        try:
            with open(sys.stdin.fileno() if args.prompt_file == "-" else args.prompt_file, "rb") as file:
                yield file.read().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise UserError(f"The prompt file {args.prompt_file} can't be read: {error.strerror}.") from error


def write(prompt: str, steps: Iterator[list[str]]) -> None:
    """Print one continuation as it comes, or several once all are complete; then, on stderr, how fast they came."""
    start = time.perf_counter()
    texts = next(steps)  # before anything is printed: a prompt that can't be used is refused here
    shown = prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    tokens, alone = 0, len(texts) == 1
    if alone:
        print(shown + texts[0], end="", flush=True)
    for pieces in steps:  # as many as there are tokens: the first step brought one, and the last brings none
        tokens += len(texts)
        if alone:
            print(pieces[0], end="", flush=True)
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    print("" if alone else "\n\n".join(f"--- {i}\n{shown}{text}" for i, text in enumerate(texts, start=1)), flush=True)
    print(f"{tokens:,} tokens, {tokens / (time.perf_counter() - start):,.0f} per second", file=sys.stderr)


if __name__ == "__main__":
    with clear_errors():
        main()
