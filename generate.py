"""Sample text from a checkpoint.

python generate.py --checkpoint runs/default/version_0/checkpoints/last.ckpt --prompt "def "
"""

import argparse

from gpt_lightning.cli_errors import OneLineParser, clear_errors


def main() -> None:
    """Parse, load, print the continuation as it is sampled."""
    parser = OneLineParser(description="Sample text from a checkpoint of this project.")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="checkpoint file, e.g. runs/default/version_0/checkpoints/last.ckpt; or nanoGPT's, or a directory of "
        "Hugging Face's GPT-2",
    )
    parser.add_argument("--tokenizer", help="bytes, gpt2 or a ranks file, for a network that comes without")
    parser.add_argument("--prompt", default="\n", help="text to continue (default: a line break)")
    parser.add_argument("--tokens", type=positive_int, help="tokens to add (default: up to the end of the context)")
    parser.add_argument(
        "--temperature", type=temperature, default=0.8, help="0 takes the likeliest token (default: 0.8)"
    )
    parser.add_argument("--top_k", type=positive_int, help="sample among the k likeliest tokens only")
    parser.add_argument("--seed", type=seed, default=1337, help="the same seed gives the same text (default: 1337)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute (default: auto)"
    )
    parser.add_argument("--compile", action="store_true", help="much faster on a GPU, after a minute; not on a CPU")
    args = parser.parse_args()

    # Imported after parsing, so that --help and a mistyped option answer at once.
    from gpt_lightning.checkpoint import load_checkpoint
    from gpt_lightning.device import choose_device
    from gpt_lightning.errors import UserError
    from gpt_lightning.faults import bad_weights
    from gpt_lightning.text import generate_text

    device = choose_device(args.device)
    loaded = load_checkpoint(args.checkpoint, args.tokenizer)
    if found := bad_weights(loaded.model):
        raise UserError(f"{args.checkpoint} has a weight that is not finite: {found}.")
    sampling = (args.tokens, args.temperature, args.top_k, args.seed, args.compile)
    pieces = generate_text(loaded.model.to(device), loaded.encoding, args.prompt, *sampling)
    first = next(pieces)  # before anything is printed: here a prompt that can't be used is refused
    print(args.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace") + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
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


if __name__ == "__main__":
    with clear_errors():
        main()
