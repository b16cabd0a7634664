"""Batches per second from a token file: this project's loader, nanoGPT's slices, and a torch DataLoader, in turns.

python -m benchmarks.feeding                                        batches of 32 × 256 of 10 million tokens
python -m benchmarks.feeding --shards 100                           and the same tokens in 100 arrays
python -m benchmarks.feeding --first_of 25000000000                 time to the first batch of a file of so many tokens
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.side_by_side import machine, print_table, take_turns
from gpt_lightning.batch import Batch
from gpt_lightning.command_line import clear_errors
from gpt_lightning.data.batches.loader import BlockLoader
from gpt_lightning.data.tokens.token_sequence import Tokens


class Blocks(Dataset):
    """The token file as one would write it for a DataLoader: item i is the i-th block and its targets."""

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, index: int) -> Batch:
        block = torch.from_numpy(self.tokens[index * self.context :][: self.context + 1].astype(np.int64))
        return block[:-1], block[1:]


def sliced(tokens: np.ndarray, context: int, batch: int) -> Iterator[Batch]:
    """Batches as nanoGPT's `get_batch` makes them: random places, a slice for each, stacked."""
    while True:
        places = torch.randint(len(tokens) - context, (batch,))
        yield tuple(
            torch.stack([torch.from_numpy(tokens[i + ahead : i + ahead + context].astype(np.int64)) for i in places])
            for ahead in (0, 1)
        )


def endless(loader: BlockLoader | DataLoader) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


def first_batch(n_tokens: int, context: int, batch: int, rounds: int) -> None:
    """Print the time from a path to the first batch, for a sparse file, which takes no room on the disk."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "tokens.bin")
        file.touch()
        os.truncate(file, 2 * n_tokens)

        def first() -> None:
            next(iter(BlockLoader(np.memmap(file, np.uint16, mode="r"), context, batch, seed=0)))

        seconds = take_turns({f"{n_tokens:,} tokens": first}, rounds)
    print(f"{machine('cpu')}; first batch of {batch} × {context}")
    print_table(seconds, 1, "batches", f"{n_tokens:,} tokens")


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch": 32, "context": 256, "tokens": 10_000_000, "batches": 300, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shards", type=int, default=0, help="also split the tokens into this many arrays")
    parser.add_argument("--first_of", type=int, default=0, help="instead, open a file of this many zeros")
    args = parser.parse_args()
    if args.first_of:
        return first_batch(args.first_of, args.context, args.batch, args.rounds)

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "tokens.bin")
        np.random.default_rng(0).integers(50257, size=args.tokens, dtype=np.uint16).tofile(file)
        tokens = np.memmap(file, np.uint16, mode="r")
        torch_loader = DataLoader(Blocks(tokens, args.context), args.batch, shuffle=True, drop_last=True)
        sources = {
            "gpt_lightning": endless(BlockLoader(tokens, args.context, args.batch, seed=0)),
            "nanoGPT's slices": sliced(tokens, args.context, args.batch),
            "torch DataLoader": endless(torch_loader),
        }

        if args.shards:
            shards = Tokens(np.array_split(tokens, args.shards))
            sources[f"{args.shards} shards"] = endless(BlockLoader(shards, args.context, args.batch, seed=0))

        def take(source: Iterator[Batch]) -> None:
            for _ in range(args.batches):
                next(source)

        seconds = take_turns({name: lambda s=s: take(s) for name, s in sources.items()}, args.rounds)
    print(f"{machine('cpu')}; {args.batches} batches of {args.batch} × {args.context}")
    print_table(seconds, args.batches, "batches", "torch DataLoader")


if __name__ == "__main__":
    with clear_errors():
        main()
