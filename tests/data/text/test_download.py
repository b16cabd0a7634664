"""Downloads from a server of ours: what arrives is verified, and nothing else is left behind."""

import hashlib
import io
import os
import shutil
import ssl
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt_lightning import make_once
from gpt_lightning.data.text import corpora, download
from gpt_lightning.data.text.corpora import find_corpus
from gpt_lightning.errors import UserError
from tests.data.conftest import with_files_of_at_most

TEXT = b"To be, or not to be.\n" * 20_000
DIGEST = hashlib.sha256(TEXT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `pages`: what to answer to a path, as (headers, content) or the address to redirect to."""

    def __init__(self, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.pages: dict = {"/text": ({}, TEXT)}
        self.asked: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up are what is tested."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        page = self.server.pages[self.path]
        if isinstance(page, str):
            self.send_response(302)
            self.send_header("Location", page)
            self.end_headers()
            return
        headers, content = page
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.server.go_on.wait()
        self.wfile.write(content[len(content) // 2 :])

    def log_message(self, format: str, *args) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Key and certificate of 127.0.0.1, made anew: a key in the repository would be found by whoever looks for keys."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("certificate") / "key_and_certificate.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    command = ["openssl", "req", *options.split(), "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", "-"]
    answer = subprocess.run(command, capture_output=True, check=True)
    path.write_bytes(path.read_bytes() + answer.stdout)
    return path


@pytest.fixture
def server(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(certificate) as server:
        yield server
        server.shutdown()


@pytest.fixture
def plain_server():
    with Server(None) as server:
        yield server
        server.shutdown()


def test_a_download_lands_in_one_piece(tmp_path, server):
    path = tmp_path / "new" / "text.txt"
    download.download(f"{server.url}/text", path, "sha256", DIGEST, len(TEXT))
    assert path.read_bytes() == TEXT
    assert list(path.parent.iterdir()) == [path]


def test_an_archive_is_checked_by_the_text_in_it(tmp_path, server):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("text", TEXT)
    server.pages["/text.zip"] = {}, packed.getvalue()
    download.download(f"{server.url}/text.zip", tmp_path / "text.zip", "sha256", DIGEST, 1_000_000)
    assert (tmp_path / "text.zip").read_bytes() == packed.getvalue()


def test_redirects_within_https_are_followed(tmp_path, server):
    server.pages["/moved"] = "/text"
    download.download(f"{server.url}/moved", tmp_path / "text.txt", "sha256", DIGEST, len(TEXT))
    assert (tmp_path / "text.txt").read_bytes() == TEXT


@pytest.mark.parametrize("target", ["http", "ftp://127.0.0.1:9/text", "file:///etc/hostname"])
def test_redirects_to_anything_else_are_not_followed(target, tmp_path, server, plain_server):
    server.pages["/moved"] = f"{plain_server.url}/text" if target == "http" else target
    with pytest.raises(UserError, match=r"could not be downloaded.*(is not https|not allowed)"):
        download.download(f"{server.url}/moved", tmp_path / "text.txt", "sha256", DIGEST, len(TEXT))
    assert server.asked == ["/moved"]
    assert plain_server.asked == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "headers", "content", "message"),
    [
        ("text.txt", {}, TEXT[:-1] + b"!", "sent something else"),
        ("text.zip", {}, b"PK broken", "damaged archive"),
        ("text.txt", {"Content-Length": str(len(TEXT) + 5)}, TEXT, "ended 5 bytes too early"),
        ("text.txt", {"Content-Length": ""}, TEXT[:5000], "sent something else"),
        ("text.txt", {"Content-Length": "many"}, TEXT + b"!", f"sends more than the {len(TEXT):,} bytes"),
        ("text.txt", {"Transfer-Encoding": "chunked", "Content-Length": ""}, b"zzz" * 99, "could not be downloaded"),
    ],
)
def test_a_bad_download_leaves_nothing_and_says_what_to_do(tmp_path, server, name, headers, content, message):
    server.pages["/bad"] = headers, content
    with pytest.raises(UserError, match=message) as error:
        download.download(f"{server.url}/bad", tmp_path / name, "sha256", DIGEST, len(TEXT))
    assert f"put the file at {tmp_path / name}" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_endless_stream_is_cut_off(tmp_path, server, start):
    server.pages["/endless"] = {"Content-Length": ""}, TEXT * 100  # 42 MB
    download_text = (f"{server.url}/endless", tmp_path / "text.txt", "sha256", DIGEST, 1_500_000)
    # No room for more than is read: going on any longer would end in another message.
    _, pipe = start(lambda pipe: with_files_of_at_most(1_500_000, pipe, download.download, *download_text))
    assert "it sends more than the 1,500,000 bytes that the file has" in pipe.recv()
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_message_says_which_file_to_put_where(tmp_path):
    closed = "https://127.0.0.1:9/text"
    with pytest.raises(UserError) as error:
        download.download(closed, tmp_path / "text.txt", "sha256", DIGEST, len(TEXT))
    for words in (closed, str(tmp_path / "text.txt"), f"sha256 of its text: {DIGEST}", "--data.corpus FILE"):
        assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written.*--data.data_dir"):
        download.download("https://127.0.0.1:9/text", tmp_path / "file" / "text.txt", "sha256", DIGEST, len(TEXT))


def test_a_full_disk_is_told_from_a_bad_network(tmp_path, server, start):
    (tmp_path / "other.txt").write_text("was there")
    download_text = (f"{server.url}/text", tmp_path / "text.txt", "sha256", DIGEST, len(TEXT))
    _, pipe = start(lambda pipe: with_files_of_at_most(100_000, pipe, download.download, *download_text))
    message = pipe.recv()
    assert message.startswith(f"{tmp_path} cannot be written ([Errno 27] File too large): make room or choose another")
    assert [path.read_text() for path in tmp_path.iterdir() if path.name[0] != "."] == ["was there"]
    assert not list(tmp_path.glob(".*"))


def test_of_two_processes_one_downloads(tmp_path, server, start, monkeypatch):
    def download_text(pipe):
        monkeypatch.setattr(make_once, "say", pipe.send)
        download.download(f"{server.url}/text", tmp_path / "text.txt", "sha256", DIGEST, len(TEXT))
        pipe.send("done")

    server.go_on.clear()
    _, first = start(download_text)
    while not list(tmp_path.glob(".unfinished-*-text.txt")):
        assert not first.poll(0.01)
    _, second = start(download_text)
    assert second.recv() == f"Another process is making {tmp_path / 'text.txt'}: waiting for it."
    server.go_on.set()
    assert (first.recv(), second.recv()) == ("done", "done")
    assert server.asked == ["/text"]
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt"}


def test_what_a_killed_download_left_is_removed_by_the_next(tmp_path, server, start):
    arguments = (f"{server.url}/text", tmp_path / "text.txt", "sha256", DIGEST, len(TEXT))
    server.go_on.clear()
    process, pipe = start(lambda pipe: download.download(*arguments))
    while not list(tmp_path.glob(".unfinished-*-text.txt")):
        assert not pipe.poll(0.01)
    process.kill()
    process.join()
    server.go_on.set()
    (left,) = tmp_path.glob(".unfinished-*-text.txt")
    # Another file's, and another machine's, for which the lock may mean nothing, stay until they are a day old.
    ours = left.name.removesuffix("text.txt")
    others = [tmp_path / f"{ours}context.txt", tmp_path / ".unfinished-elsewhere-01234567-text.txt"]
    others[0].touch()
    others[1].mkdir()
    (others[1] / "train.bin").touch()
    users = tmp_path / ".elsewhere-01234567-text.txt"
    users.touch()
    download.download(*arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", users.name, *(other.name for other in others)}
    for old in (users, *others):
        os.utime(old, (0, 0))
        (tmp_path / "text.txt").unlink()
        download.download(*arguments)
    # Something is being written to in the last, as its file says.
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", users.name, others[1].name}


def test_named_corpora_are_downloaded_once(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, path, algorithm, digest, max_bytes):
        assert url.startswith("https://")
        fetched.append((path.name, max_bytes))
        path.touch()

    monkeypatch.setattr(corpora, "download", fetch)
    find_corpus("shakespeare", tmp_path)
    find_corpus("enwik8", tmp_path)
    assert fetched == [("tiny_shakespeare.txt", 1_115_394), ("enwik8.zip", 36_445_475)]
    monkeypatch.undo()
    for name in ("shakespeare", "enwik8"):  # now they are there
        find_corpus(name, tmp_path)
