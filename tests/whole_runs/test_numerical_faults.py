"""docs/numerical-faults.md: what a NaN and a spike do to a run, under each option."""

import pytest
import torch

from gpt_lightning.module import GPTModule
from tests.whole_runs.conftest import LAST, RUN, error_line, scalars


@pytest.fixture
def bad_step(monkeypatch):
    """Make the loss of step 7 NaN, whatever the weights are."""
    honest = GPTModule.training_step

    def step(self, batch, batch_idx):
        loss = honest(self, batch, batch_idx)
        return loss * float("nan") if self.global_step == 7 else loss

    monkeypatch.setattr(GPTModule, "training_step", step)


def test_a_loss_that_is_nan_stops_the_run_which_goes_on_without_that_step(bad_step, fit, tmp_path):
    out, err = fit("--trainer.max_steps=10", status=1)
    assert "loss is nan at optimiser step 7" in error_line(err)
    assert "--model.on_nonfinite" in err
    assert "after 7 optimiser steps, all saved. Go on with" in out
    kept = torch.load(tmp_path / LAST, weights_only=True)
    assert kept["global_step"] == 7
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())
    out, _ = fit("--trainer.max_steps=10", "--ckpt_path=last", "--model.on_nonfinite=skip")
    (line,) = [line for line in out.splitlines() if "SKIPPED" in line]
    assert line.startswith("step      7  SKIPPED")
    assert "Stopped after 10 optimiser steps" in out
    curves = scalars(tmp_path / RUN)
    assert curves["train/skipped_steps"] == [(4, 0), (9, 1)]
    assert [step for step, _ in curves["train/grad_norm"]] == [4, 9]


def test_a_gradient_that_is_nan_is_named_by_step_layer_and_value(fit, monkeypatch):
    honest = GPTModule.training_step

    def step(self, batch, batch_idx):
        weight = self.model.blocks[1].mlp.down.weight
        spoilt = torch.zeros_like(weight)
        spoilt.view(-1)[:37] = float("nan")
        if self.global_step == 7:
            weight.register_hook(lambda gradient: gradient + spoilt)
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(GPTModule, "training_step", step)
    _, err = fit("--trainer.max_steps=10", status=1)
    said = error_line(err)
    assert "a gradient is not finite at optimiser step 7, with a loss of " in said
    assert "blocks.1.mlp.down.weight (layer 1's mlp) has 37 nan among its 1,024 values" in said


def test_twenty_skipped_steps_in_a_row_stop_the_run(fit, monkeypatch, tmp_path):
    honest = GPTModule.training_step
    monkeypatch.setattr(GPTModule, "training_step", lambda self, *args: honest(self, *args) * float("inf"))
    out, err = fit("--trainer.max_steps=40", "--model.on_nonfinite=skip", status=1)
    assert out.count("SKIPPED") in (19, 20)
    assert "20" in error_line(err)


@pytest.mark.parametrize("choice", ["warn", "skip", "stop"])
def test_a_spike_is_said_skipped_or_the_end_from_the_factor_on_that_is_set(fit, tmp_path, choice):
    """The factor is so close to 1 that about every other step is a spike."""
    options = ["--model.spike_factor=1.000001", *([] if choice == "warn" else [f"--model.on_spike={choice}"])]
    out, err = fit("--trainer.max_steps=20", *options, status=int(choice == "stop"))
    said = {word: [line for line in out.splitlines() if word in line] for word in ("SPIKE", "SKIPPED")}
    assert bool(said["SPIKE"]) == (choice == "warn")
    assert bool(said["SKIPPED"]) == (choice == "skip")
    if choice == "stop":
        assert "optimiser step" in error_line(err)
    else:
        assert scalars(tmp_path / RUN)["train/skipped_steps"][-1] == (19, len(said["SKIPPED"]))
        assert all(int(line.split()[1]) >= 5 for lines in said.values() for line in lines)  # the sixth step


def test_a_run_that_is_well_says_nothing(trained):
    said = (trained / "said.txt").read_text()
    assert not any(word in said for word in ("SPIKE", "SKIPPED", "ALARM"))
