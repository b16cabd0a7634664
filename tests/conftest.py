"""What tests share: a tiny network, a tiny corpus, and the shared data directory where there is one."""

import os
import random
from pathlib import Path

import pytest
import torch

from gpt_lightning.model import GPTConfig

REPO = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """One thread: more only wait for each other on networks this small."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> GPTConfig:
    return GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=16, vocab_size=256)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    """About 20 KB of repetitive text."""
    words = "the cat sat on a mat and saw that rat eat all the oats in time for tea".split()
    chooser = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("".join(chooser.choice(words) + chooser.choice("    \n") for _ in range(5000)))
    return path


def shared_file(name: str) -> Path:
    """A file of the shared data; skips the test where there is none."""
    shared = os.environ.get("GPT_LIGHTNING_SHARED")
    if not shared or not (Path(shared) / name).exists():
        pytest.skip("needs GPT_LIGHTNING_SHARED")
    return Path(shared) / name
