"""Entry points run as a user types them, but in this process, which saves the seconds that importing torch takes."""

import base64
import contextlib
import io
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt_lightning.model import GPT
from tests.command_line import TINY
from tests.conftest import REPO

LAST = Path("runs/default/version_0/checkpoints/last.ckpt")
# Without what takes the time of a run this small.
QUIET = ["--depth_scan.every_n_validations=0", "--attention_heatmaps.every_n_validations=0"]
QUIET += ["--text_samples.every_n_validations=0", "--trainer.enable_progress_bar=false"]

Command = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def typed_in(directory: Path, *argv: str) -> Iterator[None]:
    """A working directory and a command line, until the end of the block."""
    before = os.getcwd(), sys.argv
    os.chdir(directory)
    sys.argv = list(argv)
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv = before[1]


@pytest.fixture
def module_main(capsys, tmp_path) -> Command:
    """Run `python -m MODULE ARGS` in `tmp_path`; returns exit status, standard output and standard error."""

    def run_module(module: str, *args: object) -> tuple[int, str, str]:
        status = 0
        with typed_in(tmp_path, module, *map(str, args)), warnings.catch_warnings():
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
        found, out, err = main("train.py", "fit", *options, *args)
        assert found == status, err
        return out, err

    return run_fit


@pytest.fixture(scope="session")
def trained(tmp_path_factory, corpus_file) -> Path:
    """The directory of a finished run of 40 steps, validated and scanned at 20 and 40; to be read, not written."""
    directory = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    said = io.StringIO()
    args = ["fit", *TINY, "--trainer.max_steps=40", f"--data.corpus={corpus_file}"]
    with typed_in(directory, "train.py", *args), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        runpy.run_path(str(REPO / "train.py"), run_name="__main__")
    (directory / "said.txt").write_text(said.getvalue())
    return directory


@pytest.fixture
def last(trained) -> Path:
    """The last checkpoint of that run."""
    return trained / LAST


def ranks(*merges: bytes) -> bytes:
    """A file of tiktoken ranks: every byte by its own id, then these merges."""
    pieces = [bytes([byte]) for byte in range(256)] + list(merges)
    return b"".join(b"%s %d\n" % (base64.b64encode(piece), rank) for rank, piece in enumerate(pieces))


def events(run: Path) -> EventAccumulator:
    """What TensorBoard itself reads from a run."""
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


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
