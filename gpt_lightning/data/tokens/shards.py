"""Writes the tokens of a corpus as shards: files of a bounded size, one after the other in each split.

Whenever a shard is finished, all tokens so far are on the disk and noted in progress.json: a process that is killed
loses what it did since, and the next one reads that far in the text but tokenises nothing again.
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
SHARD_BYTES = 1 << 28  # of text; if every byte is a token, that is 2 or 4 times as many on the disk
_NOTHING = {"tokens": 0, "bytes": 0, "documents": 0, "crc32": 0}


def write_shards(
    packs: Iterable[Pack], encoding: tiktoken.Encoding, dtype: np.dtype, directory: Path, bar: tqdm
) -> dict[str, Any]:
    """Tokenises the text into `<split>_<number>.bin` files, going on where another process stopped.

    Args:
        packs: The text; for one directory always the same text in the same packs.
        encoding: Its end of text, if it has one, separates the documents of a split.
        dtype: Of the numbers in the files.
        directory: It exists; it may hold what another call left.
        bar: It is advanced by the bytes of text.

    Returns:
        By split: tokens, bytes (of text), documents and crc32 (of the tokens), and shards, which has the same of each
        shard with the name of its file.

    Raises:
        UserError: the text is not the one with which another process began.
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
    splits, mark = progress["splits"], END_OF_TEXT in encoding.special_tokens_set
    with ExitStack() as stack:
        begun = [name for name in SPLITS if splits[name]["shards"]]
        files = {name: stack.enter_context(_go_on(directory, splits[name], dtype)) for name in begun}
        for pack, tokens in _tokenise(packs, encoding):
            name = SPLITS[pack.split]
            split = splits[name]
            if mark and split["documents"] == 0:
                tokens = tokens[1:]  # what separates has nothing before it
            if not split["shards"] or split["shards"][-1]["bytes"] >= SHARD_BYTES:
                split["shards"].append({"file": _shard_name(name, len(split["shards"])), **_NOTHING})
                files[name] = stack.enter_context(_go_on(directory, split, dtype))
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
                _note(progress, files.values(), directory)
                files[name].close()
            bar.update(pack.size)
        for file in files.values():
            _to_disk(file)
    return splits


def has_finished_shards(directory: Path) -> bool:
    """Whether another process left shards here to go on from."""
    return (directory / PROGRESS).exists()


def _tokenise(packs: Iterable[Pack], encoding: tiktoken.Encoding) -> Iterator[tuple[Pack, np.ndarray]]:
    """Tokenises with all cores, in order.

    Threads suffice, since tiktoken works without the GIL. Only a few packs are under way, so memory stays bounded.
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
    mark = [encoding.eot_token] if END_OF_TEXT in encoding.special_tokens_set else []
    parts = []
    for begins, text in pack.pieces:
        if begins and mark:
            parts.append(np.array(mark, np.uint32))
        parts.append(encode_bytes(encoding, text))
    return np.concatenate(parts)


def _crc32_of(pack: Pack, crc32: int) -> int:
    for _, text in pack.pieces:
        crc32 = zlib.crc32(text, crc32)
    return crc32


def _shard_name(split: str, number: int) -> str:
    return f"{split}_{number:06d}.bin"


def _read_progress(directory: Path, dtype: np.dtype) -> dict[str, Any]:
    """What another process noted, if its shards are there; else that nothing is done yet."""
    progress = read_json(directory / PROGRESS)
    # JSON that is not ours raises any of these.
    with suppress(OSError, KeyError, TypeError, AttributeError):
        splits = progress["splits"]
        shards = [shard for split in splits.values() for shard in split["shards"]]
        names = [_shard_name(name, number) for name in SPLITS for number in range(len(splits[name]["shards"]))]
        counts = [progress["packs"], progress["text_crc32"]]
        counts += [count[key] for count in [*splits.values(), *shards] for key in _NOTHING]
        if (
            all(type(count) is int and count >= 0 for count in counts)
            and (list(splits), [shard["file"] for shard in shards]) == (list(SPLITS), names)
            and all((directory / shard["file"]).stat().st_size >= shard["tokens"] * dtype.itemsize for shard in shards)
        ):
            return progress
    return {"packs": 0, "text_crc32": 0, "splits": {name: {**_NOTHING, "shards": []} for name in SPLITS}}


def _note(progress: dict[str, Any], files: Iterable[BinaryIO], directory: Path) -> None:
    for file in files:
        _to_disk(file)  # before the note that says so
    write_json(progress, directory / PROGRESS)


def _to_disk(file: BinaryIO) -> None:
    if not file.closed:
        file.flush()
        os.fsync(file.fileno())


def _go_on(directory: Path, split: dict[str, Any], dtype: np.dtype) -> BinaryIO:
    """The last shard of a split, open to append to the tokens that are noted of it."""
    shard = split["shards"][-1]
    path = directory / shard["file"]
    path.touch()
    file = path.open("r+b")
    file.truncate(shard["tokens"] * dtype.itemsize)
    file.seek(0, os.SEEK_END)
    return file
