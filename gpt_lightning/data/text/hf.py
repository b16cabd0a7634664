"""Text from any dataset that Hugging Face's `datasets` can stream, from its hub or from local files.

Documents are read once and not stored: only their tokens are kept.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any

from gpt_lightning.data.text.records import INSTALL, text_of
from gpt_lightning.errors import UserError

PREFIX = "hf:"
# For a dataset without held-out splits: one document in a hundred for validation, one for the test.
PERCENTS = (98, 1, 1)
_HELD_OUT = (("validation", "val", "valid", "dev"), ("test",))  # what datasets call these splits


@dataclass(frozen=True)
class Dataset:
    """The parts of a name such as `hf:HuggingFaceFW/fineweb-edu:sample-10BT`."""

    path: str  # on the hub, or a local directory
    config: str | None


def parse(spec: str) -> Dataset:
    """The dataset that `hf:path` or `hf:path:configuration` names.

    Raises:
        UserError: there is no path.
    """
    path, _, config = spec.removeprefix(PREFIX).partition(":")
    if not path:
        raise UserError(f"Corpus {spec!r} names no dataset: write hf:owner/name or hf:owner/name:configuration.")
    return Dataset(path, config or None)


def read_dataset(
    dataset: Dataset, text_key: str, percents: tuple[int, ...] | None, max_bytes: int | None
) -> Iterator[tuple[int, int, bytes]]:
    """Streams (index of the split, document number, text as UTF-8), the splits in order.

    Validation and test are the dataset's own; if it has only one of them, that one is both. If it has neither, or if
    `percents` is given, the train split is divided: of every 100 documents in a row the first are for training, the
    next for validation, the last for the test.

    Args:
        dataset: From `parse`.
        text_key: The name of the text in a record.
        percents: Shares of training, validation and test.
        max_bytes: Stop a split after the document with which it reaches so much text. If the train split is divided,
            that counts for all parts together.

    Raises:
        UserError: `datasets` is not installed, or the dataset cannot be read or has no such text.
    """
    splits = _load(dataset)
    if "train" not in splits:
        raise UserError(
            f"Dataset {dataset.path} has no split 'train', only {', '.join(map(repr, splits))}: name another dataset."
        )

    def texts(split: str) -> Iterator[tuple[int, bytes]]:
        return _documents(splits[split], f"{split} in {dataset.path}", text_key, dataset, max_bytes)

    val, test = (next((name for name in names if name in splits), None) for names in _HELD_OUT)
    if percents is None and (val or test):
        for index, split in enumerate(["train", val, test] if val and test else ["train", val or test]):
            yield from ((index, *document) for document in texts(split))
        return
    ends = list(accumulate(percents or PERCENTS))
    for number, text in texts("train"):
        yield bisect_right(ends, number % 100), number, text


def _load(dataset: Dataset) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"Corpus {PREFIX}{dataset.path} is streamed by Hugging Face's datasets: {INSTALL}.") from error
    try:
        return dict(datasets.load_dataset(dataset.path, dataset.config, streaming=True))
    except Exception as error:  # the network, the hub and the file formats raise too many types to list
        raise _unreadable(dataset, error) from error


def _documents(
    records: Any, where: str, text_key: str, dataset: Dataset, max_bytes: int | None
) -> Iterator[tuple[int, bytes]]:
    """The records that have text, numbered, up to the one with which they reach `max_bytes`."""
    records, document, size = iter(records), 0, 0
    for number in count():
        try:
            record = next(records, None)
        except Exception as error:
            raise _unreadable(dataset, error) from error
        if record is None:
            return
        if text := text_of(record, text_key, f"Record {number:,} of {where}"):
            data = text.encode("utf-8", "replace")
            yield document, data
            document, size = document + 1, size + len(data)
            if max_bytes is not None and size >= max_bytes:
                return


def _unreadable(dataset: Dataset, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0]
    return UserError(
        f"Dataset {dataset.path} could not be read ({type(error).__name__}: {reason}): see that its name, its "
        "configuration (hf:owner/name:configuration) and the network are right, and start again, which goes on after "
        "the last finished shard."
    )
