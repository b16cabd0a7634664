"""Token files: a corpus is tokenised once into raw arrays on the disk, which are memory-mapped from then on.

`<data_dir>/tokens/<corpus>-<tokenizer>-<hash>/` holds train_000000.bin, … val_000000.bin, … test_000000.bin, …
(little-endian uint16 or uint32), index.json, and the ranks of the tokenizer unless it is a published one. The directory
appears in one step: if it exists, it is complete.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.data.text import hf
from gpt_lightning.data.text.blocks import BLOCK_BYTES, Fingerprint
from gpt_lightning.data.text.corpora import Corpus, read_corpus
from gpt_lightning.data.text.identity import DIGESTS, TextIdentity, identify
from gpt_lightning.data.tokenizer import PUBLISHED, tokenizer_state
from gpt_lightning.data.tokens.segments import CORPUS_CHANGED, SplitBlock, by_bytes, packs, segments
from gpt_lightning.data.tokens.shards import PROGRESS, SPLITS, write_shards
from gpt_lightning.data.tokens.token_sequence import Tokens, map_ids
from gpt_lightning.data.verified import read_json, remember, stamp_of, write_json
from gpt_lightning.errors import UserError
from gpt_lightning.make_once import make_once
from gpt_lightning.notices import say

INDEX = "index.json"
CHECKED = "checked.json"
RANKS = "ranks.tiktoken"
_DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
# Goes into the directory's name: raise it when the same text and tokenizer would be written differently.
FORMAT_VERSION = 3


def prepare_token_files(corpus: Corpus, encoding: tiktoken.Encoding, data_dir: Path) -> Path:
    """Tokenises the corpus unless that was done before. Of several processes one does it and the others wait.

    If one was killed, the next continues after the last finished shard.

    Returns:
        The directory, for `open_token_files`.

    Raises:
        UserError: the corpus is unreadable, empty, changed or too small, or `data_dir` cannot be written.
    """
    home = data_dir / "tokens"
    try:
        home.mkdir(parents=True, exist_ok=True)
        text = identify(corpus, home)
        identity = [FORMAT_VERSION, text.digest, corpus.percents, tokenizer_digest(encoding)]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        directory = home / f"{corpus.name}-{encoding.name}-{key}"
        if text.changed and not directory.exists():
            say(f"Corpus {corpus.name} has changed since it was tokenised: tokenising it again.")
        make_once(directory, lambda work: _write_or_clean(corpus, encoding, text, work), resumable=True)
        return directory
    except UserError:
        # A wrong entry in this cache may be the reason: without it, starting again helps.
        (home / DIGESTS).unlink(missing_ok=True)
        raise
    except OSError as error:
        raise UserError(f"{home} cannot be written ({error}): make room or choose another --data.data_dir.") from error


def open_token_files(directory: Path) -> dict[str, Tokens]:
    """Maps the splits in a directory of `prepare_token_files` into memory, after verifying their checksums.

    That is not repeated while the files' sizes and times stay the same, so that large files open as fast as small ones.

    Returns:
        Tokens by the names train, val and test.

    Raises:
        UserError: a file is missing, damaged, or not as long as the index says.
    """
    again = f"delete the directory {directory} and start again, which tokenises the corpus anew."
    try:
        index = read_index(directory)
        dtype, splits, _ = _DTYPES[index["dtype"]], index["splits"], index["corpus"]
        paths = {split: [directory / Path(shard["file"]).name for shard in splits[split]["shards"]] for split in SPLITS}
        for split in SPLITS:
            for path, shard in zip(paths[split], splits[split]["shards"], strict=True):
                size, expected = path.stat().st_size, shard["tokens"] * dtype.itemsize
                if size != expected:
                    than = "shorter" if size < expected else "longer"
                    raise UserError(f"{path} is {than} than its index says: {again}")
        stamps = _stamps(directory, paths)
        if read_json(directory / CHECKED) != stamps:
            for split in SPLITS:
                _check(directory, paths[split], splits[split], again)
            remember(stamps, directory / CHECKED)
        arrays = {split: [map_ids(path, dtype) for path in paths[split]] for split in SPLITS}
        return {split: Tokens(arrays[split] or [np.empty(0, dtype)]) for split in SPLITS}
    # An index that is not JSON, or not ours, raises any of these.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{directory} is incomplete or damaged ({type(error).__name__}: {error}): {again}") from error


def read_index(directory: Path) -> dict[str, Any]:
    """The content of index.json: what was tokenised and how, and for each split tokens, bytes, documents and shards."""
    return json.loads((directory / INDEX).read_text())


def tokenizer_digest(encoding: tiktoken.Encoding) -> str:
    """A hash of everything that decides which tokens a text becomes."""
    state = tokenizer_state(encoding)
    parts = json.dumps([state["pat_str"], state["special_tokens"]]).encode() + state["ranks"].numpy().tobytes()
    return hashlib.sha256(parts).hexdigest()


def _check(directory: Path, paths: list[Path], split: dict[str, Any], again: str) -> None:
    """Compares the checksums of a split and its shards with those in the index."""
    split_crc = 0
    for path, shard in zip(paths, split["shards"], strict=True):
        crc, size = 0, path.stat().st_size
        with (
            path.open("rb") as file,
            tqdm(total=size, desc=f"checking {path}", unit="B", unit_scale=True, delay=2) as bar,
        ):
            while block := file.read(BLOCK_BYTES):
                crc, split_crc = zlib.crc32(block, crc), zlib.crc32(block, split_crc)
                bar.update(len(block))
        if crc != shard["crc32"]:
            raise UserError(f"{path} is damaged, its checksum is not the one in its index: {again}")
    if (split_crc, sum(shard["tokens"] for shard in split["shards"])) != (split["crc32"], split["tokens"]):
        raise UserError(f"{directory / INDEX} is damaged, its shards do not make up their split: {again}")


def _stamps(directory: Path, paths: dict[str, list[Path]]) -> dict[str, list[int]]:
    return {path.name: stamp_of(path) for path in (directory / INDEX, *chain(*paths.values()))}


def _write_or_clean(corpus: Corpus, encoding: tiktoken.Encoding, text: TextIdentity, directory: Path) -> None:
    """Writes the files; after an error, leaves the directory only if another process can continue from it."""
    try:
        directory.mkdir(exist_ok=True)
        _write(corpus, encoding, text, directory)
    except BaseException as error:
        if (isinstance(error, UserError) and corpus.dataset is None) or not (directory / PROGRESS).exists():
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _write(corpus: Corpus, encoding: tiktoken.Encoding, text: TextIdentity, directory: Path) -> None:
    dtype = _DTYPES["uint16" if encoding.n_vocab <= 1 << 16 else "uint32"]
    seen = Fingerprint(corpus.hash_algorithm)
    with tqdm(total=text.size, desc=f"tokenising {corpus.name}", unit="B", unit_scale=True, delay=2) as bar:
        splits = write_shards(packs(segments(_split_blocks(corpus, text, seen))), encoding, dtype, directory, bar)
    if corpus.dataset is None and seen.digest != text.digest:
        raise UserError(CORPUS_CHANGED)
    percents = corpus.percents or ()
    if len(percents) < len(SPLITS) and not splits["test"]["tokens"]:
        splits["test"] = splits["val"]
    meant_empty = {split for split, percent in zip(SPLITS, percents, strict=False) if percent == 0}
    for split, count in splits.items():
        if count["tokens"] < 2 and split not in meant_empty:  # one token to read, one to predict
            size = sum(count["bytes"] for count in splits.values())
            raise UserError(
                f"Corpus {corpus.name} ({size} bytes) is too small: its {split} split has nothing to predict. "
                "Add text, or give that split a larger share with --data.percents."
            )
    if encoding.name != "bytes" and encoding.name not in PUBLISHED:
        (directory / RANKS).write_bytes(tokenizer_state(encoding)["ranks"].numpy().tobytes())
    index = {
        "corpus": corpus.name,
        "source": corpus.source,
        "tokenizer": encoding.name,
        "tokenizer_digest": tokenizer_digest(encoding),
        "vocabulary": encoding.n_vocab,
        "dtype": dtype.name,
        "splits": splits,
    }
    write_json(index, directory / INDEX)
    paths = {split: [directory / shard["file"] for shard in splits[split]["shards"]] for split in SPLITS}
    remember(_stamps(directory, paths), directory / CHECKED)
    (directory / PROGRESS).unlink(missing_ok=True)


def _split_blocks(corpus: Corpus, text: TextIdentity, seen: Fingerprint) -> Iterator[SplitBlock]:
    if corpus.dataset is not None:
        return hf.read_dataset(corpus.dataset, corpus.text_key, corpus.percents, corpus.max_bytes)
    # The n-th split ends at the sum of the first n percentages of the bytes.
    ends = [text.size * percent // 100 for percent in accumulate(corpus.percents)]
    return by_bytes(seen.reading(read_corpus(corpus)), ends)
