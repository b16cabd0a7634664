"""docs/resuming.md: which run goes on, from where, and what may change on the way."""

import os
import signal
from pathlib import Path

import pytest

from gpt_lightning.module import GPTModule
from tests.command_line import TINY
from tests.whole_runs.conftest import LAST, error_line, ranks, scalars, step_of


def test_last_is_the_newest_run_that_has_a_checkpoint(copied, fit, tmp_path):
    (copied.parent / "version_1/checkpoints").mkdir(parents=True)
    out, _ = fit("--ckpt_path=last", "--trainer.max_steps=42")
    assert "version_0, resumed at step 40" in out
    assert step_of(tmp_path / LAST) == 42
    assert {path.name for path in copied.parent.iterdir()} == {"version_0", "version_1"}


def test_a_file_is_gone_on_with_in_the_directory_of_its_run(copied, fit, tmp_path):
    out, _ = fit(f"--ckpt_path={copied / 'checkpoints/previous.ckpt'}", "--trainer.max_steps=42")
    assert "resumed at step 30" in out
    assert step_of(tmp_path / LAST) == 42
    assert [path.name for path in copied.parent.iterdir()] == ["version_0"]


def test_the_command_that_is_said_goes_on_for_longer(copied, must_work, trained, monkeypatch):
    """`Go on with …` is typed exactly as it was printed."""
    (line,) = [line for line in (trained / "said.txt").read_text().splitlines() if line.startswith("Go on with")]
    script, *args = line.removeprefix("Go on with").split()[1:]
    out, _ = must_work(script, *args, "--depth_scan.every_n_validations=0", "--trainer.limit_val_batches=1")
    assert "resumed at step 40" in out
    assert "Stopped after 80 optimiser steps" in out
    rates = dict(scalars(copied)["train/learning_rate"])
    assert rates[39] == pytest.approx(rates[79], rel=0.03)  # the end of the cosine, which has been stretched:
    assert rates[44] > 3 * rates[39]


def test_options_of_now_win_over_the_checkpoints(copied, fit):
    options = ["--model.learning_rate=1e-6", "--model.final_learning_rate_fraction=1", "--data.batch_size=2"]
    fit("--ckpt_path=last", "--trainer.max_steps=50", "--trainer.val_check_interval=4", *options)
    curves = scalars(copied)
    rates = dict(curves["train/learning_rate"])
    assert rates[39] > 1e-5
    assert rates[44] == rates[49] == pytest.approx(1e-6)
    validated = [step for step, _ in curves["val/loss"]]
    assert validated[:2] == [19, 39]
    assert len(validated) > 5


def test_another_tokenizer_is_refused(fit, tmp_path):
    """Both have as many ids, but these stand for other bytes."""
    forwards = ranks()
    (tmp_path / "forwards").write_bytes(forwards)
    lines = forwards.splitlines()
    numbers = reversed(range(256))
    (tmp_path / "backwards").write_bytes(
        b"".join(b"%s %d\n" % (x.split()[0], n) for x, n in zip(lines, numbers, strict=False))
    )
    fit("--data.tokenizer=forwards", "--trainer.max_steps=2")
    before = (tmp_path / LAST).read_bytes()
    _, err = fit("--data.tokenizer=backwards", "--ckpt_path=last", status=1)
    assert "--data.tokenizer" in error_line(err)
    assert (tmp_path / LAST).read_bytes() == before


def test_another_optimiser_is_refused(copied, fit, tmp_path):
    before = (tmp_path / LAST).read_bytes()
    _, err = fit("--ckpt_path=last", "--model.optimizer=muon", "--trainer.max_steps=41", status=1)
    assert "--model.optimizer" in error_line(err)
    assert (tmp_path / LAST).read_bytes() == before


def test_other_text_is_warned_of_and_trained_on(copied, fit, tmp_path):
    (tmp_path / "other.txt").write_text("Something else entirely. " * 400)
    with pytest.warns(UserWarning, match="(?i)the training text is not the one"):
        fit("--ckpt_path=last", "--trainer.max_steps=41", corpus="other.txt")


def test_an_exception_saves_the_step_it_ended_and_says_how_to_go_on(fit, main, corpus_file, tmp_path, monkeypatch):
    honest = GPTModule.training_step

    def failing(self, batch, batch_idx):
        if self.global_step == 12:
            raise RuntimeError("of somebody's own")
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(GPTModule, "training_step", failing)
    with pytest.raises(RuntimeError, match="of somebody's own"):  # a bug keeps its traceback
        fit("--trainer.max_steps=15")
    assert step_of(tmp_path / LAST) == 12
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    out, _ = fit("--trainer.max_steps=15", "--ckpt_path=last")
    assert "Ended by an error after 12 optimiser steps, all saved. Go on with  " in out
    assert "resumed at step 12" in out


@pytest.mark.parametrize(("sent", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(fit, tmp_path, monkeypatch, sent, name):
    honest = GPTModule.training_step

    def stopping(self, batch, batch_idx):
        if self.global_step == 7 and batch_idx % 2 == 0:  # the first batch of two
            os.kill(os.getpid(), sent)
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(GPTModule, "training_step", stopping)
    out, _ = fit("--trainer.max_steps=9", status=128 + sent)
    assert f"Stopped by {name} after 8 optimiser steps, all saved. Go on with  python train.py fit" in out
    assert out.rstrip().endswith("--ckpt_path last")
    assert step_of(tmp_path / LAST) == 8


@pytest.mark.parametrize(("subcommand", "name"), [("validate", "last"), ("test", "best")])
def test_a_look_at_a_checkpoint_prints_loss_perplexity_and_bits_per_byte(
    must_work, copied, corpus_file, subcommand, name
):
    options = [*TINY, f"--data.corpus={corpus_file}", "--trainer.enable_progress_bar=false"]
    out, _ = must_work("train.py", subcommand, *options, f"--ckpt_path={name}")
    stage = "val" if subcommand == "validate" else "test"
    assert all(f"{stage}/{figure}" in out for figure in ("loss", "perplexity", "bits_per_byte"))


# ---- token files


def token_file(directory: Path, split: str = "train") -> Path:
    (path,) = directory.glob(f"data/tokens/*/{split}_000000.bin")
    return path


def test_a_flipped_bit_in_a_token_file_is_noticed_when_a_run_begins(fit, tmp_path):
    fit("--trainer.max_steps=1")
    path = token_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    _, err = fit("--trainer.max_steps=1", status=1)
    assert path.name in error_line(err)


def test_text_is_tokenised_once_and_again_when_it_has_changed(fit, tmp_path):
    (tmp_path / "text.txt").write_text("Some text. " * 1000)
    fit("--trainer.max_steps=1", corpus="text.txt")
    first = token_file(tmp_path)
    written = first.stat().st_mtime_ns
    _, err = fit("--trainer.max_steps=1", corpus="text.txt")
    assert token_file(tmp_path).stat().st_mtime_ns == written
    assert "tokenis" not in err
    (tmp_path / "text.txt").write_text("Another text. " * 1000)
    _, err = fit("--trainer.max_steps=1", corpus="text.txt")
    assert "has changed" in err
    assert len(list(tmp_path.glob("data/tokens/*/train_000000.bin"))) == 2
