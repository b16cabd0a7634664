"""Where text comes from: a named corpus, or any file, glob or directory of the user's.

A corpus is a list of files and the percentages of its bytes that go to each split; nothing here knows tokens.
"""

import glob
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from gpt_lightning.data.download import download
from gpt_lightning.data.readers import PACKED_SUFFIXES, Blocks, read_blocks
from gpt_lightning.errors import UserError


@dataclass(frozen=True)
class Corpus:
    """Text and how to split it.

    Attributes:
        name: For messages and directory names.
        files: In the order they are read; empty for pydoc, which lives in the standard library.
        percents: Share of the bytes for train, val and test. Without a third number test is the same text as val.
        checksum: (hashlib name, digest in hexadecimal) of the text, where it is known.
    """

    name: str
    files: tuple[Path, ...] = ()
    percents: tuple[int, ...] = (90, 5, 5)
    checksum: tuple[str, str] | None = None


@dataclass(frozen=True)
class _Download:
    url: str
    unpacked: str  # name of the text under data_dir; the file at `url` may be an archive of it
    checksum: tuple[str, str]
    percents: tuple[int, ...]


_DOWNLOADS = {
    # Split as nanoGPT does, which has no test split.
    "shakespeare": _Download(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "tiny_shakespeare.txt",
        ("sha256", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
        (90, 10),
    ),
    # The usual split of its 100,000,000 bytes: 90, 5 and 5 million.
    "enwik8": _Download(
        "https://mattmahoney.net/dc/enwik8.zip",
        "enwik8",
        ("sha1", "57b8363b814821dc9d47aa4d41f58733519076b2"),
        (90, 5, 5),
    ),
}
NAMED_CORPORA = ("pydoc", *_DOWNLOADS)


def find_corpus(spec: str, data_dir: Path) -> Corpus:
    """The corpus that `spec` names, downloaded to `data_dir` if it is one that has to be.

    Args:
        spec: pydoc, shakespeare, enwik8, or a file, glob (`**` for any depth) or directory (with all below it).
        data_dir: Where downloads are kept.

    Raises:
        UserError: nothing of that name, no text in it, or a failed download.
    """
    if spec == "pydoc":
        return Corpus(spec)
    if spec in _DOWNLOADS:
        source = _DOWNLOADS[spec]
        path = data_dir / source.unpacked
        if not path.exists():
            if source.url.endswith(".zip"):
                path = path.with_name(f"{path.name}.zip")
            if not path.exists():
                download(source.url, path, *source.checksum)
        return Corpus(spec, (path,), source.percents, source.checksum)
    path = Path(spec).expanduser()
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = _readable_texts(path.rglob("*"), spec, hidden_below=path, ours=data_dir / "tokens")
    else:
        files = _readable_texts(map(Path, glob.glob(str(path), recursive=True)), spec)
    # The last part of the path, as a directory name without surprises.
    return Corpus(re.sub(r"\W+", "_", path.resolve().name).strip("_")[:60] or "corpus", tuple(files))


def read_corpus(corpus: Corpus) -> Blocks:
    """Streams the corpus as (document number, block of bytes); every file and every member of a zip is a document.

    Raises:
        UserError: a file cannot be read, or this Python has no pydoc_data.
    """
    if not corpus.files:
        yield 0, _pydoc_text()
    document = -1
    for path in corpus.files:
        previous = None
        for member, block in read_blocks(path):
            document += member != previous
            previous = member
            yield document, block


def _pydoc_text() -> bytes:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("this Python comes without pydoc_data: choose another --data.corpus") from error
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def _readable_texts(
    paths: Iterable[Path], spec: str, hidden_below: Path | None = None, ours: Path | None = None
) -> list[Path]:
    """The text files among `paths`, sorted by name; says what it leaves out and why."""
    files, skipped = [], defaultdict(list)
    for path in sorted(paths):
        if not path.is_file() or (ours and ours.resolve() in path.resolve().parents):
            continue
        if hidden_below and any(part.startswith(".") for part in path.relative_to(hidden_below).parts):
            skipped["hidden"].append(path)
            continue
        try:
            with path.open("rb") as file:
                head = file.read(8192)
        except OSError:
            skipped["unreadable"].append(path)
            continue
        if not head:
            skipped["empty"].append(path)
        elif b"\0" in head and path.suffix.lower() not in PACKED_SUFFIXES:
            skipped["binary"].append(path)
        else:
            files.append(path)
    what = "; ".join(f"{len(group)} {why}, such as {group[0]}" for why, group in skipped.items())
    if not files:
        missing = "holds no file" if Path(spec).is_dir() else "was not found"
        reason = f"has no text to read (skipped: {what})" if what else missing
        raise UserError(
            f"corpus {spec!r} {reason}: name one of {', '.join(NAMED_CORPORA)}, or an existing file, glob or directory"
        )
    if what:
        rank_zero_info(f"Corpus {spec}: reads {len(files)} files, skips {what}.")
    return files
