"""Running entry points as a user types them, but in this process, which saves the seconds that importing torch takes;
and reading what a run leaves.
"""

import base64
import contextlib
import io
import re
import runpy
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt_lightning.checkpoints import runs
from gpt_lightning.model import GPT
from tests.command_line import TINY
from tests.conftest import REPO

RUN = Path("runs/default/version_0")
LAST, PREVIOUS = RUN / runs.LAST, RUN / runs.PREVIOUS
# Without what takes most of the time of a run this small.
QUIET = ["--depth_scan.every_n_validations=0", "--attention_heatmaps.every_n_validations=0"]
QUIET += ["--text_samples.every_n_validations=0", "--trainer.enable_progress_bar=false"]

Command = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def typed_in(directory: Path, *argv: object) -> Iterator[None]:
    """Set the working directory and the command line until the end of the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", [*map(str, argv)])
        yield


def train_in(directory: Path, *args: object) -> None:
    """Train to the end in this process, with one thread: the fixture `one_thread` is too late for a wider fixture."""
    torch.set_num_threads(1)
    with typed_in(directory, "train.py", "fit", *args):
        runpy.run_path(str(REPO / "train.py"), run_name="__main__")


@pytest.fixture
def must_work(main) -> Command:
    """As `main`, for a command that has to exit with 0; returns standard output and standard error."""

    def run(script: str, *args: object) -> tuple[str, str]:
        status, out, err = main(script, *args)
        assert status == 0, err
        return out, err

    return run


@pytest.fixture
def module_main(capsys, tmp_path) -> Command:
    """Run `python -m MODULE ARGS` in `tmp_path`; returns exit status, standard output and standard error."""

    def run_module(module: str, *args: object) -> tuple[int, str, str]:
        status = 0
        with typed_in(tmp_path, module, *args), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that the module has been imported before
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as stop:
                status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_module


@pytest.fixture
def fit(main, corpus_file) -> Command:
    """Train a tiny network in `tmp_path`, without pictures and samples; returns standard output and standard error."""

    def run_fit(*args: object, corpus: object = corpus_file, status: int = 0, quiet: bool = True) -> tuple[str, str]:
        options = [*TINY, *(QUIET if quiet else []), f"--data.corpus={corpus}"]
        actual, out, err = main("train.py", "fit", *options, *args)
        assert actual == status, err
        return out, err

    return run_fit


@pytest.fixture(scope="session")
def trained(tmp_path_factory, corpus_file) -> Path:
    """The directory of a finished run of 40 steps, validated and scanned at 20 and 40; to be read, not written."""
    directory = tmp_path_factory.mktemp("trained")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        train_in(directory, *TINY, "--trainer.max_steps=40", f"--data.corpus={corpus_file}")
    (directory / "said.txt").write_text(said.getvalue())
    return directory


@pytest.fixture
def last(trained) -> Path:
    """The last checkpoint of that run."""
    return trained / LAST


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy of that run in `tmp_path`, to be written; returns its directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / RUN


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Refuse every connection."""

    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def ranks(*merges: bytes) -> bytes:
    """A file of tiktoken ranks: every byte by its own id, then these merges."""
    pieces = [bytes([byte]) for byte in range(256)] + list(merges)
    return b"".join(b"%s %d\n" % (base64.b64encode(piece), rank) for rank, piece in enumerate(pieces))


def events(run: Path) -> EventAccumulator:
    """What TensorBoard itself reads from a run."""
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of a run: steps and values."""
    accumulator = events(run)
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


def error_line(err: str) -> str:
    """The one sentence that says what is wrong, in lower case."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line.lower()


def printed_loss(out: str, stage: str = "test") -> float:
    """The loss in the table that `train.py validate` or `test` prints."""
    return float(re.search(rf"{stage}/loss\s*│\s*([\d.]+)", out).group(1))


def loss_by_hand(gpt: GPT, text: bytes, context: int, stride: int | None = None) -> float:
    """Each byte but the first predicted once, in windows that begin `stride` bytes apart; mean nats."""
    tokens, total, done, start = torch.tensor(list(text)), 0.0, 0, 0
    while done < len(tokens) - 1:
        inputs, targets = tokens[start:-1][:context], tokens[start + 1 :][:context]
        with torch.no_grad():
            losses = F.cross_entropy(gpt(inputs[None])[0], targets, reduction="none")
        new = start + len(targets) - done  # predicted by no window before
        total += losses[-new:].sum().item()
        done, start = done + new, start + (stride or context)
    return total / done
