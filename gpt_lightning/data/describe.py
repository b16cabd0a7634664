"""Describes a corpus, to be looked at before training on it.

    python -m gpt_lightning.data.describe --corpus my_text.txt --tokenizer gpt2

Prints the size of each split, the most frequent tokens, and how much of validation and test occurs word for word in the
training text: the loss on such text says little.
"""

from dataclasses import dataclass

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.command_line import clear_errors
from gpt_lightning.data.prepare import corpus_parser, prepare
from gpt_lightning.data.token_label import token_label
from gpt_lightning.data.tokenizer import token_byte_lengths
from gpt_lightning.data.tokens.token_sequence import Tokens

CHUNK_TOKENS = 1 << 22  # in memory at a time, whatever the size of the corpus
FREQUENT = 10
SEQUENCE = 32  # tokens; shorter sequences are shared by any two texts in a language
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0 modulo 2^64


@dataclass
class Description:
    """Figures about a tokenised corpus; the dicts are by split."""

    tokens: dict[str, int]
    bytes: dict[str, int]
    counts: np.ndarray  # (vocabulary,) int64, over all splits
    sequences: dict[str, int]  # in val and test, of `SEQUENCE` tokens each, without overlap …
    seen: dict[str, int]  # … and how many of them occur anywhere in train


def describe(splits: dict[str, Tokens], encoding: tiktoken.Encoding) -> Description:
    """Counts tokens, bytes and repeated sequences of a tokenised corpus.

    Args:
        splits: Token ids by the names train, val and test.
        encoding: Their tokenizer.
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
        held_out = {name: _hashes_without_overlap(splits[name]) for name in ("val", "test")}
        seen = {name: np.zeros(len(hashes), bool) for name, hashes in held_out.items()}
        for start in range(0, len(splits["train"]), CHUNK_TOKENS):
            # Every sequence in train, wherever it begins: chunks overlap by one token less than a sequence has.
            hashes = sequence_hashes(splits["train"][start : start + CHUNK_TOKENS + SEQUENCE - 1], SEQUENCE, 1)
            known = np.unique(hashes)
            for name in held_out:
                seen[name] |= np.isin(held_out[name], known)
            bar.update(len(hashes))
    return Description(
        tokens={name: len(tokens) for name, tokens in splits.items()},
        bytes={name: int(counts[name] @ lengths) for name in splits},
        counts=sum(counts.values()),
        sequences={name: len(hashes) for name, hashes in held_out.items()},
        seen={name: int(flags.sum()) for name, flags in seen.items()},
    )


def sequence_hashes(tokens: np.ndarray, n: int, stride: int) -> np.ndarray:
    """A hash of each sequence of `n` tokens that begins at a multiple of `stride`.

    A polynomial modulo 2^64 (Rabin & Karp 1987). Different sequences have the same hash with a probability of 1e-19.

    Returns:
        (sequences,) uint64.
    """
    count = max(0, (len(tokens) - n) // stride + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(n):
        column = np.asarray(tokens[place : place + (count - 1) * stride + 1 : stride] if count else tokens[:0])
        # Mixed first, since small ids would cancel in a polynomial modulo 2^64.
        mixed = (column.astype(np.uint64) + np.uint64(1)) * _BASE
        hashes = hashes * _BASE + (mixed ^ (mixed >> np.uint64(29)))
    return hashes


def table(
    figures: Description, encoding: tiktoken.Encoding, title: str, documents: dict[str, int] | None = None
) -> str:
    """The figures in aligned columns, with the number of documents in each split if that is known."""
    total = sum(figures.tokens.values())
    columns = f"{'split':<8}{'documents':>14}{'bytes':>18}{'tokens':>18}{'of all':>8}{'bytes per token':>18}"
    lines = [title, "", columns]
    for name, n in figures.tokens.items():
        per_token = f"{figures.bytes[name] / n:.2f}" if n else "-"
        share, n_documents = (n / total if total else 0), f"{documents[name]:,}" if documents else "?"
        lines.append(f"{name:<8}{n_documents:>14}{figures.bytes[name]:>18,}{n:>18,}{share:>8.1%}{per_token:>18}")
    all_documents = f"{sum(documents.values()):,}" if documents else "?"
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
    """Tokenises a corpus unless that was done before, and prints its figures."""
    args = corpus_parser("describe", __doc__).parse_args()
    prepared = prepare(**vars(args))
    documents = prepared.counts and {name: count["documents"] for name, count in prepared.counts.items()}
    figures = describe(prepared.tokens, prepared.encoding)
    title = f"corpus {args.corpus}, tokenizer {args.tokenizer}, in {prepared.directory}"
    print(table(figures, prepared.encoding, title, documents))


def _hashes_without_overlap(tokens: Tokens) -> np.ndarray:
    chunk = max(1, CHUNK_TOKENS // SEQUENCE) * SEQUENCE
    parts = [sequence_hashes(tokens[i : i + chunk], SEQUENCE, SEQUENCE) for i in range(0, len(tokens), chunk)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


if __name__ == "__main__":
    with clear_errors():
        main()
