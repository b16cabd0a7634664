"""Makes what is kept under data_dir once, whole, and by one process at a time; fetches files over https.

What lies there under its own name is complete, whoever made it, and is never made again.
"""

import contextlib
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from gpt_lightning.data.readers import BLOCK_BYTES, fingerprint, read_blocks
from gpt_lightning.errors import UserError

TIMEOUT_SECONDS = 30
_UNFINISHED = ".unfinished-"  # how names begin of what is being written
_PARTIAL = ".partial-"  # … and of what is being written bit by bit, for another process to go on with
_DAY = 24 * 60 * 60


@rank_zero_only
def say(text: str) -> None:
    """Prints a line where the progress bars go. Lightning's `rank_zero_info` would not: train.py silences it."""
    print(text, file=sys.stderr, flush=True)


def make_once(path: Path, make: Callable[[Path], None], resumable: bool = False) -> None:
    """Has `make` write a file or directory under another name and renames it to `path`, unless that is there.

    One process at a time does so; the others wait for it. Killed processes' leftovers are removed.

    Args:
        path: What to make; its directory is made if need be.
        make: Called with the path to write to, whose name ends like that of `path`.
        resumable: `make` goes on with what is there of a killed or failed one, and removes what nobody can go on with.

    Raises:
        OSError: the directory cannot be written. Then, and if `make` raises, nothing is left behind but what
            `make` leaves to be gone on with.
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
            # Without a lock two may be at it: each under a name of its own.
            _make(path, make, resumable and lock.is_locked)
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()  # before the release: who waits for it notices and locks anew
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
    """Removes what killed processes left of `path`, which is locked, and whatever nobody has written to for a day."""
    # On some filesystems of clusters a lock holds on one machine only: another may be at work on the same path.
    ours = re.compile(re.escape(f"{_UNFINISHED}{platform.node()}-") + "[0-9a-f]{8}" + re.escape(f"-{path.name}"))
    for left in path.parent.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # its process may finish it just now
            if ours.fullmatch(left.name) or time.time() - _last_written(left) > _DAY:
                _remove(left)
    for left in path.parent.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            if left.name != f"{_PARTIAL}{path.name}" and time.time() - _last_written(left) > 30 * _DAY:
                _remove(left)


def _last_written(path: Path) -> float:
    return max(part.stat().st_mtime for part in (path, *path.glob("*")))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def download(url: str, path: Path, algorithm: str, digest: str, max_bytes: int) -> None:
    """Fetches `url` to `path`, unless that is there.

    Args:
        url: An https address.
        path: Where the file goes; its directory is made if need be.
        algorithm: Name of a hash in hashlib.
        digest: The hash of the text in the file (for an archive, of what is packed in it), in hexadecimal.
        max_bytes: Size of the file at most; no more is read.

    Raises:
        UserError: no network, a broken or wrong download, or an unwritable directory; nothing is left behind.
    """
    by_hand = f"put the file at {path} yourself ({algorithm} of its text: {digest}) or train on --data.corpus FILE"

    def fetch(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for block in _receive(url, max_bytes):
                file.write(block)
        try:
            found, _ = fingerprint(read_blocks(temporary), algorithm)
        except UserError:
            found = "that of a damaged archive"
        if found != digest:
            raise UserError(f"{url} sent something else ({algorithm} is {found}), which was deleted: {by_hand}")

    try:
        make_once(path, fetch)
    except _NotReceived as error:
        raise UserError(f"{url} could not be downloaded ({error}): {by_hand}") from error
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error}): make room or choose another --data.data_dir"
        ) from error


class _NotReceived(Exception):
    """What came, or did not come, from the network; apart from the errors of writing it."""


class _OnlyHttps(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: BinaryIO, code: int, msg: str, headers, newurl: str) -> Request | None:
        if urlsplit(newurl).scheme != "https":
            raise _NotReceived(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, max_bytes: int) -> Iterator[bytes]:
    received = 0
    try:
        with (
            build_opener(_OnlyHttps).open(url, timeout=TIMEOUT_SECONDS) as response,
            tqdm(total=response.length, desc=f"downloading {url}", unit="B", unit_scale=True) as bar,
        ):
            while block := response.read(BLOCK_BYTES):
                received += len(block)
                if received > max_bytes:
                    raise _NotReceived(f"it sends more than the {max_bytes:,} bytes that the file has")
                bar.update(len(block))
                yield block
            if response.length:
                raise _NotReceived(f"the connection ended {response.length:,} bytes too early")
    except (OSError, HTTPException, ValueError) as error:
        raise _NotReceived(error) from error
