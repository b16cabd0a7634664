"""Write a checkpoint in a form that others read."""

import argparse
from pathlib import Path

from gpt_lightning.checkpoint import load_checkpoint
from gpt_lightning.cli_errors import OneLineParser, clear_errors
from gpt_lightning.interop import __doc__ as usage
from gpt_lightning.interop import save_huggingface, save_plain
from gpt_lightning.interop.tokenizer import save_tokenizer


def main() -> None:
    """Parse, load, write, name the files."""
    parser = OneLineParser(
        prog="python -m gpt_lightning.interop",
        description=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="what to write in another form")
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY", help="where to write it")
    parser.add_argument("--format", choices=["huggingface", "plain"], default="huggingface")
    args = parser.parse_args()

    loaded = load_checkpoint(args.checkpoint)
    if args.format == "plain":
        files = save_plain(loaded.model, args.output, loaded.encoding)
    else:
        files = [*save_huggingface(loaded.model, args.output), save_tokenizer(loaded.encoding, args.output)]
    for file in files:
        print(file)


if __name__ == "__main__":
    with clear_errors():
        main()
