"""What a corpus is, for a person to look at before training on it.

    python -m gpt_lightning.data.describe --corpus my_text.txt --tokenizer gpt2

Prints the size of each split, the most frequent tokens, and how much of validation and test stands in the training text
word for word: a loss on such text says little.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.cli_errors import OneLineParser, clear_errors
from gpt_lightning.data.prepare import add_arguments, prepare_from
from gpt_lightning.data.tokenizer import token_byte_lengths
from gpt_lightning.data.tokens import Tokens
from gpt_lightning.interpret.labels import token_label

CHUNK_TOKENS = 1 << 22  # at a time: memory stays the same whatever the size of the corpus
FREQUENT = 10
SEQUENCE = 32  # tokens: shorter ones stand in any two texts of a language
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0 modulo 2^64


@dataclass
class Description:
    """Figures of a tokenised corpus, by split where they are dicts."""

    tokens: dict[str, int]
    bytes: dict[str, int]
    documents: dict[str, int] | None  # if it is known
    counts: np.ndarray  # (vocabulary,) int64, over all splits
    sequences: dict[str, int]  # of 32 tokens, not overlapping, in val and test …
    seen: dict[str, int]  # … and those of them that stand somewhere in train


def describe(splits: dict[str, Tokens], encoding: tiktoken.Encoding) -> Description:
    """Count what a tokenised corpus holds.

    Args:
        splits: Token ids of train, val and test.
        encoding: What they are ids of.
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
        found = {name: np.zeros(len(hashes), bool) for name, hashes in wanted.items()}
        for hashes in _hashes_of_all(splits["train"]):
            known = np.unique(hashes)
            for name in wanted:
                found[name] |= np.isin(wanted[name], known)
            bar.update(len(hashes))
    return Description(
        tokens={name: len(tokens) for name, tokens in splits.items()},
        bytes={name: int(counts[name] @ lengths) for name in splits},
        documents=None,
        counts=sum(counts.values()),
        sequences={name: len(hashes) for name, hashes in wanted.items()},
        seen={name: int(there.sum()) for name, there in found.items()},
    )


def sequence_hashes(tokens: np.ndarray, n: int, stride: int) -> np.ndarray:
    """A 64-bit number for each `n` tokens that begin at a multiple of `stride`, the same for the same tokens: uint64.

    A polynomial modulo 2^64 (Rabin & Karp 1987). Two different sequences share one by chance once in 10^19.
    """
    count = max(0, (len(tokens) - n) // stride + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(n):
        column = np.asarray(tokens[place : place + (count - 1) * stride + 1 : stride] if count else tokens[:0])
        # Mixed before it is summed, since small ids in a polynomial with 2^64 would cancel.
        mixed = (column.astype(np.uint64) + np.uint64(1)) * _BASE
        hashes = hashes * _BASE + (mixed ^ (mixed >> np.uint64(29)))
    return hashes


def table(found: Description, encoding: tiktoken.Encoding, title: str) -> str:
    """The figures, aligned."""
    total = sum(found.tokens.values())
    columns = f"{'split':<8}{'documents':>14}{'bytes':>18}{'tokens':>18}{'of all':>8}{'bytes per token':>18}"
    lines = [title, "", columns]
    documents = {name: f"{n:,}" for name, n in (found.documents or {}).items()}
    for name, n in found.tokens.items():
        per_token = f"{found.bytes[name] / n:.2f}" if n else "-"
        share, known = (n / total if total else 0), documents.get(name, "?")
        lines.append(f"{name:<8}{known:>14}{found.bytes[name]:>18,}{n:>18,}{share:>8.1%}{per_token:>18}")
    all_documents = f"{sum(found.documents.values()):,}" if found.documents else "?"
    lines.append(f"{'all':<8}{all_documents:>14}{sum(found.bytes.values()):>18,}{total:>18,}")
    used = int((found.counts > 0).sum())
    lines += ["", f"{used:,} of {encoding.n_vocab:,} token ids occur. The most frequent:"]
    for token in np.argsort(-found.counts, kind="stable")[: min(FREQUENT, used)].tolist():
        lines.append(f"  {token:>7}  {found.counts[token] / total:>6.2%}  {token_label(encoding, token)}")
    lines.append("")
    for name, n in found.sequences.items():
        share = f" ({found.seen[name] / n:.1%})" if n else ""
        lines.append(
            f"{found.seen[name]:,} of {n:,} sequences of {SEQUENCE} tokens in {name} stand in train, "
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
    found = describe(prepared.tokens, prepared.encoding)
    if prepared.counts:
        found.documents = {name: count["documents"] for name, count in prepared.counts.items()}
    print(table(found, prepared.encoding, f"corpus {args.corpus}, tokenizer {args.tokenizer}, in {prepared.place}"))


def _hashes_in_order(tokens: Tokens) -> np.ndarray:
    """Of the sequences that follow one another."""
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
