import hashlib
import io
import zipfile

import pytest

from gpt_lightning.data import corpora, download
from gpt_lightning.data.corpora import find_corpus
from gpt_lightning.errors import UserError

TEXT = b"To be, or not to be.\n" * 100
DIGEST = hashlib.sha256(TEXT).hexdigest()
URL = "https://example.com/text"


class Response(io.BytesIO):
    """What urlopen gives, with as many bytes announced as `size` says."""

    def __init__(self, content: bytes, size: int | None = None, url: str = URL) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content) if size is None else size)}
        self.geturl = lambda: url


def serve(monkeypatch, *args, **kwargs):
    monkeypatch.setattr(download, "urlopen", lambda url, timeout: Response(*args, **kwargs))


def test_a_download_lands_in_one_piece(tmp_path, monkeypatch):
    serve(monkeypatch, TEXT)
    path = tmp_path / "new" / "text.txt"
    download.download(URL, path, "sha256", DIGEST)
    assert path.read_bytes() == TEXT
    assert list(path.parent.iterdir()) == [path]


def test_an_archive_is_checked_by_the_text_in_it(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("text", TEXT)
    serve(monkeypatch, packed.getvalue())
    download.download(URL, tmp_path / "text.zip", "sha256", DIGEST)
    assert (tmp_path / "text.zip").exists()


@pytest.mark.parametrize(
    ("name", "response", "message"),
    [
        ("text.txt", {"content": TEXT + b"!"}, "sent something else"),
        ("text.zip", {"content": b"PK broken"}, "damaged archive"),
        ("text.txt", {"content": TEXT[:50], "size": len(TEXT)}, f"ended after 50 of {len(TEXT)} bytes"),
        ("text.txt", {"content": TEXT, "url": "http://example.com/text"}, "is not https"),
    ],
)
def test_a_bad_download_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch, name, response, message):
    serve(monkeypatch, **response)
    with pytest.raises(UserError, match=message) as error:
        download.download(URL, tmp_path / name, "sha256", DIGEST)
    assert f"put the file at {tmp_path / name}" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_message_says_which_file_to_put_where(tmp_path):
    closed = "https://127.0.0.1:9/text"
    with pytest.raises(UserError) as error:
        download.download(closed, tmp_path / "text.txt", "sha256", DIGEST)
    for words in (closed, str(tmp_path / "text.txt"), f"sha256 of its text: {DIGEST}", "--data.corpus FILE"):
        assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written.*--data.data_dir"):
        download.download(URL, tmp_path / "file" / "text.txt", "sha256", DIGEST)


def test_named_corpora_are_downloaded_once(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, path, algorithm, digest):
        fetched.append(path.name)
        path.touch()

    monkeypatch.setattr(corpora, "download", fetch)
    for _ in range(2):
        find_corpus("shakespeare", tmp_path)
        find_corpus("enwik8", tmp_path)
    assert fetched == ["tiny_shakespeare.txt", "enwik8.zip"]
