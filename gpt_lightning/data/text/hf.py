"""Text from any dataset that Hugging Face's `datasets` can stream, from its hub or from local files.

The documents pass by once; only their tokens are kept.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any

from gpt_lightning.data.text.records import INSTALL, text_of
from gpt_lightning.errors import UserError

PREFIX = "hf:"
# If a dataset holds out no documents, one in a hundred is for validation and one for the test.
PERCENTS = (98, 1, 1)
_HELD_OUT = (("validation", "val", "valid", "dev"), ("test",))  # names of such splits


@dataclass(frozen=True)
class Dataset:
    """A name such as `hf:HuggingFaceFW/fineweb-edu:sample-10BT` in its parts."""

    path: str  # on the hub, or a local directory
    config: str | None


def parse(spec: str) -> Dataset:
    """The dataset that `hf:path` or `hf:path:configuration` names.

    Raises:
        UserError: it names none.
    """
    path, _, config = spec.removeprefix(PREFIX).partition(":")
    if not path:
        raise UserError(f"Corpus {spec!r} names no dataset: write hf:owner/name or hf:owner/name:configuration.")
    return Dataset(path, config or None)


def read_dataset(
    dataset: Dataset, text_key: str, percents: tuple[int, ...] | None, max_bytes: int | None
) -> Iterator[tuple[int, int, bytes]]:
    """Streams (index of the split, document number, text as UTF-8), the splits in order.

    Validation and test are the dataset's own; if it has only one of them, that is both. If it has neither, or with
    `percents`, it is divided: of every 100 documents in a row the first are for training, the next for validation.

    Args:
        dataset: From `parse`.
        text_key: Where in a record its text is.
        percents: Shares of training, validation and test.
        max_bytes: The document with which a split reaches so much text is its last; if the dataset is divided, the one
            with which all splits together do.

    Raises:
        UserError: `datasets` is not installed, or the dataset cannot be read or has no such text.
    """
    splits = _load(dataset)
    if "train" not in splits:
        raise UserError(
            f"Dataset {dataset.path} has no split 'train', only {', '.join(map(repr, splits))}: name another dataset."
        )

    def texts(split: str) -> Iterator[tuple[int, bytes]]:
        return _up_to(max_bytes, _texts(splits[split], split, text_key, dataset))

    val, test = (next((name for name in names if name in splits), None) for names in _HELD_OUT)
    if percents is None and (val or test):
        yield from ((0, *document) for document in texts("train"))
        yield from ((1, *document) for document in texts(val or test))
        if val and test:
            yield from ((2, *document) for document in texts(test))
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
    except Exception as error:  # of the network, the hub, the file formats: there is no end to them
        raise _unreadable(dataset, error) from error


def _texts(records: Any, split: str, text_key: str, dataset: Dataset) -> Iterator[bytes]:
    rows = iter(records)
    for number in count():
        try:
            record = next(rows, None)
        except Exception as error:
            raise _unreadable(dataset, error) from error
        if record is None:
            return
        if text := text_of(record, text_key, f"Record {number:,} of {split} in {dataset.path}"):
            yield text.encode("utf-8", "replace")


def _up_to(max_bytes: int | None, texts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    size = 0
    for number, text in enumerate(texts):
        yield number, text
        size += len(text)
        if max_bytes is not None and size >= max_bytes:
            return


def _unreadable(dataset: Dataset, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0]
    return UserError(
        f"Dataset {dataset.path} could not be read ({type(error).__name__}: {reason}): see that its name, its "
        "configuration (hf:owner/name:configuration) and the network are right, and start again, which goes on after "
        "the last finished shard."
    )
