"""Token files of other projects, nanoGPT's train.bin and val.bin and llm.c's shards, read in place.

nanoGPT (data/*/prepare.py) writes bare uint16. llm.c (dev/data/data_common.py) writes a header of 256 int32, which
begins with magic number, version and count, then uint16 (GPT-2) or uint32 (Llama 3).
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gpt_lightning.data.tokens.shards import SPLITS
from gpt_lightning.data.tokens.token_sequence import Tokens, map_ids
from gpt_lightning.data.verified import recall, remember, stamp_of
from gpt_lightning.errors import UserError

HEADER = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER.itemsize
_LLM_C = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}  # (magic number, version)
_CHUNK = 1 << 22
CHECKED = "checked_bins.json"


def find_bins(spec: str) -> dict[str, list[Path]] | None:
    """The .bin files of a directory or glob by the split in their names; None if there are none for training.

    Raises:
        UserError: there are files for training but none for validation.
    """
    path = Path(os.path.expanduser(spec))
    candidates = path.glob("*.bin") if path.is_dir() else path.parent.glob(path.name) if "*" in path.name else ()
    try:
        files = sorted(file for file in candidates if file.suffix == ".bin" and file.is_file())
    except (OSError, ValueError):
        return None
    bins = {split: [file for file in files if split in file.name] for split in SPLITS}
    if not bins["train"]:
        return None
    if not bins["val"]:
        raise UserError(f"{spec} has {bins['train'][0].name} but no .bin file with 'val' in its name: add one.")
    return bins | {"test": bins["test"] or bins["val"]}


def open_bins(bins: dict[str, list[Path]], n_ids: int, home: Path) -> tuple[dict[str, Tokens], dict[str, Any]]:
    """Maps the files into memory, after checking that the tokenizer has all their ids.

    The check is not repeated while the files' sizes and times stay the same.

    Args:
        bins: From `find_bins`.
        n_ids: The number of ids that the tokenizer has.
        home: The directory of the file that remembers checks.

    Returns:
        Tokens by the names train, val and test, and the identity of the training text, as in `Prepared`.

    Raises:
        UserError: a file is not as long as its header says, or has an id that the tokenizer lacks.
    """
    known, checked = recall(home / CHECKED, list, int, int), {}
    arrays = {path: _map(path, n_ids) for split in SPLITS for path in bins[split]}
    for path, array in arrays.items():
        name, stamp = str(path.resolve()), stamp_of(path)
        entry = known.get(name)
        if entry is None or entry[0] != stamp:
            entry = [stamp, *_largest_and_crc32(array, path)]
        checked[name] = entry
        if entry[1] >= n_ids:
            raise UserError(
                f"{path} has the token id {entry[1]}, but the tokenizer has only {n_ids:,} ids: set "
                "--data.tokenizer to the one it was written with, such as gpt2."
            )
    if any(known.get(name) != entry for name, entry in checked.items()):
        remember(known | checked, home / CHECKED)
    tokens = {split: Tokens([arrays[path] for path in bins[split]]) for split in SPLITS}
    checksums = [checked[str(path.resolve())][2] for path in bins["train"]]
    identity = {"tokens": len(tokens["train"]), "crc32": zlib.crc32(json.dumps(checksums).encode())}
    return tokens, {"corpus": bins["train"][0].parent.name, **identity}


def _map(path: Path, n_ids: int) -> np.ndarray:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = np.frombuffer(file.read(HEADER_BYTES), HEADER) if size >= HEADER_BYTES else np.zeros(3, HEADER)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): mend it or choose another --data.corpus.") from error
    if dtype := _LLM_C.get((int(head[0]), int(head[1]))):
        expected = HEADER_BYTES + int(head[2]) * dtype.itemsize
        if size != expected:
            than = "shorter" if size < expected else "longer"
            raise UserError(f"{path} is {than} than the {head[2]:,} tokens that its header says: fetch it again.")
        return map_ids(path, dtype, HEADER_BYTES)
    dtype = np.dtype("<u2" if n_ids <= 1 << 16 else "<u4")
    if size % dtype.itemsize:
        raise UserError(
            f"{path} is no file of {dtype.name} tokens: its {size:,} bytes are not a multiple of {dtype.itemsize}. "
            "Fetch it again, or set --data.tokenizer to the one it was written with."
        )
    return map_ids(path, dtype)


def _largest_and_crc32(tokens: np.ndarray, path: Path) -> tuple[int, int]:
    largest, crc = 0, 0
    with tqdm(total=tokens.nbytes, desc=f"checking {path}", unit="B", unit_scale=True, delay=2) as bar:
        for start in range(0, len(tokens), _CHUNK):
            chunk = tokens[start : start + _CHUNK]
            largest, crc = max(largest, int(chunk.max())), zlib.crc32(chunk.tobytes(), crc)
            bar.update(chunk.nbytes)
    return largest, crc
