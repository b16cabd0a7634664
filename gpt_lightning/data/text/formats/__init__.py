"""The formats of text files, one to a module of this package. To add one, add a module with what `Format` lists.

There is no other list of formats: help, messages and docs/corpora.md take theirs from here.
"""

import pkgutil
import struct
import zlib
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

from gpt_lightning.data.text.blocks import PACKINGS, Blocks
from gpt_lightning.errors import UserError

# A file of n bytes may unpack to n times MAX_EXPANSION plus EXPANSION_ALLOWED_BYTES. Text packs to a tenth of its size,
# a decompression bomb to a thousandth.
MAX_EXPANSION = 200
EXPANSION_ALLOWED_BYTES = 100_000_000


class Format(Protocol):
    """What a module in this package has."""

    SUFFIXES: tuple[str, ...]  # how the names of such files end, in lower case; the longest suffix that fits decides
    DESCRIPTION: str  # what such a file is, in a line of Markdown
    DOCUMENT: str  # what counts as a document, in a line of Markdown
    # Whether the file holds more than text, and so perhaps NUL bytes. If not, it may also be packed, with .gz or .bz2
    # after the suffix: open it with `open_unpacked`.
    BINARY: bool

    @staticmethod
    def read(path: Path, text_key: str) -> Blocks:
        """Streams the documents of a file, as `blocks_of_file` and `blocks_of_texts` do, with little of it in memory.

        If the format has records, their text is under `text_key`. Raises OSError, EOFError or ValueError if the file is
        damaged.
        """


def read_blocks(path: Path, text_key: str = "text") -> Blocks:
    """Streams a file as (document number, block of at most `BLOCK_BYTES` bytes); an empty document yields nothing.

    Nothing is unpacked to the disk, and at most a block or a record to memory.

    Args:
        path: The file.
        text_key: The name of the text in a record.

    Raises:
        UserError: the file cannot be read, or is damaged, truncated, encrypted or a decompression bomb, or a record has
            no text.
    """
    size = 0
    try:
        limit = path.stat().st_size * MAX_EXPANSION + EXPANSION_ALLOWED_BYTES
        for number, block in format_of(path).read(path, text_key):
            size += len(block)
            if size > limit:
                raise UserError(
                    f"{path} unpacks to more than {limit / 1e6:,.0f} MB, which a text hardly does: if it is meant to, "
                    "unpack it by hand and train on that."
                )
            yield number, block
    # zipfile raises RuntimeError for an encrypted member, NotImplementedError (a subclass) for an unknown compression,
    # and ValueError, struct.error or OverflowError for nonsense in the directory of an archive.
    except (OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error, BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or cannot be read ({error}): replace it or take it out of the corpus."
        ) from error


def format_of(path: Path) -> Format:
    """The format of a file, by its name."""
    name, endings = "".join(path.suffixes).lower(), _by_ending(tuple(__path__))
    return endings[max((ending for ending in endings if name.endswith(ending)), key=len)]


def may_hold_nul(path: Path) -> bool:
    """Whether a file may hold NUL bytes and yet be text."""
    return format_of(path).BINARY or path.suffix.lower() in PACKINGS


def in_words() -> str:
    """The formats for a sentence, by their suffixes."""
    text, binary = (
        [s or "plain text" for m in _all() if m.BINARY is kind for s in m.SUFFIXES] for kind in (False, True)
    )
    return ", ".join([*text[:-1], f"{text[-1]} (also packed as {' or '.join(PACKINGS)})", *binary])


def table() -> str:
    """The formats as a Markdown table."""
    packed = f", also packed as {' or '.join(f'`{packing}`' for packing in PACKINGS)}"
    rows = ["| files | what they hold | a document is |", "|---|---|---|"]
    for module in _all():
        files = ", ".join(f"`{suffix}`" if suffix else "any name but those below" for suffix in module.SUFFIXES)
        rows.append(f"| {files}{'' if module.BINARY else packed} | {module.DESCRIPTION} | {module.DOCUMENT} |")
    return "\n".join(rows)


def _all() -> list[Format]:
    return sorted(set(_by_ending(tuple(__path__)).values()), key=lambda module: module.SUFFIXES)


@lru_cache
def _by_ending(folders: tuple[str, ...]) -> dict[str, Format]:
    """The modules in the folders of this package, by every ending that marks a file as theirs."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(folders)]
    endings = {suffix: module for module in modules for suffix in module.SUFFIXES}
    packed = {f"{end}{packing}": module for end, module in endings.items() if not module.BINARY for packing in PACKINGS}
    return packed | endings
