"""Token files that others wrote: nanoGPT's train.bin and val.bin, llm.c's shards. They are used where they lie.

nanoGPT (data/*/prepare.py) writes bare uint16. llm.c (dev/data/data_common.py) writes 256 int32 first, magic number,
version and count, then uint16 (GPT-2) or uint32 (Llama 3).
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gpt_lightning.data.identity import remember, stamp_of
from gpt_lightning.data.shards import SPLITS
from gpt_lightning.data.tokens import Tokens
from gpt_lightning.errors import UserError

HEADER = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER.itemsize
_LLM_C = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}  # (magic number, version)
_CHUNK = 1 << 22
CHECKED = "checked_bins.json"


def find_bins(spec: str) -> dict[str, list[Path]] | None:
    """The .bin files by split that a directory holds or a glob matches, by their names; None if there is none of train.

    Raises:
        UserError: there is training text only.
    """
    path = Path(spec).expanduser()
    found = path.glob("*.bin") if path.is_dir() else path.parent.glob(path.name) if "*" in path.name else ()
    try:
        files = sorted(file for file in found if file.suffix == ".bin" and file.is_file())
    except (OSError, ValueError):
        return None
    bins = {split: [file for file in files if split in file.name] for split in SPLITS}
    if not bins["train"]:
        return None
    if not bins["val"]:
        raise UserError(f"{spec} has {bins['train'][0].name} but no .bin file with 'val' in its name to validate on")
    return bins | {"test": bins["test"] or bins["val"]}


def open_bins(bins: dict[str, list[Path]], n_ids: int, home: Path) -> tuple[dict[str, Tokens], dict[str, Any]]:
    """Maps the files into memory, once all their ids have been seen to be ones of the tokenizer.

    That is remembered for as long as the files' sizes and times stay the same. The second result is as that of
    `token_files.text_identity`.

    Args:
        bins: From `find_bins`.
        n_ids: Of the tokenizer.
        home: Where it is remembered.

    Raises:
        UserError: a file is not as long as it says, or has an id that the tokenizer has not.
    """
    known = _read(home / CHECKED)
    seen = {}
    arrays = {split: [_map(path, n_ids) for path in bins[split]] for split in SPLITS}
    for split in SPLITS:
        for path, array in zip(bins[split], arrays[split], strict=True):
            name, stamp = str(path.resolve()), stamp_of(path.stat())
            if name in seen:  # val that is test too
                continue
            entry = known.get(name)
            if not (isinstance(entry, list) and len(entry) == 3 and entry[0] == stamp):
                entry = [stamp, *_largest_and_crc32(array, path)]
            seen[name] = entry
            if entry[1] >= n_ids:
                raise UserError(
                    f"{path} has the token id {entry[1]}, but the tokenizer has only {n_ids:,} ids: set "
                    "--data.tokenizer to the one it was written with, such as gpt2"
                )
    if any(known.get(name) != entry for name, entry in seen.items()):
        home.mkdir(parents=True, exist_ok=True)
        remember(known | seen, home / CHECKED)
    tokens = {split: Tokens(arrays[split]) for split in SPLITS}
    checksums = [seen[str(path.resolve())][2] for path in bins["train"]]
    identity = {"tokens": len(tokens["train"]), "crc32": zlib.crc32(json.dumps(checksums).encode())}
    return tokens, {"corpus": bins["train"][0].parent.name, **identity}


def _map(path: Path, n_ids: int) -> np.ndarray:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = np.frombuffer(file.read(HEADER_BYTES), HEADER) if size >= HEADER_BYTES else np.zeros(3, HEADER)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    if dtype := _LLM_C.get((int(head[0]), int(head[1]))):
        expected = HEADER_BYTES + int(head[2]) * dtype.itemsize
        if size != expected:
            than = "shorter" if size < expected else "longer"
            raise UserError(f"{path} is {than} than the {head[2]:,} tokens that its header says: fetch it again")
        return np.memmap(path, dtype, mode="r", offset=HEADER_BYTES) if head[2] else np.empty(0, dtype)
    dtype = np.dtype("<u2" if n_ids <= 1 << 16 else "<u4")
    if size % dtype.itemsize:
        raise UserError(f"{path} is no file of {dtype.name} tokens: its {size:,} bytes are no whole number of them")
    return np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype)


def _largest_and_crc32(tokens: np.ndarray, path: Path) -> tuple[int, int]:
    largest, crc = 0, 0
    with tqdm(total=tokens.nbytes, desc=f"checking {path}", unit="B", unit_scale=True, delay=2) as bar:
        for start in range(0, len(tokens), _CHUNK):
            chunk = tokens[start : start + _CHUNK]
            largest, crc = max(largest, int(chunk.max())), zlib.crc32(chunk.tobytes(), crc)
            bar.update(chunk.nbytes)
    return largest, crc


def _read(cache: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(cache.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
