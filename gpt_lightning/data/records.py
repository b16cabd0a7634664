"""Text out of files of records, one document each: JSON lines and Parquet.

It knows nothing of corpora or tokens. Records that are no text are errors: to train on half a corpus unawares is worse.
"""

import bz2
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from gpt_lightning.errors import UserError

LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
MAX_LINE_BYTES = 1 << 28  # a line is in memory at once
BATCH_ROWS = 64  # of Parquet at a time: documents can be megabytes
INSTALL = "pip install -r requirements-data.txt"


def has_records(path: Path) -> bool:
    """Whether a file's name says that it holds records; those of JSON lines may be packed (.gz, .bz2)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-1:] == [PARQUET] or bool(lines_suffix(suffixes))


def lines_suffix(suffixes: list[str]) -> str:
    """What of a name's last suffixes says JSON lines: "" if nothing does."""
    packed = suffixes[-1:] in ([".gz"], [".bz2"])
    return next((suffix for suffix in suffixes[-1 - packed : len(suffixes) - packed] if suffix in LINES), "")


def read_records(path: Path, text_key: str) -> Iterator[bytes]:
    """The documents of a file, in order, as UTF-8; those without text are left out.

    Args:
        path: A file for which `has_records`.
        text_key: Where in a record its text is: a key, or the name of a column.

    Raises:
        UserError: a record has no such text, or pyarrow is not installed.
        OSError, EOFError, ValueError: the file cannot be read, or is damaged.
    """
    texts = _column(path, text_key) if path.suffix.lower() == PARQUET else _lines(path, text_key)
    for text in texts:
        if text:
            # JSON can spell half a surrogate pair, which no UTF-8 has.
            yield text.encode("utf-8", "replace")


def text_of(record: object, text_key: str, where: str) -> str | None:
    """The text in a record; None if it is null.

    Raises:
        UserError: it has none under that key.
    """
    if not isinstance(record, dict) or text_key not in record:
        keys = f"only {', '.join(map(repr, record))}" if isinstance(record, dict) and record else "no key at all"
        raise UserError(f"{where} has no text under {text_key!r}, {keys}: name the key with --data.text_key")
    text = record[text_key]
    if text is not None and not isinstance(text, str):
        raise UserError(f"{where} has no text under {text_key!r} but a {type(text).__name__}: set --data.text_key")
    return text


def _lines(path: Path, text_key: str) -> Iterator[str | None]:
    opener = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix.lower(), open)
    with opener(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            where = f"line {number:,} of {path}"
            if len(line) == MAX_LINE_BYTES:
                raise UserError(f"{where} is longer than {MAX_LINE_BYTES:,} bytes: is it JSON lines?")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where} is not a line of JSON ({error}): mend it or take it out") from error
            yield text_of(record, text_key, where)


def _column(path: Path, text_key: str) -> Iterator[str | None]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} is Parquet, which pyarrow reads: {INSTALL}") from error
    with parquet.ParquetFile(path) as file:
        columns = file.schema_arrow
        if text_key not in columns.names:
            found = ", ".join(map(repr, columns.names))
            raise UserError(f"{path} has no column {text_key!r}, only {found}: name one with --data.text_key")
        kind = columns.field(text_key).type
        if pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise UserError(f"column {text_key!r} of {path} holds no text but {kind}: set --data.text_key")
        for batch in file.iter_batches(BATCH_ROWS, columns=[text_key], use_threads=False):
            yield from batch.column(0).to_pylist()
