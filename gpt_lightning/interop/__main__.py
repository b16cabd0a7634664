"""`python -m gpt_lightning.interop`: write a checkpoint in a format that other projects read."""

from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from gpt_lightning.command_line import OneLineParser, clear_errors
from gpt_lightning.interop import __doc__ as usage
from gpt_lightning.interop import save_huggingface, save_plain
from gpt_lightning.interop.any_checkpoint import load_checkpoint


def main() -> None:
    """Parse, load, write, and print the names of the files."""
    command = "python -m gpt_lightning.interop"
    parser = OneLineParser(command, description=usage, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what to write in another format")
    parser.add_argument("--tokenizer", help="bytes, gpt2 or a ranks file, for a network that comes without a tokenizer")
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY", help="where to write it")
    parser.add_argument("--format", choices=["huggingface", "plain"], default="huggingface")
    args = parser.parse_args()

    loaded = load_checkpoint(args.checkpoint, args.tokenizer)
    save = save_plain if args.format == "plain" else save_huggingface
    for file in save(loaded.model, args.output, loaded.encoding):
        print(file)


if __name__ == "__main__":
    with clear_errors():
        main()
