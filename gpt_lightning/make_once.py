"""Makes a file or directory once, by one process at a time, so that whatever lies under its name is complete."""

import contextlib
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from gpt_lightning.notices import say

_UNFINISHED = ".unfinished-"  # how the names of things begin that are being made
_PARTIAL = ".partial-"  # … and of things that another process can go on making
_DAY = 24 * 60 * 60


def make_once(path: Path, make: Callable[[Path], None], resumable: bool = False) -> None:
    """Has `make` write a file or directory under another name and renames it to `path`, unless that is there.

    One process at a time does so; the others wait for it. What killed processes left is removed.

    Args:
        path: What to make; its directory is made if need be.
        make: Called with the path to write to, whose name ends like that of `path`.
        resumable: `make` goes on with what a killed or failed process left, and removes what nobody can go on with.

    Raises:
        OSError: the directory cannot be written. Then, and if `make` raises, nothing is left behind, except what `make`
            leaves there for another process to go on with.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    # Not every filesystem has locks. Without one the work may be done twice, and the first to rename wins.
    with contextlib.suppress(OSError):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"Another process is making {path}: waiting for it.")
            lock.acquire()
    try:
        if not path.exists():
            if lock.is_locked:
                _remove_leftovers(path)
            # Without a lock two processes may be at it: each works under a name of its own.
            _make(path, make, resumable and lock.is_locked)
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()  # before the release: a process that waits notices and locks anew
            lock.release()


def _make(path: Path, make: Callable[[Path], None], resumable: bool) -> None:
    unique = f"{_UNFINISHED}{platform.node()}-{uuid.uuid4().hex[:8]}-"
    temporary = path.with_name(f"{_PARTIAL if resumable else unique}{path.name}")
    try:
        make(temporary)
        try:
            temporary.replace(path)
        except OSError:
            if not path.exists():  # if it does, another process was first, with the same content
                raise
    finally:
        if not resumable:
            _remove(temporary)


def _remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of `path`, which is locked, and whatever nobody has written to for a day (for
    30 days, if another process could go on with it)."""
    # On some filesystems of clusters a lock holds on one machine only: another may be at work on the same path.
    ours = re.compile(re.escape(f"{_UNFINISHED}{platform.node()}-") + "[0-9a-f]{8}" + re.escape(f"-{path.name}"))
    for leftover in path.parent.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # its process may finish it just now
            if ours.fullmatch(leftover.name) or time.time() - _last_written(leftover) > _DAY:
                _remove(leftover)
    for leftover in path.parent.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            if leftover.name != f"{_PARTIAL}{path.name}" and time.time() - _last_written(leftover) > 30 * _DAY:
                _remove(leftover)


def _last_written(path: Path) -> float:
    return max(part.stat().st_mtime for part in (path, *path.glob("*")))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
