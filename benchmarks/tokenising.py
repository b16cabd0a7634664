"""Tokenising a large text on all cores, compared with one call of tiktoken after another.

    python -m benchmarks.tokenising --text enwik8                      a file, or anything --data.corpus takes
    python -m benchmarks.tokenising --text notes.txt --megabytes 100   repeated to that size

Each runs in a fresh process, from reading the text to the finished token file.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fresh_process import Meter, measured
from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors
from gpt_lightning.data.text.corpora import find_corpus, read_corpus
from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.data.tokens.token_files import prepare_token_files

PIECE = 1 << 20


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="pydoc", help="what to tokenise (default: Python's documentation)")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--megabytes", type=float, default=100, help="repeat the text to this size")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        text = Path(name, "text.txt")
        size = repeat(args.text, int(args.megabytes * 1e6), text)
        contenders = {"tiktoken, one thread": one_thread, "gpt_lightning": all_cores}
        rounds = {name: [] for name in contenders}
        for number in range(args.rounds):
            for contender, act in contenders.items():
                work = Path(name, f"{number}-{act.__name__}")
                rounds[contender].append(measured(act, text, args.tokenizer, work))
    print(f"{machine('cpu')}; {size / 1e6:.0f} MB of {args.text}, tokenizer {args.tokenizer}")
    best = {name: tuple(map(min, zip(*measurements, strict=True))) for name, measurements in rounds.items()}
    reference = best["tiktoken, one thread"][0]
    for contender, (seconds, megabytes) in best.items():
        speed = f"{size / 1e6 / seconds:6.1f} MB/s ({reference / seconds:.2f}×)"
        print(f"{contender:<22} {speed}  peak of {megabytes:.0f} MB beyond the start")


def repeat(spec: str, size: int, path: Path) -> int:
    """Write a corpus to a file, repeated and cut to `size` bytes; return that size."""
    content = b"".join(block for _, block in read_corpus(find_corpus(spec, path.parent)))
    with path.open("wb") as file:
        while (left := size - file.tell()) > 0:
            file.write(content[:left])
    return path.stat().st_size


def all_cores(text: Path, tokenizer: str, work: Path, meter: Meter) -> None:
    """Tokenise as a run prepares its corpus."""
    encoding = load_tokenizer(tokenizer)
    meter.begin()
    prepare_token_files(find_corpus(str(text), work), encoding, work)


def one_thread(text: Path, tokenizer: str, work: Path, meter: Meter) -> None:
    """Tokenise the text in pieces of lines, a megabyte a call, into one array on the disk."""
    encoding = load_tokenizer(tokenizer)
    meter.begin()
    with work.open("wb") as file:
        for piece in pieces(text):
            np.array(encoding.encode_ordinary(piece), dtype=np.uint16).tofile(file)


def pieces(text: Path) -> Iterator[str]:
    """The text in pieces of whole lines."""
    with text.open(encoding="utf-8", errors="replace", newline="") as file:
        while lines := file.readlines(PIECE):
            yield "".join(lines)


if __name__ == "__main__":
    with clear_errors():
        main()
