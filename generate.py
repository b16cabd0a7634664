"""Sample text from a checkpoint.

python generate.py --checkpoint runs/default/version_0/checkpoints/last.ckpt --prompt "def "
"""

import argparse
import sys
import time
from collections.abc import Iterator

from gpt_lightning.cli_errors import OneLineParser, clear_errors


def main() -> None:
    """Parse, load, print each prompt's continuation as it is sampled."""
    args = parse()

    # Imported after parsing, so that --help and a mistyped option answer at once.
    from gpt_lightning.checkpoint import load_checkpoint
    from gpt_lightning.device import choose_device
    from gpt_lightning.errors import UserError
    from gpt_lightning.faults import bad_weights
    from gpt_lightning.text import generate_texts

    device = choose_device(args.device)
    loaded = load_checkpoint(args.checkpoint, args.tokenizer)
    if found := bad_weights(loaded.model):
        raise UserError(f"{args.checkpoint} has a weight that is not finite: {found}.")
    network = (loaded.model.to(device), loaded.encoding)
    names = ("temperature", "top_k", "seed", "stop", "top_p", "min_p", "repetition_penalty", "slide")
    options = {name: getattr(args, name) for name in names}
    for prompt in prompts(args):
        try:
            write(prompt, generate_texts(*network, prompt, args.samples, args.tokens, compiled=args.compile, **options))
        except UserError as error:
            if not args.interactive:
                raise
            print(error, file=sys.stderr)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(description="Sample text from a checkpoint.")
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        help="checkpoint file, e.g. runs/default/version_0/checkpoints/last.ckpt; or nanoGPT's, or a directory of "
        "Hugging Face's GPT-2",
    )
    add("--tokenizer", help="bytes, gpt2 or a ranks file, for a network that comes without")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--prompt", default="\n", help="text to continue (default: a line break)")
    text.add_argument("--prompt_file", metavar="FILE", help="file with the text to continue; - is standard input")
    text.add_argument("--interactive", action="store_true", help="continue one line after the other that is typed")
    add("--tokens", type=positive_int, help="tokens to add (default: up to the end of the context)")
    add("--samples", type=few, default=1, help="continuations of the prompt, up to 1024 (default: 1)")
    add("--temperature", type=temperature, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    add("--top_k", type=positive_int, help="sample among the k likeliest tokens only")
    add("--top_p", type=share, help="… among the fewest likeliest whose probabilities sum to this")
    add("--min_p", type=share, help="… among those at least this share as likely as the likeliest")
    add("--repetition_penalty", type=penalty, default=1.0, help="above 1: less of what was there before (default: 1)")
    add("--stop", action="append", default=[], type=nonempty, help="end before this text; can be given several times")
    add("--slide", action="store_true", help="past the end of the context, go on from its second half")
    add("--seed", type=seed, default=1337, help="the same seed gives the same text (default: 1337)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute (default: auto)")
    add("--compile", action="store_true", help="much faster on a GPU, after a minute; not on a CPU")
    return parser.parse_args()


def prompts(args: argparse.Namespace) -> Iterator[str]:
    """The one prompt, or each line typed until the end of input."""
    from gpt_lightning.errors import UserError

    if args.interactive:
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no UTF-8 are a prompt, too
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
    """Print one continuation as it comes, or several when all are there; at the end, on stderr, how fast."""
    start = time.perf_counter()
    pieces = next(steps)  # before anything is printed: here a prompt that can't be used is refused
    shown = prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    texts, n = list(pieces), 1
    alone = len(texts) == 1
    if alone:
        print(shown + texts[0], end="", flush=True)
    for pieces in steps:
        n += 1
        if alone:
            print(pieces[0], end="", flush=True)
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    print("" if alone else "\n\n".join(f"--- {i}\n{shown}{text}" for i, text in enumerate(texts, start=1)), flush=True)
    tokens = (n - 1) * len(texts)  # the last step brings no token
    print(f"{tokens:,} tokens, {tokens / (time.perf_counter() - start):,.0f} per second", file=sys.stderr)


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def few(text: str) -> int:
    """An argparse type: a number of sequences that fit into memory."""
    number = positive_int(text)
    if number > 1024:
        raise argparse.ArgumentTypeError(f"{text} is more than 1024")
    return number


def seed(text: str) -> int:
    """An argparse type: a number that a random generator takes."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a seed from 0 to 2^63 - 1")
    return number


def temperature(text: str) -> float:
    """An argparse type: a finite number of at least 0."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a temperature of 0 or more")
    return number


def share(text: str) -> float:
    """An argparse type: a probability above 0."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return number


def penalty(text: str) -> float:
    """An argparse type: a number that leaves logits finite."""
    number = float(text)
    if not 0.01 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a penalty from 0.01 to 100")
    return number


def nonempty(text: str) -> str:
    """An argparse type: some text."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text is found at once")
    return text


if __name__ == "__main__":
    with clear_errors():
        main()
