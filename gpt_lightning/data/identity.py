"""What tells one text from another, without keeping it: a hash, remembered for as long as its files stay the same."""

import contextlib
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_lightning.data.corpora import Corpus, read_corpus
from gpt_lightning.data.readers import fingerprint
from gpt_lightning.errors import UserError

DIGESTS = "digests.json"


@dataclass(frozen=True)
class Text:
    """What tells one text from another.

    Attributes:
        digest: Its hash; of a dataset, whose text is not here, the hash of what it is asked for.
        size: Bytes; None if that is not known.
        changed: Whether the same corpus was another text when it was last looked at.
    """

    digest: str
    size: int | None
    changed: bool


def identify(corpus: Corpus, home: Path) -> Text:
    """Hash and size of the text of a corpus.

    The text is read once; then its hash is remembered, in `home`, for as long as the files' paths, sizes and times stay
    the same.

    Raises:
        UserError: it cannot be read, is empty, or not what it has to be.
    """
    if corpus.dataset is not None:
        asked = [corpus.source, corpus.text_key, corpus.max_bytes, _stamp(corpus)]
        return Text(hashlib.sha256(json.dumps(asked).encode()).hexdigest(), corpus.max_bytes, False)
    known, stamp = _remembered(home / DIGESTS), _stamp(corpus)
    then_stamp, then_digest, then_size = known.get(corpus.source, (None, None, None))
    if corpus.files and then_stamp == stamp:
        digest, size = then_digest, then_size
    else:
        digest, size = fingerprint(read_corpus(corpus), corpus.hash_algorithm)
    if corpus.checksum and digest != corpus.checksum[1]:
        raise UserError(
            f"{corpus.files[0]} is not {corpus.name} ({corpus.hash_algorithm} of its text is {digest}, not "
            f"{corpus.checksum[1]}): delete it to download it again, or train on it as it is with --data.corpus "
            f"{corpus.files[0].resolve()}"
        )
    if not size:
        raise UserError(f"corpus {corpus.name} is empty: {', '.join(map(str, corpus.files))} holds no text")
    if corpus.files and then_stamp != stamp:
        remember(known | {corpus.source: (stamp, digest, size)}, home / DIGESTS)
    return Text(digest, size, then_digest not in (None, digest))


def stamp_of(stat: os.stat_result) -> list[int]:
    """What changes when someone writes to a file. The time of change (ctime) too: that of modification can be set."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def remember(known: dict[str, Any], cache: Path) -> None:
    """Two processes may both add to a cache and one addition be lost: that costs another reading, no more."""
    partial = cache.with_name(f".{uuid.uuid4().hex[:8]}-{cache.name}")
    with contextlib.suppress(OSError):  # as does a directory that cannot be written
        try:
            partial.write_text(json.dumps(known, indent=2) + "\n")
            partial.replace(cache)
        finally:
            partial.unlink(missing_ok=True)


def _stamp(corpus: Corpus) -> str:
    """What changes when someone writes to one of the files, without reading them, or asks for another text of them."""
    files = corpus.files
    if corpus.dataset is not None and (local := Path(corpus.dataset.path)).exists():
        files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    try:
        stats = [(str(path.resolve()), path.stat()) for path in files]
    except OSError as error:
        raise UserError(f"corpus {corpus.name} cannot be read ({error}): start again") from error
    parts = [(path, *stamp_of(stat)) for path, stat in stats]
    return hashlib.sha256(json.dumps([corpus.hash_algorithm, corpus.text_key, parts]).encode()).hexdigest()


def _remembered(cache: Path) -> dict[str, tuple[str, str, int]]:
    """By the source of a corpus, its stamp, digest and size when it was last read. What is no such entry is ignored."""
    try:
        entries = json.loads(cache.read_text()).items()
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {k: tuple(v) for k, v in entries if isinstance(v, list) and [type(part) for part in v] == [str, str, int]}
