"""What tells one text from another, without keeping it: a hash, remembered for as long as its files stay the same."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gpt_lightning.data.text.blocks import fingerprint
from gpt_lightning.data.text.corpora import Corpus, read_corpus
from gpt_lightning.data.verified import recall, remember, stamp_of
from gpt_lightning.errors import UserError

DIGESTS = "digests.json"


@dataclass(frozen=True)
class Text:
    """What tells one text from another.

    Attributes:
        digest: Its hash; of a dataset, whose text is not here, the hash of what is asked of it.
        size: Bytes; None if that is not known.
        changed: Whether the same corpus had another text when it was last read.
    """

    digest: str
    size: int | None
    changed: bool


def identify(corpus: Corpus, home: Path) -> Text:
    """Hash and size of the text of a corpus.

    The text is read once; after that its hash is remembered, in `home`, for as long as the files' paths, sizes and
    times stay the same.

    Raises:
        UserError: it cannot be read, is empty, or has another hash than it should.
    """
    if corpus.dataset is not None:
        asked = [corpus.source, corpus.text_key, corpus.max_bytes, _stamp(corpus)]
        return Text(hashlib.sha256(json.dumps(asked).encode()).hexdigest(), corpus.max_bytes, False)
    known, stamp = recall(home / DIGESTS, str, str, int), _stamp(corpus)
    then_stamp, then_digest, then_size = known.get(corpus.source, (None, None, None))
    if corpus.files and then_stamp == stamp:
        digest, size = then_digest, then_size
    else:
        digest, size = fingerprint(read_corpus(corpus), corpus.hash_algorithm)
    if corpus.checksum and digest != corpus.checksum[1]:
        raise UserError(
            f"{corpus.files[0]} is not {corpus.name} ({corpus.hash_algorithm} of its text is {digest}, not "
            f"{corpus.checksum[1]}): delete it to download it again, or train on it as it is with --data.corpus "
            f"{corpus.files[0].resolve()}."
        )
    if not size:
        raise UserError(
            f"Corpus {corpus.name} is empty: {', '.join(map(str, corpus.files))} holds no text. "
            "Name another --data.corpus."
        )
    if corpus.files and then_stamp != stamp:
        remember(known | {corpus.source: (stamp, digest, size)}, home / DIGESTS)
    return Text(digest, size, then_digest not in (None, digest))


def _stamp(corpus: Corpus) -> str:
    """What changes when someone writes to one of the files, without reading them, or asks for another text of them."""
    files = corpus.files
    if corpus.dataset is not None and (local := Path(corpus.dataset.path)).exists():
        files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    try:
        parts = [(str(path.resolve()), *stamp_of(path)) for path in files]
    except OSError as error:
        raise UserError(f"Corpus {corpus.name} cannot be read ({error}): start again.") from error
    return hashlib.sha256(json.dumps([corpus.hash_algorithm, corpus.text_key, parts]).encode()).hexdigest()
