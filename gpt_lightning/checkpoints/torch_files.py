"""Reading files of `torch.save`, whoever wrote them: checksums first, and then plain data only."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gpt_lightning.errors import UserError

BLOCK_BYTES = 1 << 22


class DamagedCheckpoint(UserError):
    """A file is truncated, or its bits have changed since it was written."""


def read_content(path: Path) -> Any:
    """The content of a file: plain types, and tensors mapped from it. Nothing in it is executed (weights_only).

    Raises:
        DamagedCheckpoint: the file is truncated, or its content has changed since it was written.
        UserError: the file is missing, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}.")
    try:
        check_sums(path)  # first: a damaged file is not unpickled at all
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than plain data and was not loaded; only open checkpoints that this project wrote."
        ) from error
    except PermissionError:
        raise
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(
            f"{path} is not a complete checkpoint (truncated or damaged); use an earlier one."
        ) from error


def check_sums(path: Path) -> None:
    """Compare a file with the checksums in it, which `torch.load` does not; a file of `torch.save` is a zip archive.

    Raises:
        zipfile.BadZipFile: they differ, or torch did not write the archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("compressed")  # might unpack to more than fits into memory
        with tqdm(total=path.stat().st_size, desc=f"checking {path.name}", unit="B", unit_scale=True, delay=2) as bar:
            for member in members:
                with archive.open(member) as file:
                    while block := file.read(BLOCK_BYTES):
                        bar.update(len(block))


def is_stored(tensor: Tensor) -> bool:
    """Whether the file holds every number of a tensor. It may also claim to be larger and repeat what is stored."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and tensor.nbytes <= tensor.untyped_storage().nbytes()
