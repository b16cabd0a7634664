"""Zip archives of plain text. Nothing is unpacked to the disk."""

import zipfile
from itertools import pairwise
from pathlib import Path

from gpt_lightning.data.text.blocks import Blocks, blocks_of_file

SUFFIXES = (".zip",)
DESCRIPTION = "a zip archive of plain text"
DOCUMENT = "a member of the archive"
BINARY = True


def read(path: Path, text_key: str) -> Blocks:
    """The members, in the order of their names."""
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        _check_members(members)
        for number, member in enumerate(members):
            size = 0
            with archive.open(member) as file:
                for _, block in blocks_of_file(file):
                    size += len(block)
                    yield number, block
            if size != member.file_size:
                raise zipfile.BadZipFile(f"{member.filename!r} has {size} bytes, not {member.file_size}")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        # zipfile puts no limit to the memory that the others, bzip2 and LZMA, take to unpack.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError(f"{member.filename!r} is neither stored nor deflated: unpack it by hand")
    for one, following in pairwise(sorted(members, key=lambda member: member.header_offset)):
        if one.header_offset + one.compress_size > following.header_offset:
            raise zipfile.BadZipFile(f"{one.filename!r} and {following.filename!r} overlap")
