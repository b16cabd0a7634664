"""Fetches a file over https once, checks its hash and puts it in place in one step.

A file that is already there is never fetched again.
"""

import contextlib
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

from tqdm import tqdm

from gpt_lightning.data.readers import BLOCK_BYTES, fingerprint, read_blocks
from gpt_lightning.errors import UserError

TIMEOUT_SECONDS = 30


def download(url: str, path: Path, algorithm: str, digest: str) -> None:
    """Fetches `url` to `path`.

    Args:
        url: An https address.
        path: Where the file goes; its directory is made if need be.
        algorithm: Name of a hash in hashlib.
        digest: The hash of the text in the file (for an archive, of what is packed in it), in hexadecimal.

    Raises:
        UserError: no network, a broken or wrong download, or an unwritable directory; nothing is left behind.
    """
    by_hand = f"put the file at {path} yourself ({algorithm} of its text: {digest}) or train on --data.corpus FILE"
    # The name keeps its suffix at the end, which is how read_blocks tells an archive.
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            try:
                _fetch(url, file)
            except (OSError, HTTPException) as error:
                raise UserError(f"{url} could not be downloaded ({error}): {by_hand}") from error
        try:
            found, _ = fingerprint(read_blocks(partial), algorithm)
        except UserError:
            found = "that of a damaged archive"
        if found != digest:
            raise UserError(f"{url} sent something else ({algorithm} is {found}), which was deleted: {by_hand}")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error}): choose another --data.data_dir") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _fetch(url: str, file: BinaryIO) -> None:
    with urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        # urllib follows a redirect to plain http without a word.
        if not response.geturl().startswith("https://"):
            raise OSError(f"{response.geturl()} is not https")
        size, received = int(response.headers.get("Content-Length", 0)) or None, 0
        with tqdm(total=size, desc=f"downloading {url}", unit="B", unit_scale=True) as bar:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                received += len(block)
                bar.update(len(block))
        if size and received != size:
            raise OSError(f"the connection ended after {received} of {size} bytes")
