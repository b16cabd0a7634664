"""Writes the tokens of a corpus as shards: files of bounded size, one after another in each split.

When a shard is finished, all tokens so far are on the disk and recorded in progress.json. A killed process loses only
what it did since; the next one reads the text up to there without tokenising it again.
"""

import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes
from gpt_lightning.data.tokens.segments import CORPUS_CHANGED, Pack
from gpt_lightning.data.verified import read_json, write_json
from gpt_lightning.errors import UserError

SPLITS = ("train", "val", "test")
PROGRESS = "progress.json"
SHARD_BYTES = 1 << 28  # of text; with one token per byte, 2 or 4 times as much on the disk
_NO_COUNTS = {"tokens": 0, "bytes": 0, "documents": 0, "crc32": 0}


def write_shards(
    packs: Iterable[Pack], encoding: tiktoken.Encoding, dtype: np.dtype, directory: Path, bar: tqdm
) -> dict[str, Any]:
    """Tokenises the text into `<split>_<number>.bin` files, from where another process stopped.

    Args:
        packs: The text: for one directory always the same, in the same packs.
        encoding: If it has an end of text, that separates the documents of a split.
        dtype: The type of the numbers in the files.
        directory: An existing one, perhaps with what another process left.
        bar: Advances by bytes of text.

    Returns:
        For each split: tokens, bytes (of text), documents, crc32 (of the tokens) and shards, a list with the same of
        each shard and the name of its file.

    Raises:
        UserError: another process began with another text.
    """
    packs = iter(packs)
    progress = _read_progress(directory, dtype)
    text_crc32 = 0
    for pack in islice(packs, progress["packs"]):
        text_crc32 = _crc32_of(pack, text_crc32)
        bar.update(pack.size)
    if text_crc32 != progress["text_crc32"]:
        (directory / PROGRESS).unlink()
        raise UserError(CORPUS_CHANGED)
    splits, separated = progress["splits"], END_OF_TEXT in encoding.special_tokens_set
    with ExitStack() as stack:
        begun = [name for name in SPLITS if splits[name]["shards"]]
        files = {name: stack.enter_context(_last_shard(directory, splits[name], dtype)) for name in begun}
        for pack, tokens in _tokenise(packs, encoding):
            name = SPLITS[pack.split]
            split = splits[name]
            if separated and split["documents"] == 0:
                tokens = tokens[1:]  # no separator before the first document
            if not split["shards"] or split["shards"][-1]["bytes"] >= SHARD_BYTES:
                split["shards"].append({"file": _shard_name(name, len(split["shards"])), **_NO_COUNTS})
                files[name] = stack.enter_context(_last_shard(directory, split, dtype))
            data = tokens.astype(dtype).tobytes()
            files[name].write(data)
            for counts in (split, split["shards"][-1]):
                counts["tokens"] += len(tokens)
                counts["bytes"] += pack.size
                counts["documents"] += pack.documents
                counts["crc32"] = zlib.crc32(data, counts["crc32"])
            progress["packs"] += 1
            progress["text_crc32"] = _crc32_of(pack, progress["text_crc32"])
            if split["shards"][-1]["bytes"] >= SHARD_BYTES:
                _sync(files.values())  # before progress.json says so
                write_json(progress, directory / PROGRESS)
                files[name].close()
            bar.update(pack.size)
        _sync(files.values())
    return splits


def _tokenise(packs: Iterable[Pack], encoding: tiktoken.Encoding) -> Iterator[tuple[Pack, np.ndarray]]:
    """Tokenises on all cores, in order, with few packs in memory at a time.

    Threads suffice, since tiktoken works without the GIL.
    """
    threads = os.cpu_count() or 1
    pending = deque()
    with ThreadPoolExecutor(threads) as pool:
        for pack in packs:
            pending.append((pack, pool.submit(_tokens, pack, encoding)))
            if len(pending) > 2 * threads:
                first, tokens = pending.popleft()
                yield first, tokens.result()
        for pack, tokens in pending:
            yield pack, tokens.result()


def _tokens(pack: Pack, encoding: tiktoken.Encoding) -> np.ndarray:
    separator = [np.array([encoding.eot_token], np.uint32)] if END_OF_TEXT in encoding.special_tokens_set else []
    parts = []
    for begins_document, text in pack.pieces:
        if begins_document:
            parts += separator
        parts.append(encode_bytes(encoding, text))
    return np.concatenate(parts)


def _crc32_of(pack: Pack, crc32: int) -> int:
    return zlib.crc32(b"".join(text for _, text in pack.pieces), crc32)


def _shard_name(split: str, number: int) -> str:
    return f"{split}_{number:06d}.bin"


def _read_progress(directory: Path, dtype: np.dtype) -> dict[str, Any]:
    """The progress of another process, if its shards are there; otherwise none."""
    progress = read_json(directory / PROGRESS)
    # JSON that is not ours raises any of these.
    with suppress(OSError, KeyError, TypeError, AttributeError):
        splits = progress["splits"]
        shards = [shard for split in splits.values() for shard in split["shards"]]
        names = [_shard_name(name, number) for name in SPLITS for number in range(len(splits[name]["shards"]))]
        counts = [progress["packs"], progress["text_crc32"]]
        counts += [count[key] for count in [*splits.values(), *shards] for key in _NO_COUNTS]
        if (
            all(type(count) is int and count >= 0 for count in counts)
            and (list(splits), [shard["file"] for shard in shards]) == (list(SPLITS), names)
            and all((directory / shard["file"]).stat().st_size >= shard["tokens"] * dtype.itemsize for shard in shards)
        ):
            return progress
    return {"packs": 0, "text_crc32": 0, "splits": {name: {**_NO_COUNTS, "shards": []} for name in SPLITS}}


def _sync(files: Iterable[BinaryIO]) -> None:
    for file in files:
        if not file.closed:
            file.flush()
            os.fsync(file.fileno())


def _last_shard(directory: Path, split: dict[str, Any], dtype: np.dtype) -> BinaryIO:
    """The last shard of a split, open for appending to the tokens that progress.json counts in it."""
    shard = split["shards"][-1]
    path = directory / shard["file"]
    path.touch()
    file = path.open("r+b")
    file.truncate(shard["tokens"] * dtype.itemsize)
    file.seek(0, os.SEEK_END)
    return file
