"""Which precision is chosen where. The tests make up what the hardware answers, and check what follows from it."""

import pytest
import torch

from gpt_lightning.training import precision
from gpt_lightning.training.precision import choose_precision


@pytest.mark.parametrize(("has_bf16", "chosen"), [(False, "16-mixed"), (True, "bf16-mixed")])
def test_a_gpu_without_bf16_in_hardware_trains_in_fp16(monkeypatch, has_bf16, chosen):
    """A T4 emulates bf16, and says yes unless asked about the hardware itself."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation
    )
    assert choose_precision(None, on_gpu=True, d_model=768) == (chosen, None)


@pytest.mark.parametrize(
    ("has_bf16", "d_model", "chosen"), [(True, 384, "bf16-mixed"), (True, 128, "32-true"), (False, 768, "32-true")]
)
def test_a_cpu_takes_bf16_only_where_it_gains(monkeypatch, has_bf16, d_model, chosen):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    assert choose_precision(None, on_gpu=False, d_model=d_model) == (chosen, None)


def test_16_mixed_becomes_bf16_on_a_cpu_with_a_line_that_says_so(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    chosen, line = choose_precision("16-mixed", on_gpu=False, d_model=768)
    assert chosen == "bf16-mixed"
    assert "16-mixed runs as bf16-mixed" in line
    assert "32-true is faster" in line


@pytest.mark.parametrize("on_gpu", [True, False])
def test_what_the_user_says_wins(on_gpu):
    assert choose_precision("32-true", on_gpu, d_model=768) == ("32-true", None)
    assert choose_precision("bf16-mixed", on_gpu, d_model=64) == ("bf16-mixed", None)


def test_16_mixed_stays_16_mixed_on_a_gpu():
    assert choose_precision("16-mixed", on_gpu=True, d_model=768) == ("16-mixed", None)
