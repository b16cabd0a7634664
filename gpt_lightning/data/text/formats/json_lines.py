"""JSON lines: each line of the file is a record, a JSON object."""

import json
from collections.abc import Iterator
from pathlib import Path

from gpt_lightning.data.text.blocks import Blocks, blocks_of_texts, open_unpacked
from gpt_lightning.data.text.records import text_of
from gpt_lightning.errors import UserError

SUFFIXES = (".jsonl", ".ndjson")
DESCRIPTION = "JSON lines: records, with the text under `--data.text_key` (default `text`)"
DOCUMENT = "a record"
BINARY = False

MAX_LINE_BYTES = 1 << 28  # a line is in memory at once


def read(path: Path, text_key: str) -> Blocks:
    """The text of each record. Raises UserError, naming the line, if one has none."""
    return blocks_of_texts(_texts(path, text_key))


def _texts(path: Path, text_key: str) -> Iterator[str | None]:
    with open_unpacked(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            where = f"Line {number:,} of {path}"
            if len(line) == MAX_LINE_BYTES:
                raise UserError(f"{where} is longer than {MAX_LINE_BYTES:,} bytes: is it JSON lines?")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where} is not a line of JSON ({error}): mend it or take it out.") from error
            yield text_of(record, text_key, where)
