"""Token files: a corpus tokenised once, one raw array per split on disk, memory-mapped from then on.

`<data_dir>/tokens/<corpus>-<tokenizer>-<hash>/` holds train.bin, val.bin, test.bin (little-endian uint16 or uint32) and
index.json. It appears in one step, so a directory that is there is complete, whoever made it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.data.corpora import Corpus, read_corpus
from gpt_lightning.data.download import make_once, say
from gpt_lightning.data.readers import BLOCK_BYTES, Fingerprint, fingerprint
from gpt_lightning.data.segments import CORPUS_CHANGED, segments
from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes, tokenizer_state
from gpt_lightning.errors import UserError

SPLITS = ("train", "val", "test")
INDEX = "index.json"
_DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
# Part of the directory's name: raise it when the same text and tokenizer would be written differently.
FORMAT_VERSION = 2


def prepare_token_files(corpus: Corpus, encoding: tiktoken.Encoding, data_dir: Path) -> Path:
    """Tokenises the corpus unless that was done before; of several processes one does it and the others wait.

    Returns:
        The directory, for `open_token_files`.

    Raises:
        UserError: an unreadable, empty, changed or too small corpus, or a `data_dir` that cannot be written.
    """
    home = data_dir / "tokens"
    cache = home / "digests.json"
    try:
        home.mkdir(parents=True, exist_ok=True)
        digest, size, changed = _digest(corpus, cache)
        state = tokenizer_state(encoding)
        identity = [FORMAT_VERSION, digest, corpus.percents, state["pat_str"], state["special_tokens"]]
        key = hashlib.sha256(json.dumps(identity).encode() + state["ranks"].numpy().tobytes()).hexdigest()[:16]
        directory = home / f"{corpus.name}-{encoding.name}-{key}"
        if changed and not directory.exists():
            say(f"Corpus {corpus.name} has changed since it was tokenised: tokenising it again.")
        make_once(directory, lambda work: _write(corpus, encoding, digest, size, work))
        return directory
    except UserError:
        # If it is because what was remembered of the text is wrong, then starting again helps.
        cache.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise UserError(f"{home} cannot be written ({error}): make room or choose another --data.data_dir") from error


def open_token_files(directory: Path) -> dict[str, np.memmap]:
    """Maps the splits of a directory of `prepare_token_files` into memory, once their checksums have been verified.

    Returns:
        (tokens,) read-only arrays by the names train, val and test.

    Raises:
        UserError: a file is missing, damaged, or not as long as the index says.
    """
    again = f"delete the directory {directory} and start again, which tokenises the corpus anew"
    try:
        index = json.loads((directory / INDEX).read_text())
        dtype, splits, _ = _DTYPES[index["dtype"]], index["splits"], index["corpus"]
        arrays = {}
        for split in SPLITS:
            path, expected = directory / f"{split}.bin", splits[split]["tokens"] * dtype.itemsize
            size = path.stat().st_size
            if size != expected:
                raise UserError(f"{path} is {'shorter' if size < expected else 'longer'} than its index says: {again}")
            if _crc32(path, size) != splits[split]["crc32"]:
                raise UserError(f"{path} is damaged, its checksum is not the one in its index: {again}")
            # Nothing can be mapped of an empty file.
            arrays[split] = np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype)
        return arrays
    # An index that is no JSON, or other JSON than ours, raises any of these.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{directory} is incomplete or damaged ({type(error).__name__}: {error}): {again}") from error


def text_identity(directory: Path) -> dict[str, Any]:
    """What tells whether another directory holds the same training text: corpus (its name), tokens and crc32."""
    index = json.loads((directory / INDEX).read_text())
    return {"corpus": index["corpus"], **{key: index["splits"]["train"][key] for key in ("tokens", "crc32")}}


def _crc32(path: Path, size: int) -> int:
    crc = 0
    with path.open("rb") as file, tqdm(total=size, desc=f"checking {path}", unit="B", unit_scale=True, delay=2) as bar:
        while block := file.read(BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
            bar.update(len(block))
    return crc


def _write(corpus: Corpus, encoding: tiktoken.Encoding, digest: str, size: int, directory: Path) -> None:
    # The n-th split ends at the sum of the first n percentages of the bytes.
    ends = [size * percent // 100 for percent in accumulate(corpus.percents)]
    dtype = _DTYPES["uint16" if encoding.n_vocab <= 1 << 16 else "uint32"]
    separates = END_OF_TEXT in encoding.special_tokens_set
    counts = {split: {"tokens": 0, "bytes": 0, "crc32": 0} for split in SPLITS}
    text = Fingerprint(corpus.hash_algorithm)
    previous = (0, 0)
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((directory / f"{split}.bin").open("wb")) for split in SPLITS]
        bar = stack.enter_context(
            tqdm(total=size, desc=f"tokenising {corpus.name}", unit="B", unit_scale=True, delay=2)
        )
        pieces = segments(text.reading(read_corpus(corpus)), ends)
        for split, document, length, tokens in _encode(pieces, encoding):
            if separates and previous[0] == split and previous[1] != document:
                tokens = np.insert(tokens, 0, encoding.eot_token)
            previous = (split, document)
            data, count = tokens.astype(dtype).tobytes(), counts[SPLITS[split]]
            files[split].write(data)
            count["tokens"] += len(tokens)
            count["bytes"] += length
            count["crc32"] = zlib.crc32(data, count["crc32"])
            bar.update(length)
    if text.digest != digest:
        raise UserError(CORPUS_CHANGED)
    if len(ends) < len(SPLITS):
        shutil.copyfile(directory / "val.bin", directory / "test.bin")
        counts["test"] = counts["val"]
    meant_empty = {split for split, percent in zip(SPLITS, corpus.percents, strict=False) if percent == 0}
    for split, count in counts.items():
        if count["tokens"] < 2 and split not in meant_empty:  # one token to read, one to predict
            raise UserError(
                f"corpus {corpus.name} ({size} bytes) is too small: its {split} split has nothing to predict"
            )
    index = {"corpus": corpus.name, "tokenizer": encoding.name, "dtype": dtype.name, "splits": counts}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _encode(
    pieces: Iterable[tuple[int, int, bytes]], encoding: tiktoken.Encoding
) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Tokenises with all cores, in order: yields (split, document, bytes, tokens) of each piece.

    Threads do, since tiktoken works without the GIL. Only a few pieces are under way, so memory stays bounded.
    """
    threads = os.cpu_count() or 1
    pending = deque()
    with ThreadPoolExecutor(threads) as pool:
        for split, document, piece in pieces:
            pending.append((split, document, len(piece), pool.submit(encode_bytes, encoding, piece)))
            if len(pending) > 2 * threads:
                *which, tokens = pending.popleft()
                yield *which, tokens.result()
        for *which, tokens in pending:
            yield *which, tokens.result()


