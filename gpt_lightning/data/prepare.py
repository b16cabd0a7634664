"""From the name of a corpus to its tokens: finds the text, learns a tokenizer if need be, tokenises, opens.

    python -m gpt_lightning.data.prepare --corpus hf:HuggingFaceFW/fineweb-edu --tokenizer gpt2 --max_bytes 1e9

Training does the same when it begins; this is for a machine without a GPU, or for the night before. If it is killed,
the same command continues where it stopped.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import tiktoken

from gpt_lightning.command_line import OneLineParser, clear_errors
from gpt_lightning.data.text import hf
from gpt_lightning.data.text.corpora import Corpus, find_corpus, read_corpus
from gpt_lightning.data.text.identity import identify
from gpt_lightning.data.tokenizer import bpe_size, load_tokenizer
from gpt_lightning.data.tokens.bins import find_bins, open_bins
from gpt_lightning.data.tokens.bpe import SAMPLE_BYTES, sample, train_ranks, write_ranks
from gpt_lightning.data.tokens.segments import by_bytes, segments
from gpt_lightning.data.tokens.token_files import (
    INDEX,
    RANKS,
    open_token_files,
    prepare_token_files,
    read_index,
    tokenizer_digest,
)
from gpt_lightning.data.tokens.token_sequence import Tokens
from gpt_lightning.errors import UserError
from gpt_lightning.make_once import make_once
from gpt_lightning.notices import say
from gpt_lightning.ranges import PositiveInt


@dataclass(frozen=True)
class Prepared:
    """A corpus that can be trained on. Splits are named train, val and test."""

    encoding: tiktoken.Encoding
    tokens: dict[str, Tokens]  # by split
    directory: Path  # of the token files
    identity: dict[str, Any]  # of the training text: corpus (its name), tokens and crc32
    counts: dict[str, dict[str, int]] | None  # by split: documents, bytes of text and more; None if unknown


def prepare(
    corpus: str,
    tokenizer: str,
    data_dir: Path | str,
    text_key: str = "text",
    max_bytes: int | None = None,
    percents: Sequence[int] | None = None,
    learnt: tiktoken.Encoding | None = None,
) -> Prepared:
    """Tokenises a corpus unless that was done before, and maps its tokens into memory.

    The arguments are those of `TextDataModule`. If `learnt` has the size that bpe:<vocabulary size> asks for, it is
    the tokenizer meant.

    Raises:
        UserError: the corpus, the tokenizer or `data_dir` cannot be used.
    """
    if percents is not None and (problem := problem_of_percents(percents)):
        raise UserError(f"{problem}.")
    data_dir = Path(os.path.expanduser(data_dir))
    if holds_tokens(corpus):
        if percents is not None or max_bytes is not None:
            raise UserError(f"{corpus} holds tokens that have their splits: leave out percents and max_bytes.")
        if directory := _own_directory(corpus):
            return _open(directory, _tokenizer_of(directory, tokenizer))
        bins, encoding = find_bins(corpus), load_tokenizer(tokenizer)
        tokens, identity = open_bins(bins, encoding.n_vocab, data_dir / "tokens")
        return Prepared(encoding, tokens, bins["train"][0].parent, identity, None)
    text = find_corpus(corpus, data_dir, text_key, max_bytes)
    if percents is not None:
        text = replace(text, percents=tuple(percents))
    if (size := bpe_size(tokenizer)) is None:
        encoding = load_tokenizer(tokenizer)
    elif learnt is not None and learnt.n_vocab == size:
        encoding = learnt
    else:
        encoding = _learn(text, size, data_dir / "tokens")
    return _open(prepare_token_files(text, encoding, data_dir), encoding)


def holds_tokens(corpus: str) -> bool:
    """Whether a corpus is token files, ours or another project's, rather than text."""
    return _own_directory(corpus) is not None or find_bins(corpus) is not None


def problem_of_percents(percents: Sequence[int]) -> str | None:
    """Why these cannot be the shares of the splits, as a clause; None if they can."""
    if len(percents) == 3 and all(type(p) is int and p >= 0 for p in percents) and sum(percents) == 100:
        return None
    return (
        f"data.percents is {list(percents)} but must be three whole numbers of at least 0 that sum to 100: the shares "
        "of train, val and test"
    )


