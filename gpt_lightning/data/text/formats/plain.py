"""Plain text, in a file of any name that no other format claims."""

from pathlib import Path

from gpt_lightning.data.text.blocks import Blocks, blocks_of_file, open_unpacked

SUFFIXES = ("",)
DESCRIPTION = "plain text"
DOCUMENT = "a file"
BINARY = False


def read(path: Path, text_key: str) -> Blocks:
    """The file, unchanged."""
    with open_unpacked(path) as file:
        yield from blocks_of_file(file)
