"""Parquet: tables with a column of text, read by pyarrow."""

from collections.abc import Iterator
from pathlib import Path

from gpt_lightning.data.text.blocks import Blocks, blocks_of_texts
from gpt_lightning.data.text.records import INSTALL
from gpt_lightning.errors import UserError

SUFFIXES = (".parquet",)
DESCRIPTION = "Parquet: rows, with the text in the column `--data.text_key`"
DOCUMENT = "a row"
BINARY = True

BATCH_ROWS = 64  # in memory at a time: documents can be megabytes


def read(path: Path, text_key: str) -> Blocks:
    """The text of each row. Raises UserError if there is no such column of text, or no pyarrow."""
    return blocks_of_texts(_texts(path, text_key))


def _texts(path: Path, text_key: str) -> Iterator[str | None]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} is Parquet, which pyarrow reads: {INSTALL}.") from error
    with parquet.ParquetFile(path) as file:
        columns = file.schema_arrow
        if text_key not in columns.names:
            names = ", ".join(map(repr, columns.names))
            raise UserError(f"{path} has no column {text_key!r}, only {names}: name one with --data.text_key.")
        kind = columns.field(text_key).type
        if pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise UserError(f"Column {text_key!r} of {path} holds no text but {kind}: set --data.text_key.")
        for batch in file.iter_batches(BATCH_ROWS, columns=[text_key], use_threads=False):
            yield from batch.column(0).to_pylist()