def _digest(corpus: Corpus, cache: Path) -> tuple[str, int, bool]:
    """Hash and size in bytes of the text, and whether the hash has changed since it was last remembered.

    The text is read once; then the hash is remembered for as long as the files' paths, sizes and times stay the same.
    """
    known, stamp = _remembered(cache), _stamp(corpus)
    then_stamp, then_digest, then_size = known.get(corpus.source, (None, None, None))
    if corpus.files and then_stamp == stamp:
        digest, size = then_digest, then_size
    else:
        digest, size = fingerprint(read_corpus(corpus), corpus.hash_algorithm)
    if corpus.checksum and digest != corpus.checksum[1]:
        raise UserError(
            f"{corpus.files[0]} is not {corpus.name} ({corpus.hash_algorithm} of its text is {digest}, not "
            f"{corpus.checksum[1]}): delete it to download it again, or train on it as it is with --data.corpus "
            f"{corpus.files[0].resolve()}"
        )
    if not size:
        raise UserError(f"corpus {corpus.name} is empty: {', '.join(map(str, corpus.files))} holds no text")
    if corpus.files and then_stamp != stamp:
        _remember(known | {corpus.source: (stamp, digest, size)}, cache)
    return digest, size, then_digest not in (None, digest)


def _stamp(corpus: Corpus) -> str:
    """What changes when someone writes to one of the files, without reading them."""
    try:
        stats = [(str(path.resolve()), path.stat()) for path in corpus.files]
    except OSError as error:
        raise UserError(f"corpus {corpus.name} cannot be read ({error}): start again") from error
    # The time of change (ctime) too: copying can set the time of modification, and with it hide another text.
    parts = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
    return hashlib.sha256(json.dumps([corpus.hash_algorithm, parts]).encode()).hexdigest()


def _remembered(cache: Path) -> dict[str, tuple[str, str, int]]:
    """By the source of a corpus, its stamp, digest and size when it was last read. What is no such entry is ignored."""
    try:
        entries = json.loads(cache.read_text()).items()
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {k: tuple(v) for k, v in entries if isinstance(v, list) and [type(part) for part in v] == [str, str, int]}


def _remember(known: dict[str, tuple[str, str, int]], cache: Path) -> None:
    """Two processes may both add to the cache and one addition be lost: that costs another reading, no more."""
    partial = cache.with_name(f".{uuid.uuid4().hex[:8]}-{cache.name}")
    with contextlib.suppress(OSError):  # as does a directory that cannot be written
        try:
            partial.write_text(json.dumps(known, indent=2) + "\n")
            partial.replace(cache)
        finally:
            partial.unlink(missing_ok=True)
