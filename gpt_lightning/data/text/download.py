"""Downloads files over https, and checks the size and the hash of each."""

from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from gpt_lightning.data.text.blocks import BLOCK_BYTES, fingerprint
from gpt_lightning.data.text.formats import read_blocks
from gpt_lightning.errors import UserError
from gpt_lightning.make_once import make_once

TIMEOUT_SECONDS = 30


def download(url: str, path: Path, algorithm: str, digest: str, max_bytes: int) -> None:
    """Downloads `url` to `path`, unless that exists.

    Args:
        url: An https address.
        path: Where the file goes; its directory is made if need be.
        algorithm: The hashlib name of a hash.
        digest: The hash of the text in the file (for an archive, of the unpacked text), in hexadecimal.
        max_bytes: The largest size that the file can have; no more is read.

    Raises:
        UserError: no network, a broken or wrong download, or an unwritable directory. Nothing is left behind.
    """
    by_hand = f"put the file at {path} yourself ({algorithm} of its text: {digest}) or train on --data.corpus FILE."

    def fetch(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for block in _receive(url, max_bytes):
                file.write(block)
        try:
            received, _ = fingerprint(read_blocks(temporary), algorithm)
        except UserError:
            received = "that of a damaged archive"
        if received != digest:
            raise UserError(f"{url} sent something else ({algorithm} is {received}), which was deleted: {by_hand}")

    try:
        make_once(path, fetch)
    except _NotReceived as error:
        raise UserError(f"{url} could not be downloaded ({error}): {by_hand}") from error
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error}): make room or choose another --data.data_dir."
        ) from error


class _NotReceived(Exception):
    """The network failed, not the disk that its bytes are written to."""


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
