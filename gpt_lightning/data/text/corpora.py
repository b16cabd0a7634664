"""Where text comes from: a named corpus, the user's own files, or a dataset that is streamed.

A corpus is a list of files, or a dataset, and the shares that go to each split. Nothing here knows of tokens.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from tqdm import tqdm

from gpt_lightning.data.text import formats, hf
from gpt_lightning.data.text.blocks import Blocks
from gpt_lightning.data.text.download import download
from gpt_lightning.errors import UserError
from gpt_lightning.notices import say


@dataclass(frozen=True)
class Corpus:
    """Text and how to split it."""

    name: str  # for messages and directory names
    files: tuple[Path, ...] = ()  # in reading order; empty for a dataset, and for pydoc of the standard library
    # Shares of the bytes for train, val and test. With only two, test is the same text as val. None, for a dataset,
    # means the dataset's own splits.
    percents: tuple[int, ...] | None = (90, 5, 5)
    checksum: tuple[str, str] | None = None  # (hashlib name, digest in hexadecimal) of the text, if known
    source: str = ""  # the full path of what the user named: it stays the same when the text changes
    dataset: hf.Dataset | None = None  # what `datasets` streams, instead of files
    text_key: str = "text"  # the name of the text in a record
    max_bytes: int | None = None  # how much of the text to read; None for all

    @property
    def hash_algorithm(self) -> str:
        """The hashlib name of the hash that identifies the text."""
        return self.checksum[0] if self.checksum else "sha256"


@dataclass(frozen=True)
class _Download:
    url: str
    unpacked: str  # the name of the text in data_dir; the file at `url` may be an archive of it
    checksum: tuple[str, str]
    percents: tuple[int, ...]
    max_bytes: int  # the size of the file at `url`


_DOWNLOADS = {
    # Split as in nanoGPT, which has no test split.
    "shakespeare": _Download(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "tiny_shakespeare.txt",
        ("sha256", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
        (90, 10),
        1_115_394,
    ),
    # The usual split of its 100,000,000 bytes: 90, 5 and 5 million.
    "enwik8": _Download(
        "https://mattmahoney.net/dc/enwik8.zip",
        "enwik8",
        ("sha1", "57b8363b814821dc9d47aa4d41f58733519076b2"),
        (90, 5, 5),
        36_445_475,
    ),
}
NAMED_CORPORA = ("pydoc", *_DOWNLOADS)


def find_corpus(spec: str, data_dir: Path, text_key: str = "text", max_bytes: int | None = None) -> Corpus:
    """The corpus that `spec` names, downloaded to `data_dir` if need be.

    Args:
        spec: pydoc, shakespeare or enwik8; a file, a glob (`**` for any depth) or a directory (with all below it); or a
            dataset, hf:owner/name or hf:owner/name:configuration.
        data_dir: Where downloads are kept.
        text_key: The name of the text in a record.
        max_bytes: Read only so much of the text.

    Raises:
        UserError: there is nothing of that name, or no text in it, or the download failed.
    """
    corpus = _find(spec, data_dir)
    if max_bytes is not None:  # the known hash is that of the full text
        corpus = replace(corpus, checksum=None, source=f"{corpus.source} up to {max_bytes} bytes")
    return replace(corpus, text_key=text_key, max_bytes=max_bytes)


def _find(spec: str, data_dir: Path) -> Corpus:
    if spec.startswith(hf.PREFIX):
        return Corpus(_directory_name(spec.removeprefix(hf.PREFIX)), percents=None, source=spec, dataset=hf.parse(spec))
    if spec == "pydoc":
        return Corpus(spec)
    if spec in _DOWNLOADS:
        known = _DOWNLOADS[spec]
        path = data_dir / known.unpacked
        if not path.exists():
            if known.url.endswith(".zip"):
                path = path.with_name(f"{path.name}.zip")
            download(known.url, path, *known.checksum, known.max_bytes)
        return Corpus(spec, (path,), known.percents, known.checksum, source=spec)
    try:
        files = tuple(_files(spec, data_dir / "tokens"))
    # RecursionError: before Python 3.12 pathlib cannot descend through thousands of nested directories.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"Corpus {spec!r} cannot be looked for ({error}): name a file, glob or directory.") from error
    full = os.path.realpath(os.path.expanduser(spec))
    return Corpus(_directory_name(os.path.basename(full)), files, source=full)


def _directory_name(name: str) -> str:
    """A name that any file system accepts, and short enough in any script."""
    return re.sub(r"\W+", "_", name).strip("_").encode()[:60].decode(errors="ignore") or "corpus"


def full_path(spec: str, data_dir: Path) -> str:
    """The absolute path of the text that `spec` names; for pydoc and a dataset, `spec` itself."""
    if spec == "pydoc" or spec.startswith(hf.PREFIX):
        return spec
    path = data_dir / _DOWNLOADS[spec].unpacked if spec in _DOWNLOADS else spec
    return os.path.realpath(os.path.expanduser(path))


def may_share_text(one: str, other: str) -> bool:
    """Whether two corpora, given by their `full_path`, may have a file in common.

    They may if one lies within the other, or if they have the same last name, as a copy elsewhere would.
    """
    for inner, outer in ((one, other), (other, one)):
        if Path(inner).is_relative_to(outer) or fnmatch(inner, outer.replace("**/", "*")):
            return True
    return Path(one).name == Path(other).name


def read_corpus(corpus: Corpus) -> Blocks:
    """Streams the files of a corpus as (document number, block of bytes).

    The format of a file decides what counts as a document in it.

    Raises:
        UserError: a file cannot be read, or this Python has no pydoc_data.
    """
    left = corpus.max_bytes
    for document, block in _read_files(corpus) if corpus.files else [(0, _pydoc_text())]:
        if block := block[:left]:
            yield document, block
        if left is not None and (left := left - len(block)) == 0:
            return


def _read_files(corpus: Corpus) -> Blocks:
    """The blocks of all files, with documents numbered through."""
    document = -1
    for path in corpus.files:
        previous = None
        for number, block in formats.read_blocks(path, corpus.text_key):
            document += number != previous
            previous = number
            yield document, block


def _pydoc_text() -> bytes:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("This Python comes without pydoc_data: choose another --data.corpus.") from error
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def _files(spec: str, token_dir: Path) -> list[Path]:
    """The files that a path or glob stands for, sorted by name; says which it skips and why."""
    path = Path(os.path.expanduser(spec))
    if path.is_file():
        return [path]
    skipped: dict[str, list] = defaultdict(list)
    candidates = _below(path, token_dir.resolve(), skipped) if path.is_dir() else _matches(path, skipped)
    files = []
    for file in tqdm(candidates, desc=f"looking for text in {spec}", unit=" files", delay=2):
        if reason := _reason_to_skip(file):
            skipped[reason].append(file)
        else:
            files.append(file)
    skips = "; ".join(f"{len(group)} {reason}, such as {str(min(group))!r}" for reason, group in skipped.items())
    if files:
        if skips:
            say(f"Corpus {spec}: reads {len(files)} files, skips {skips}.")
        return sorted(files)
    if path.exists() and not path.is_dir():
        reason = "is a pipe, socket or device, which cannot be read twice: save its text to a file, or"
    elif skips:
        reason = f"has no text to read (skipped: {skips}; read: {formats.in_words()}):"
    elif path.is_dir():
        reason = "holds no file:"
    else:
        reason = f"was not found in {Path.cwd()}:" if not path.is_absolute() else "was not found:"
    raise UserError(
        f"Corpus {spec!r} {reason} name one of {', '.join(NAMED_CORPORA)}, or an existing file, glob or directory."
    )


def _below(directory: Path, token_dir: Path, skipped: dict[str, list]) -> Iterator[Path]:
    """The files at any depth that are neither hidden nor ours. Follows no links to directories: they may be loops."""
    for folder, folders, names in os.walk(directory, onerror=lambda e: skipped["unreadable"].append(Path(e.filename))):
        below = []
        for path in (Path(folder, name) for name in folders):
            if path.name.startswith("."):
                skipped["hidden"].append(path)
            elif path.is_symlink():
                skipped["links to directories"].append(path)
            elif path.resolve() != token_dir:
                below.append(path.name)
        folders[:] = below
        for path in (Path(folder, name) for name in names):
            if path.name.startswith("."):
                skipped["hidden"].append(path)
            else:
                yield path


def _matches(pattern: Path, skipped: dict[str, list]) -> Iterator[Path]:
    """The files that a glob matches. pathlib's `**`, unlike that of `glob`, follows no links: they may be loops."""
    start = next((index for index, part in enumerate(pattern.parts) if re.search(r"[*?[]", part)), None)
    if start is None:
        return
    base, parts = Path(*pattern.parts[:start]), pattern.parts[start:]
    if parts[-1] == "**":
        parts = (*parts, "*")
    wants_hidden = any(part.startswith(".") for part in parts)
    for path in base.glob(str(Path(*parts))):
        if path.is_dir():
            continue
        if not wants_hidden and any(part.startswith(".") for part in path.relative_to(base).parts):
            skipped["hidden"].append(path)
        else:
            yield path


def _reason_to_skip(path: Path) -> str | None:
    """Why a file in a directory or matched by a glob is skipped; None if it is read."""
    try:
        if not path.is_file():  # checked first, since opening a pipe waits for someone to write to it
            return "no regular files"
        with path.open("rb") as file:
            head = file.read(8192)
    except OSError:
        return "unreadable"
    if not head:
        return "empty"
    return "binary" if b"\0" in head and not formats.may_hold_nul(path) else None
