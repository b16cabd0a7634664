"""Small JSON files in which a process leaves to later ones what took it long to find out, written atomically.

One that is damaged or foreign counts as empty, which costs the same work again and no more. What one says of a file
holds for as long as the file's stamp stays the same.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from gpt_lightning.files import atomic_file


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes an object atomically.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def recall(cache: Path, *types: type) -> dict[str, list[Any]]:
    """The entries of a cache that are lists of values of these types, by their names, without anything else in it."""
    entries = read_json(cache).items()
    return {name: entry for name, entry in entries if isinstance(entry, list) and [*map(type, entry)] == [*types]}


def remember(known: dict[str, Any], cache: Path) -> None:
    """Writes a cache, if it can be written. Of two processes that add to it at once one addition may be lost: either
    costs the same work again, no more."""
    with contextlib.suppress(OSError):
        write_json(known, cache)


def stamp_of(path: Path) -> list[int]:
    """What changes when someone writes to a file. The time of change (ctime) too: that of modification can be set."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
