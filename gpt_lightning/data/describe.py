"""What a corpus is, for a person to look at before training on it.

    python -m gpt_lightning.data.describe --corpus my_text.txt --tokenizer gpt2

Prints the size of each split, the most frequent tokens, and how much of validation and test the training text has word
for word: a loss on such text says little.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.command_line import OneLineParser, clear_errors
from gpt_lightning.data.prepare import add_arguments, prepare_from
from gpt_lightning.data.token_label import token_label
from gpt_lightning.data.tokenizer import token_byte_lengths
from gpt_lightning.data.tokens.token_sequence import Tokens

CHUNK_TOKENS = 1 << 22  # in memory at a time, whatever the size of the corpus
FREQUENT = 10
SEQUENCE = 32  # tokens: any two texts of a language share shorter sequences
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0 modulo 2^64


@dataclass
class Description:
    """Figures of a tokenised corpus, by split where they are dicts."""

    tokens: dict[str, int]
    bytes: dict[str, int]
    documents: dict[str, int] | None  # None if not known
    counts: np.ndarray  # (vocabulary,) int64, over all splits
    sequences: dict[str, int]  # of `SEQUENCE` tokens, not overlapping, in val and test …
    seen: dict[str, int]  # … and how many of them occur anywhere in train


def describe(
    splits: dict[str, Tokens], encoding: tiktoken.Encoding, documents: dict[str, int] | None = None
) -> Description:
    """Count what a tokenised corpus holds.

    Args:
        splits: Token ids by the names train, val and test.
        encoding: Their tokenizer.
        documents: How many documents each split has, if that is known.
    """
    lengths = token_byte_lengths(encoding).numpy()
    steps = sum(len(tokens) for tokens in splits.values()) + len(splits["train"])
    with tqdm(total=steps, unit="token", unit_scale=True, desc="looking at the corpus", delay=1, leave=False) as bar:
        counts = {}
        for name, tokens in splits.items():
            counts[name] = np.zeros(encoding.n_vocab, np.int64)
            for start in range(0, len(tokens), CHUNK_TOKENS):
                chunk = tokens[start : start + CHUNK_TOKENS]
                counts[name] += np.bincount(chunk, minlength=encoding.n_vocab)
                bar.update(len(chunk))
        wanted = {name: _hashes_in_order(splits[name]) for name in ("val", "test")}
        seen = {name: np.zeros(len(hashes), bool) for name, hashes in wanted.items()}
        for hashes in _hashes_of_all(splits["train"]):
            known = np.unique(hashes)
            for name in wanted:
                seen[name] |= np.isin(wanted[name], known)
            bar.update(len(hashes))
    return Description(
        tokens={name: len(tokens) for name, tokens in splits.items()},
        bytes={name: int(counts[name] @ lengths) for name in splits},
        documents=documents,
        counts=sum(counts.values()),
        sequences={name: len(hashes) for name, hashes in wanted.items()},
        seen={name: int(flags.sum()) for name, flags in seen.items()},
    )


def sequence_hashes(tokens: np.ndarray, n: int, stride: int) -> np.ndarray:
    """A hash of each sequence of `n` tokens that begins at a multiple of `stride`, equal for equal sequences.

    A polynomial modulo 2^64 (Rabin & Karp 1987). Two different sequences have the same by chance once in 10^19.

    Returns:
        (sequences,) uint64.
    """
    count = max(0, (len(tokens) - n) // stride + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(n):
        column = np.asarray(tokens[place : place + (count - 1) * stride + 1 : stride] if count else tokens[:0])
        # Mixed before it is summed, since small ids in a polynomial with 2^64 would cancel.
        mixed = (column.astype(np.uint64) + np.uint64(1)) * _BASE
        hashes = hashes * _BASE + (mixed ^ (mixed >> np.uint64(29)))
    return hashes


def table(figures: Description, encoding: tiktoken.Encoding, title: str) -> str:
    """The figures, aligned."""
    total = sum(figures.tokens.values())
    columns = f"{'split':<8}{'documents':>14}{'bytes':>18}{'tokens':>18}{'of all':>8}{'bytes per token':>18}"
    lines = [title, "", columns]
    documents = {name: f"{n:,}" for name, n in (figures.documents or {}).items()}
    for name, n in figures.tokens.items():
        per_token = f"{figures.bytes[name] / n:.2f}" if n else "-"
        share, known = (n / total if total else 0), documents.get(name, "?")
        lines.append(f"{name:<8}{known:>14}{figures.bytes[name]:>18,}{n:>18,}{share:>8.1%}{per_token:>18}")
    all_documents = f"{sum(figures.documents.values()):,}" if figures.documents else "?"
    lines.append(f"{'all':<8}{all_documents:>14}{sum(figures.bytes.values()):>18,}{total:>18,}")
    used = int((figures.counts > 0).sum())
    lines += ["", f"{used:,} of {encoding.n_vocab:,} token ids occur. The most frequent:"]
    for token in np.argsort(-figures.counts, kind="stable")[: min(FREQUENT, used)].tolist():
        lines.append(f"  {token:>7}  {figures.counts[token] / total:>6.2%}  {token_label(encoding, token)}")
    lines.append("")
    for name, n in figures.sequences.items():
        share = f" ({figures.seen[name] / n:.1%})" if n else ""
        lines.append(
            f"{figures.seen[name]:,} of {n:,} sequences of {SEQUENCE} tokens in {name} occur in train, "
            f"word for word{share}."
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, tokenise unless that was done, count, print."""
    parser = OneLineParser(
        prog="python -m gpt_lightning.data.describe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args()
    prepared = prepare_from(args)
    documents = prepared.counts and {name: count["documents"] for name, count in prepared.counts.items()}
    description = describe(prepared.tokens, prepared.encoding, documents)
    print(
        table(description, prepared.encoding, f"corpus {args.corpus}, tokenizer {args.tokenizer}, in {prepared.place}")
    )


def _hashes_in_order(tokens: Tokens) -> np.ndarray:
    """Of sequences that follow one another without overlap."""
    chunk = max(1, CHUNK_TOKENS // SEQUENCE) * SEQUENCE
    parts = [sequence_hashes(tokens[i : i + chunk], SEQUENCE, SEQUENCE) for i in range(0, len(tokens), chunk)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _hashes_of_all(tokens: Tokens) -> Iterator[np.ndarray]:
    """Of every sequence, wherever it begins, in parts that overlap by one less than a sequence."""
    for start in range(0, len(tokens), CHUNK_TOKENS):
        yield sequence_hashes(tokens[start : start + CHUNK_TOKENS + SEQUENCE - 1], SEQUENCE, 1)


if __name__ == "__main__":
    with clear_errors():
        main()
