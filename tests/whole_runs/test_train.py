"""train.py as a user runs it: the files of a run, what TensorBoard reads, a killed process, bad input."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml

from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.module import GPTModule
from tests.command_line import TINY, command, environment, run
from tests.conftest import REPO
from tests.whole_runs.conftest import LAST, RUN, events, scalars, step_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus_file) -> Path:
    """The working directory of a finished run."""
    directory = tmp_path_factory.mktemp("finished")
    result = run("train.py", "fit", *TINY, "--data.corpus", corpus_file, cwd=directory)
    assert result.returncode == 0, result.stderr
    (directory / "stdout.txt").write_text(result.stdout)
    return directory


def test_a_run_leaves_what_the_contract_says(finished):
    run_dir = finished / RUN
    assert (run_dir / "checkpoints/last.ckpt").is_file()
    assert (run_dir / "checkpoints/best.ckpt").is_file()
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"]["gpt"]["n_layer"] == 2
    # Taken as somebody's own configuration, it must neither resume this run nor be bound to this hardware.
    assert config["ckpt_path"] is None
    assert config["trainer"]["precision"] is None
    assert step_of(run_dir / "checkpoints/last.ckpt") == 60


def test_training_says_where_things_are_and_shows_text(finished):
    said = (finished / "stdout.txt").read_text()
    assert "runs/default/version_0" in said
    assert "tensorboard --logdir runs" in said
    assert "A sample:" in said
    assert "val loss" in said


def test_tensorboard_has_the_tags_of_the_contract(finished):
    tags = events(finished / RUN).Tags()
    scalar_tags = set(tags["scalars"])
    plain = {"train/loss", "val/loss", "val/bits_per_byte", "val/perplexity", "train/tokens_per_second", "train/mfu"}
    assert plain <= scalar_tags
    for metric in ("entropy", "normalized_entropy", "first_position_mass", "stripe", "local_mass", "previous_token"):
        assert {f"depth_scan/{metric}/{name}" for name in ("layer_00", "layer_01", "worst")} <= scalar_tags
        assert f"depth_scan/{metric}" in tags["images"]
    assert "depth_scan/block_influence/layer_01" in scalar_tags
    assert {"depth_scan/entropy_over_time", "attention/layer_00", "attention/layer_01"} <= set(tags["images"])
    assert {"depth_scan/verdicts/text_summary", "samples/text_summary"} <= set(tags["tensors"])
    assert "train/learning_rate" in scalar_tags


def test_the_learning_rate_follows_optimiser_steps_not_batches(finished):
    """Warm-up takes 5 optimiser steps (10 batches); the cosine ends at a tenth of the peak at step 60."""
    logged = dict(scalars(finished / RUN)["train/learning_rate"])
    assert logged[4] == pytest.approx(2e-3, rel=1e-3)
    assert logged[59] == pytest.approx(2e-4, rel=0.02)


def test_validate_and_test_look_at_a_checkpoint_and_leave_nothing_behind(main, monkeypatch, finished, corpus_file):
    monkeypatch.chdir(finished)
    before = sorted(finished.rglob("*"))
    for subcommand, figure in (("validate", "val/bits_per_byte"), ("test", "test/bits_per_byte")):
        status, out, err = main("train.py", subcommand, *TINY, "--data.corpus", corpus_file, "--ckpt_path", "best")
        assert status == 0, err
        assert figure in out
    assert sorted(finished.rglob("*")) == before


@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 128 + signal.SIGINT)],
)
def test_a_killed_run_resumes_bit_identically_in_the_same_tensorboard_run(
    tmp_path, finished, corpus_file, sent, status
):
    args = ["fit", *TINY, "--data.corpus", corpus_file]
    checkpoints = tmp_path / RUN / "checkpoints"
    process = subprocess.Popen(command("train.py", *args), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    # best.ckpt comes with the first validation: some of what was written before the end has to be kept, some dropped.
    while not (checkpoints / "best.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.wait(timeout=60) == status, "it ended before the signal, or not as it should"
    stopped_at = step_of(checkpoints / "last.ckpt")
    assert stopped_at < 60

    resumed = run("train.py", *args, "--ckpt_path", "last", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {stopped_at}" in resumed.stdout
    assert [path.name for path in (tmp_path / "runs/default").iterdir()] == ["version_0"]

    ours = torch.load(checkpoints / "last.ckpt", weights_only=True)
    uninterrupted = torch.load(finished / LAST, weights_only=True)
    for name, tensor in uninterrupted["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    for parameter, state in uninterrupted["optimizer_states"][0]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(ours["optimizer_states"][0]["state"][parameter][name], tensor), (parameter, name)

    # TensorBoard shows one curve, the same as if nothing had happened (but for speed).
    ours, uninterrupted = scalars(checkpoints.parent), scalars(finished / RUN)
    assert set(ours) == set(uninterrupted)
    assert [step for step, _ in ours["depth_scan/entropy/layer_00"]] == [19, 39, 59]
    for tag in set(uninterrupted) - {"train/tokens_per_second", "train/mfu"}:
        assert ours[tag] == uninterrupted[tag], tag


def test_resuming_with_nothing_to_resume_says_so(main, tmp_path, corpus_file):
    status, _, err = main("train.py", "fit", *TINY, "--data.corpus", corpus_file, "--ckpt_path", "last")
    assert status == 1
    assert "nothing to resume" in err
    assert not (tmp_path / "runs").exists()


# ---- in this process, for speed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trainer.max_stepz=3"], "did you mean --trainer.max_steps?"),
        (["--config=nope.yaml"], "nope.yaml"),
        (["--model.learning_rate=fast"], "model.learning_rate"),
        (["--model.gpt.n_head=3"], "must be a multiple of n_head (3)"),
        (["--model.learning_rate=-1"], "-1 is out of range: it must be above 0 and finite"),
        (["--trainer.accumulate_grad_batches=0"], "accumulate_grad_batches: 0 is out of range: it must be at least 1"),
        (["--trainer.accumulate_grad_batches=99999999999999999999"], "99999999999999999999 is out of range"),
        (["--trainer.val_check_interval=0"], "val_check_interval: 0 is out of range: it must be above 0"),
        (["--trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch: 0 is out of range: it must be at least 1"),
        (["--trainer.num_sanity_val_steps=-9"], "num_sanity_val_steps: -9 is out of range: it must be at least -1"),
        ([f"--model.decay_steps={10**400}"], "is out of range: it must be at least 1"),
        (["--experiment=../../x"], "must be the name of a directory under runs_dir"),
        (["--experiment=a\udcff"], "must be UTF-8"),
        (["--runs_dir=a\0b"], "must be UTF-8, without NUL"),
        (["--text_samples.prompt=caf\udce9"], "not UTF-8"),
        (["--trainer.gradient_clip_val=-1"], "-1 is out of range: it must be at least 0 (never clip)"),
        (["--experiment=/x"], "must be the name of a directory under runs_dir"),
        (["--text_samples.temperature=-1"], "it must be at least 0 and finite"),
        (["--depth_scan.n_sequences=0"], "n_sequences: 0 is out of range: it must be at least 1"),
        (["--depth_scan.every_n_validations=-1"], "every_n_validations: -1 is out of range: it must be at least 0"),
        (["--attention_heatmaps.max_tokens=1"], "max_tokens: 1 is out of range: it must be at least 2"),
        (["--text_samples.prompt="], "The prompt is empty"),
        (["--data.context_length=999"], "longer than the network's context"),
        (["--data.corpus=nowhere.txt"], "'nowhere.txt' was not found"),
        (["--data.corpus=empty.txt"], "empty"),
        (["--data.tokenizer=nowhere.tiktoken"], "nowhere.tiktoken"),
        (["--data.batch_size=0"], "0 is out of range: it must be at least 1"),
        (["--ckpt_path=nowhere.ckpt"], "There is no checkpoint at nowhere.ckpt"),
        (["--ckpt_path=truncated.ckpt"], "truncated or damaged"),
        (["--ckpt_path=other.ckpt"], "n_layer 2 (not 3)"),
        (["--ckpt_path=list.ckpt"], "not a checkpoint that this project's train.py wrote"),
        (["--trainer.accelerator=gpu"], "gpu"),
        (["--runs_dir=file.txt"], "file.txt"),
        (["--data.data_dir=file.txt"], "file.txt"),
    ],
)
def test_bad_input_is_one_line_and_a_failure(main, finished, corpus_file, tmp_path, args, message):
    if "gpu" in args[0] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "file.txt").write_text("a file, not a directory")
    last = finished / LAST
    (tmp_path / "truncated.ckpt").write_bytes(last.read_bytes()[:20_000])
    shutil.copy(last, tmp_path / "other.ckpt")
    torch.save([1, 2, 3], tmp_path / "list.ckpt")
    other = ["--model.gpt.n_layer=3"] if "other" in args[0] else []
    status, _, err = main("train.py", "fit", *TINY, f"--data.corpus={corpus_file}", *other, *args)
    assert status in (1, 2)
    lines = [line for line in err.splitlines() if line and "Warning" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_an_unknown_subcommand_is_refused(main):
    status, _, err = main("train.py", "trian")
    assert status == 2
    assert "invalid choice: 'trian'" in err


@pytest.mark.parametrize("config", sorted(path.name for path in (REPO / "configs").glob("*.yaml")))
def test_every_config_parses_over_the_default(must_work, config):
    out, _ = must_work("train.py", "fit", "--config", REPO / "configs" / config, "--print_config")
    printed = yaml.safe_load(out)
    trainer = yaml.safe_load((REPO / "configs" / config).read_text()).get("trainer", {})
    for key, value in trainer.items():
        if isinstance(value, dict):  # a class and its options: what was left out is printed with its default
            assert printed["trainer"][key]["class_path"] == value["class_path"]
            assert printed["trainer"][key]["init_args"].items() >= value["init_args"].items()
        else:
            assert printed["trainer"][key] == value


def test_later_configs_and_flags_win(must_work, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {learning_rate: 0.5, warmup_steps: 7}\n")
    files = (REPO / "configs/shakespeare.yaml", REPO / "configs/shakespeare-gpu.yaml", "mine.yaml")
    configs = [f"--config={file}" for file in files]
    out, _ = must_work("train.py", "fit", *configs, "--model.warmup_steps=9", "--print_config")
    printed = yaml.safe_load(out)
    assert printed["experiment"] == "shakespeare-gpu"
    assert printed["data"]["corpus"] == "shakespeare"
    assert printed["model"]["learning_rate"] == 0.5
    assert printed["model"]["warmup_steps"] == 9
    assert printed["model"]["gpt"]["n_layer"] == 6


def test_enwik8_is_the_163m_network_with_an_effective_batch_of_64(must_work):
    out, _ = must_work("train.py", "fit", "--config", REPO / "configs/enwik8.yaml", "--print_config")
    printed = yaml.safe_load(out)
    assert printed["model"]["gpt"]["vocab_size"] == 0  # --print_config does not settle what follows from the tokenizer
    with torch.device("meta"):
        assert GPT(GPTConfig(**printed["model"]["gpt"] | {"vocab_size": 50304})).parameter_count() == 163_109_376
    assert printed["data"]["batch_size"] * printed["trainer"]["accumulate_grad_batches"] >= 64
    assert printed["trainer"]["precision"] == "16-mixed"


def test_no_logger_no_bar_no_trouble(must_work, corpus_file):
    """Callbacks that write to TensorBoard survive without it."""
    args = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--trainer.logger=false"]
    out, _ = must_work("train.py", *TINY, f"--data.corpus={corpus_file}", *args, "--trainer.enable_progress_bar=false")
    assert "Stopped after 4 optimiser steps" in out


def test_16_mixed_runs_on_a_cpu_as_bf16_after_one_line(fit):
    out, _ = fit("--trainer.max_steps=2", "--trainer.precision=16-mixed", quiet=False)
    assert out.splitlines()[0].startswith("A CPU has no fp16 training: 16-mixed runs as bf16-mixed")
    assert "precision bf16-mixed" in out


def test_a_weight_that_is_not_finite_stops_naming_step_and_place_and_keeps_the_checkpoint(fit, monkeypatch):
    honest = GPTModule.training_step

    def poisoned(self, batch, batch_idx):
        if self.global_step == 12:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(GPTModule, "training_step", poisoned)
    _, err = fit(status=1, quiet=False)
    assert "A weight is not finite at optimiser step 12: token_embedding.weight (the embedding) has 4,096 NaN" in err
    kept = torch.load(LAST, weights_only=True)
    assert kept["global_step"] == 10
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


def test_a_checkpoint_with_ruined_weights_is_never_written(fit):
    ruinous = ["--model.learning_rate=1e38", "--model.warmup_steps=0", "--last_checkpoint.every_n_train_steps=1"]
    _, err = fit(*ruinous, status=1, quiet=False)
    assert "A weight is not finite at optimiser step" in err
    for kept in Path("runs").rglob("*.ckpt"):
        weights = torch.load(kept, weights_only=True)["state_dict"].values()
        assert all(tensor.isfinite().all() for tensor in weights)


def test_a_time_limit_counts_anew_after_a_resume(fit):
    limits = ["--trainer.max_steps=100000", "--trainer.max_time=00:00:00:02", "--trainer.val_check_interval=100000"]
    steps = []
    for resume in ([], ["--ckpt_path=last"]):
        out, _ = fit(*limits, *resume, quiet=False)
        assert "Stopped by the time limit after" in out
        steps.append(step_of(LAST))
    assert steps[1] > steps[0] > 0


def test_overfit_one_batch_drives_the_loss_down(must_work, corpus_file):
    network = [*TINY[:2], "--model.gpt.context_length=32", "--model.gpt.d_model=32", "--model.learning_rate=1e-2"]
    overlay = ["--config", REPO / "configs/debug-overfit.yaml", "--data.batch_size=4", "--trainer.limit_val_batches=1"]
    must_work("train.py", "fit", *network, *overlay, f"--data.corpus={corpus_file}")
    curve = [loss for _, loss in scalars(Path("runs/debug-overfit/version_0"))["train/loss"]]
    assert curve[0] > 3
    assert curve[-1] < 0.5


def test_a_validation_inside_an_accumulation_window_stays_in_the_curves(fit, tmp_path):
    for more in (["--trainer.max_steps=24"], ["--trainer.max_steps=30", "--ckpt_path=best"]):
        fit("--trainer.val_check_interval=15", *more)
    # Batches 15, 30, 45 and 60 of two to a step; the axis counts steps from 0.
    assert [step for step, _ in scalars(tmp_path / RUN)["val/loss"]] == [7, 14, 22, 29]
