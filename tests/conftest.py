"""What tests share: a tiny network, a tiny corpus, and the shared data directory where there is one."""

import os
import random
import runpy
import sys
from pathlib import Path

import pytest
import torch

from gpt_lightning.model import GPTConfig

REPO = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """One thread: on networks this small, more would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> GPTConfig:
    return GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=16, vocab_size=256)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    """About 20 KB of repetitive text."""
    sentence = "the cat sat on a mat and saw that rat eat all the oats in time for tea"
    words = sentence.split()
    chooser = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("".join(chooser.choice(words) + chooser.choice("    \n") for _ in range(5000)))
    return path


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """Run an entry point as __main__ in this process, which saves the seconds that a new one takes to import torch.

    It runs in `tmp_path` and returns exit status, standard output and standard error.
    """
    monkeypatch.chdir(tmp_path)

    def run_main(script: str, *args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        status = 0
        try:
            runpy.run_path(str(REPO / script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_main


def shared_file(name: str) -> Path:
    """A file of the shared data; the test is skipped where there is none."""
    shared = os.environ.get("GPT_LIGHTNING_SHARED")
    if not shared or not (Path(shared) / name).exists():
        pytest.skip("needs GPT_LIGHTNING_SHARED")
    return Path(shared) / name
