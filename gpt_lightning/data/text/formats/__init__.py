"""The formats of text files. Each module in this package is one: add a module with what `Format` lists, and no more.

Nothing else lists them: help, messages and docs/corpora.md ask here.
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

# A file may hold so many times its size of text and so much more: text packs to a tenth, bombs to a thousandth.
MAX_EXPANSION = 200
EXPANSION_ALLOWED_BYTES = 100_000_000


class Format(Protocol):
    """What a module in this package has.

    Attributes:
        SUFFIXES: How the names of such files end, in lower case. The longest suffix that fits decides.
        DESCRIPTION: What such a file is, in a line of Markdown for people.
        DOCUMENT: What counts as a document, likewise.
        BINARY: Whether the file is more than text, so that it may hold NUL bytes. If not, it may also be packed, with
            .gz or .bz2 after the suffix: open it with `open_unpacked`.
    """

    SUFFIXES: tuple[str, ...]
    DESCRIPTION: str
    DOCUMENT: str
    BINARY: bool

    @staticmethod
    def read(path: Path, text_key: str) -> Blocks:
        """The documents of a file, as `blocks_of_file` and `blocks_of_texts` make them, with little of it in memory; if
        the format has records, their text is under `text_key`. OSError, EOFError or ValueError if the file is damaged.
        """


def read_blocks(path: Path, text_key: str = "text") -> Blocks:
    """Streams a file as (document number, block of at most `BLOCK_BYTES` bytes); an empty document yields nothing.

    Nothing is ever unpacked to the disk, and no more than a block or a record to memory.

    Args:
        path: The file.
        text_key: Where the text is in a record.

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
    # zipfile raises RuntimeError for an encrypted member, NotImplementedError, its subclass, for a compression that it
    # doesn't know, and ValueError, struct.error or OverflowError for nonsense in the directory of an archive.
    except (OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error, BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or cannot be read ({error}): replace it or take it out of the corpus."
        ) from error


def format_of(path: Path) -> Format:
    """The format of a file, by its name."""
    name, endings = "".join(path.suffixes).lower(), _by_ending(tuple(__path__))
    return endings[max((ending for ending in endings if name.endswith(ending)), key=len)]


def may_hold_nul(path: Path) -> bool:
    """Whether NUL bytes in a file are no sign that it isn't text."""
    return format_of(path).BINARY or path.suffix.lower() in PACKINGS


def in_words() -> str:
    """The formats for a sentence, by their suffixes."""
    text, binary = (
        [s or "plain text" for f in _all() if f.BINARY is kind for s in f.SUFFIXES] for kind in (False, True)
    )
    return ", ".join([*text[:-1], f"{text[-1]} (also packed as {' or '.join(PACKINGS)})", *binary])


def table() -> str:
    """The formats as a Markdown table."""
    rows = [f"| {_names(form)} | {form.DESCRIPTION} | {form.DOCUMENT} |" for form in _all()]
    return "\n".join(["| files | what they hold | a document is |", "|---|---|---|", *rows])


def _names(form: Format) -> str:
    packed = "" if form.BINARY else f", also packed as {' or '.join(f'`{packing}`' for packing in PACKINGS)}"
    return ", ".join(f"`{suffix}`" if suffix else "any name but those below" for suffix in form.SUFFIXES) + packed


def _all() -> list[Format]:
    return sorted(set(_by_ending(tuple(__path__)).values()), key=lambda form: form.SUFFIXES)


@lru_cache
def _by_ending(folders: tuple[str, ...]) -> dict[str, Format]:
    """The modules in the folders of this package, by all that names of their files may end in."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(folders)]
    endings = {suffix: module for module in modules for suffix in module.SUFFIXES}
    packed = {f"{end}{packing}": form for end, form in endings.items() if not form.BINARY for packing in PACKINGS}
    return packed | endings
