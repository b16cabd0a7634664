"""The hash that identifies a text, remembered for as long as its files stay the same."""

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
class TextIdentity:
    """What tells one text from another."""

    digest: str  # the hash of the text; for a dataset, whose text is elsewhere, that of the request for it
    size: int | None  # in bytes; None if unknown
    changed: bool  # whether the corpus had another text when it was last read


def identify(corpus: Corpus, home: Path) -> TextIdentity:
    """Hash and size of the text of a corpus.

    The text is read once. Then its hash is kept in `home` and used while the files' paths, sizes and times stay the
    same.

    Raises:
        UserError: the text cannot be read, is empty, or has another hash than the corpus says.
    """
    if corpus.dataset is not None:
        request = [corpus.source, corpus.text_key, corpus.max_bytes, _stamp(corpus)]
        return TextIdentity(hashlib.sha256(json.dumps(request).encode()).hexdigest(), corpus.max_bytes, False)
    known, stamp = recall(home / DIGESTS, str, str, int), _stamp(corpus)
    known_stamp, known_digest, known_size = known.get(corpus.source, (None, None, None))
    if corpus.files and known_stamp == stamp:
        digest, size = known_digest, known_size
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
    if corpus.files and known_stamp != stamp:
        remember(known | {corpus.source: (stamp, digest, size)}, home / DIGESTS)
    return TextIdentity(digest, size, known_digest not in (None, digest))


def _stamp(corpus: Corpus) -> str:
    """A hash that changes, without the files being read, when one is written to or other text is asked of them."""
    files = corpus.files
    if corpus.dataset is not None and (local := Path(corpus.dataset.path)).exists():
        files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    try:
        parts = [(str(path.resolve()), *stamp_of(path)) for path in files]
    except OSError as error:
        raise UserError(f"Corpus {corpus.name} cannot be read ({error}): start again.") from error
    return hashlib.sha256(json.dumps([corpus.hash_algorithm, corpus.text_key, parts]).encode()).hexdigest()
