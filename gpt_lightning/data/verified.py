"""Caches in small JSON files: results that took long to find, kept for later processes and written atomically.

A damaged or foreign cache counts as empty, which only costs doing the work again. An entry about a file holds while the
file's stamp stays the same.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from gpt_lightning.files import atomic_file


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged or holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes an object atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def recall(cache: Path, *types: type) -> dict[str, list[Any]]:
    """The entries of a cache, by name, that are lists of values of these types; anything else is left out."""
    entries = read_json(cache).items()
    return {name: entry for name, entry in entries if isinstance(entry, list) and [*map(type, entry)] == [*types]}


def remember(known: dict[str, Any], cache: Path) -> None:
    """Writes a cache, if possible. If two processes write at once, the entries of one may be lost, which only costs
    doing that work again."""
    with contextlib.suppress(OSError):
        write_json(known, cache)


def stamp_of(path: Path) -> list[int]:
    """Numbers that change when a file is written to. The modification time can be set back, so they include ctime."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
