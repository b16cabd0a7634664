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
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np
import tiktoken
from tqdm import tqdm

from gpt_lightning.data.corpora import Corpus, read_corpus
from gpt_lightning.data.readers import fingerprint
from gpt_lightning.data.segments import segments
from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes, tokenizer_state
from gpt_lightning.errors import UserError

SPLITS = ("train", "val", "test")
# Part of the directory's name: raise it when the same text and tokenizer would be written differently.
FORMAT_VERSION = 1


def prepare_token_files(corpus: Corpus, encoding: tiktoken.Encoding, data_dir: Path) -> Path:
    """Tokenises the corpus unless that was done before; several processes may do it at once.

    Returns:
        The directory, for `open_token_files`.

    Raises:
        UserError: an unreadable, empty, changed or too small corpus, or a `data_dir` that cannot be written.
    """
    home = data_dir / "tokens"
    try:
        home.mkdir(parents=True, exist_ok=True)
        digest, size = _digest(corpus, home / "digests.json")
        state = tokenizer_state(encoding)
        identity = [FORMAT_VERSION, digest, corpus.percents, state["pat_str"], state["special_tokens"]]
        key = hashlib.sha256(json.dumps(identity).encode() + state["ranks"].numpy().tobytes()).hexdigest()[:16]
        directory = home / f"{corpus.name}-{encoding.name}-{key}"
        if directory.is_dir():
            return directory
        work = home / f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp"
        work.mkdir()
        try:
            _write(corpus, encoding, size, work)
            try:
                work.replace(directory)
            except OSError:
                if not directory.is_dir():  # if it is, another process was first, with the same tokens
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return directory
    except OSError as error:
        raise UserError(f"{home} cannot be written ({error}): make room or choose another --data.data_dir") from error


def open_token_files(directory: Path) -> dict[str, np.memmap]:
    """Maps the splits of a directory of `prepare_token_files` into memory.

    Returns:
        (tokens,) read-only arrays by the names train, val and test.

    Raises:
        UserError: a file is missing or not as long as the index says.
    """
    again = f"delete the directory {directory} to prepare it again"
    try:
        index = json.loads((directory / "index.json").read_text())
        dtype, splits = np.dtype(index["dtype"]).newbyteorder("<"), index["splits"]
        arrays = {}
        for split in SPLITS:
            path, expected = directory / f"{split}.bin", splits[split]["tokens"] * dtype.itemsize
            if path.stat().st_size != expected:
                relation = "shorter" if path.stat().st_size < expected else "longer"
                raise UserError(f"{path} is {relation} than its index says; {again}")
            arrays[split] = np.memmap(path, dtype, mode="r")
        return arrays
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory} is not complete ({type(error).__name__}: {error}); {again}") from error


def _write(corpus: Corpus, encoding: tiktoken.Encoding, size: int, directory: Path) -> None:
    # The n-th split ends at the sum of the first n percentages of the bytes.
    ends = [size * percent // 100 for percent in accumulate(corpus.percents)]
    dtype = np.dtype("<u2" if encoding.n_vocab <= 1 << 16 else "<u4")
    separates = END_OF_TEXT in encoding.special_tokens_set
    counts = {split: {"tokens": 0, "bytes": 0} for split in SPLITS}
    previous = (0, 0)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((directory / f"{split}.bin").open("wb")) for split in SPLITS]
        bar = stack.enter_context(
            tqdm(total=size, desc=f"tokenising {corpus.name}", unit="B", unit_scale=True, delay=2)
        )
        for split, document, length, tokens in _encode(segments(read_corpus(corpus), ends), encoding):
            if separates and previous[0] == split and previous[1] != document:
                tokens = np.insert(tokens, 0, encoding.eot_token)
            previous = (split, document)
            tokens.astype(dtype).tofile(files[split])
            counts[SPLITS[split]]["tokens"] += len(tokens)
            counts[SPLITS[split]]["bytes"] += length
            bar.update(length)
    if len(ends) < len(SPLITS):
        shutil.copyfile(directory / "val.bin", directory / "test.bin")
        counts["test"] = counts["val"]
    for split, count in counts.items():
        if count["tokens"] < 2:  # one token to read, one to predict
            raise UserError(
                f"corpus {corpus.name} ({size} bytes) is too small: its {split} split has nothing to predict"
            )
    index = {"corpus": corpus.name, "tokenizer": encoding.name, "dtype": dtype.name, "splits": counts}
    (directory / "index.json").write_text(json.dumps(index, indent=2) + "\n")


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


def _digest(corpus: Corpus, cache: Path) -> tuple[str, int]:
    """Hash and size in bytes of the text; read once, then remembered by the files' paths, sizes and times of change."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in corpus.files]
    algorithm, expected = corpus.checksum or ("sha256", None)
    key = hashlib.sha256(json.dumps([algorithm, stats]).encode()).hexdigest()
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        known = {}
    if key in known:
        digest, size = known[key]
    else:
        digest, size = fingerprint(read_corpus(corpus), algorithm)
    if expected and digest != expected:
        raise UserError(
            f"{corpus.files[0]} is not {corpus.name} ({algorithm} of its text is {digest}, not {expected}): delete it "
            f"to download it again, or train on it as it is with --data.corpus {corpus.files[0].resolve()}"
        )
    if not size:
        raise UserError(f"corpus {corpus.name} is empty: {', '.join(map(str, corpus.files))} holds no text")
    if corpus.files and key not in known:
        # Two processes may both add to it and one addition be lost: that costs another reading, no more.
        partial = cache.with_name(f".{uuid.uuid4().hex[:8]}-{cache.name}")
        partial.write_text(json.dumps(known | {key: [digest, size]}, indent=2) + "\n")
        partial.replace(cache)
    return digest, size
