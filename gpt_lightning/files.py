"""Writing a file so that it is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to; it becomes `path` by a rename when the block ends well, and vanishes otherwise.

    The temporary name is beside `path`, so that the rename stays within one file system. Missing directories are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else the name could reach the disk before the content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
