"""Which texts can be names of files, and how to write a file so that it is complete or not there at all."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def is_utf8(text: str) -> bool:
    """Whether a text can be printed, logged and stored: Python turns command-line bytes that are not UTF-8 into lone
    surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_name(text: str) -> bool:
    """Whether a text can also be the name of a file."""
    return "\0" not in text and is_utf8(text)


@contextmanager
def atomic_file(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a binary file to write to. It is renamed to `path` when the block ends, and removed if the block raises.

    The temporary file lies beside `path`, so that the rename stays within one file system. Missing directories are
    made. What `path` held until now becomes `previous`, if that is given.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove_leftovers(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else the name could reach the disk before the content
        if previous is not None and path.exists():
            _second_name(path, previous)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _second_name(path: Path, name: Path) -> None:
    """Give the content of `path` a second name, in one step."""
    link = path.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: `path` is gone until the new file takes its place
        path.replace(name)
    else:
        link.replace(name)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = leftover.name.split(".")[-2]
        if writer.isdigit() and not Path("/proc", writer).exists() and Path("/proc/self").exists():
            leftover.unlink(missing_ok=True)
