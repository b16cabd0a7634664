"""Writes the tokens of a corpus as shards: files of a bounded size, a few at a time and one after the other.

Whenever one is finished, what there is so far is on the disk and noted in progress.json: a process that is killed loses
what it did since, and the next one reads that far in the text but tokenises nothing again.
"""

import json
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.data.segments import CORPUS_CHANGED, Pack
from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file

SPLITS = ("train", "val", "test")
PROGRESS = "progress.json"
SHARD_BYTES = 1 << 28  # of text; twice as many on the disk at most
_NOTHING = {"tokens": 0, "bytes": 0, "documents": 0, "crc32": 0}


def write_shards(
    packs: Iterable[Pack], encoding: tiktoken.Encoding, dtype: np.dtype, directory: Path, bar: tqdm
) -> dict[str, Any]:
    """Tokenises the text into `<split>_<number>.bin` files, going on where another process stopped.

    Args:
        packs: The text; the same, in the same packs, for one directory.
        encoding: Documents of a split are separated by its end of text, if it has one.
        dtype: Of the numbers in the files.
        directory: It exists; it may hold what another call has left.
        bar: Told of the bytes of text.

    Returns:
        By split: tokens, bytes (of text), documents, crc32 (of the tokens), and the same with the file's name of each
        of its shards.

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
                split["shards"].append({"file": f"{name}_{len(split['shards']):06d}.bin", **_NOTHING})
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
    """Whether another process can go on here."""
    return (directory / PROGRESS).exists()


def _tokenise(packs: Iterable[Pack], encoding: tiktoken.Encoding) -> Iterator[tuple[Pack, np.ndarray]]:
    """Tokenises with all cores, in order.

    Threads do, since tiktoken works without the GIL. Only a few packs are under way, so memory stays bounded.
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


def _read_progress(directory: Path, dtype: np.dtype) -> dict[str, Any]:
    try:
        progress = json.loads((directory / PROGRESS).read_text())
        shards = [shard for split in progress["splits"].values() for shard in split["shards"]]
        if all((directory / shard["file"]).stat().st_size >= shard["tokens"] * dtype.itemsize for shard in shards):
            return progress
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"packs": 0, "text_crc32": 0, "splits": {name: {**_NOTHING, "shards": []} for name in SPLITS}}


def _note(progress: dict[str, Any], files: Iterable[BinaryIO], directory: Path) -> None:
    for file in files:
        _to_disk(file)  # before the note that says so
    with atomic_file(directory / PROGRESS) as file:
        file.write(json.dumps(progress, indent=2).encode())


def _to_disk(file: BinaryIO) -> None:
    if not file.closed:
        file.flush()
        os.fsync(file.fileno())


def _go_on(directory: Path, split: dict[str, Any], dtype: np.dtype) -> BinaryIO:
    """The last shard of a split, to write to after what is noted of it."""
    shard = split["shards"][-1]
    path = directory / shard["file"]
    path.touch()
    file = path.open("r+b")
    file.truncate(shard["tokens"] * dtype.itemsize)
    file.seek(0, os.SEEK_END)
    return file
