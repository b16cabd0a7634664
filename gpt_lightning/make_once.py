"""Makes a file or directory once, in one process at a time: if its name exists, it is complete."""

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

# How the temporary names of unfinished things begin, and those of things that another process can finish.
_UNFINISHED, _PARTIAL = ".unfinished-", ".partial-"
_DAY = 24 * 60 * 60  # seconds


def make_once(path: Path, make: Callable[[Path], None], resumable: bool = False) -> None:
    """Has `make` write a file or directory under a temporary name, then renames it to `path`, unless that exists.

    One process at a time does so while others wait for it. What killed processes left is removed.

    Args:
        path: What to make; its directory is made if need be.
        make: Called with the path to write to, whose name ends like that of `path`.
        resumable: `make` continues what a killed or failed process left, and removes what cannot be continued.

    Raises:
        OSError: the directory cannot be written. Nothing is left behind then, nor if `make` raises, except what a
            resumable `make` leaves to be continued.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    # Not every file system has locks. Without one the work may be done twice, and the first to rename wins.
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
            # Without a lock two processes may be at work, each under a temporary name of its own.
            _make(path, make, resumable and lock.is_locked)
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()  # before the release: waiting processes notice and lock anew
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
    """Removes what killed processes left of `path`, which is locked, and anything not written to for a day (30 days if
    another process could finish it)."""
    # On some cluster file systems a lock holds on one machine only: another may be at work on the same path.
    ours = re.compile(re.escape(f"{_UNFINISHED}{platform.node()}-") + "[0-9a-f]{8}" + re.escape(f"-{path.name}"))
    for prefix, days in ((_UNFINISHED, 1), (_PARTIAL, 30)):
        for leftover in path.parent.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):  # another process may be finishing it just now
                last_written = max(part.stat().st_mtime for part in (leftover, *leftover.glob("*")))
                old = time.time() - last_written > days * _DAY and leftover.name != f"{_PARTIAL}{path.name}"
                if old or ours.fullmatch(leftover.name):
                    _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