def _open(directory: Path, encoding: tiktoken.Encoding) -> Prepared:
    tokens, index = open_token_files(directory), read_index(directory)
    train = index["splits"]["train"]
    identity = {"corpus": index["corpus"], "tokens": train["tokens"], "crc32": train["crc32"]}
    return Prepared(encoding, tokens, directory, identity, index["splits"])


def _own_directory(corpus: str) -> Path | None:
    """The directory of token files of ours that a corpus is; None if it is something else."""
    directory = Path(os.path.expanduser(corpus))
    # A directory of text may have an index.json, too.
    return directory if (directory / INDEX).is_file() and any(directory.glob("*_000000.bin")) else None


def _tokenizer_of(directory: Path, tokenizer: str) -> tiktoken.Encoding:
    """The tokenizer that wrote the token files in a directory, provided that it is the one asked for."""
    try:
        index = read_index(directory)
        name, digest, size = index["tokenizer"], index["tokenizer_digest"], index["vocabulary"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{directory / INDEX} is no index of token files ({type(error).__name__}: {error}): make them again."
        ) from error
    ranks = directory / RANKS
    encoding = load_tokenizer(str(ranks) if ranks.is_file() and bpe_size(tokenizer) == size else tokenizer)
    if tokenizer_digest(encoding) != digest:
        fix = ranks if ranks.is_file() else name
        raise UserError(
            f"The tokens in {directory} are not those of tokenizer {tokenizer!r}: set --data.tokenizer {fix}."
        )
    return encoding


def _learn(corpus: Corpus, size: int, home: Path) -> tiktoken.Encoding:
    """A tokenizer learnt from the training text of a corpus, unless that was done before."""
    text = identify(corpus, home)
    key = hashlib.sha256(json.dumps([text.digest, corpus.percents, size, SAMPLE_BYTES]).encode()).hexdigest()[:16]
    path = home / f"bpe-{key}" / f"bpe{size}.tiktoken"
    try:
        make_once(path, lambda file: write_ranks(train_ranks(_training_text(corpus, text.size), size), file))
    except OSError as error:
        raise UserError(f"{home} cannot be written ({error}): make room or choose another --data.data_dir.") from error
    finally:
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # if nothing was learnt
    return load_tokenizer(str(path))


def _training_text(corpus: Corpus, size: int | None) -> Iterator[bytes]:
    """Pieces of the training split, spread evenly if it is large; the first ones of a dataset."""
    if corpus.dataset is not None:
        max_bytes = min(SAMPLE_BYTES, corpus.max_bytes or SAMPLE_BYTES)
        documents = hf.read_dataset(corpus.dataset, corpus.text_key, corpus.percents, max_bytes)
        yield from (text for split, _, text in documents if split == 0)
        return
    ends = [size * percent // 100 for percent in accumulate(corpus.percents)]
    pieces = (text for split, _, text in segments(by_bytes(read_corpus(corpus), ends)) if split == 0)
    yield from sample(pieces, ends[0], SAMPLE_BYTES)


def corpus_parser(module: str, description: str) -> OneLineParser:
    """The parser of a command about a corpus; its options are the parameters of `prepare`."""
    parser = OneLineParser(
        prog=f"python -m gpt_lightning.data.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", default="pydoc", help="as for train.py's --data.corpus (default: pydoc)")
    parser.add_argument("--tokenizer", default="bytes", help="as for --data.tokenizer (default: bytes)")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="directory of token files (default: data)")
    parser.add_argument("--text_key", default="text", help="where the text of a record is (default: text)")
    parser.add_argument("--max_bytes", type=PositiveInt, help="read only so much of the text, such as 1e9")
    parser.add_argument("--percents", type=int, nargs=3, help="shares of train, val and test (default: 90 5 5)")
    return parser


def main() -> None:
    """Prepares a corpus, and prints where the tokens are and how to train on them."""
    parser = corpus_parser("prepare", __doc__)
    args = parser.parse_args()
    try:
        prepared = prepare(**vars(args))
    except KeyboardInterrupt:
        say("The same command goes on after the last finished shard.")
        raise
    lines = [f"{name:<8}{len(tokens):>18,} tokens" for name, tokens in prepared.tokens.items()]
    command = ["python", "train.py", "fit"]
    for name, value in vars(args).items():
        if value != parser.get_default(name):
            command += [f"--data.{name}", str(value)]
    print("\n".join([f"In {prepared.directory}:", *lines, f"Train on it with  {shlex.join(command)}"]))


if __name__ == "__main__":
    with clear_errors():
        main()
