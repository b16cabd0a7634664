"""Several processes, started by Lightning, and by torchrun as two emulated nodes; killed, and resumed.

They have to train what one process trains with the same global batch, so every run here is compared with `alone`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gpt_lightning.checkpoints import runs
from tests.command_line import TINY, command, environment
from tests.conftest import REPO
from tests.whole_runs.conftest import LAST, PREVIOUS, RUN, scalars, step_of, train_in

STEPS = 40
# Two accumulated batches make an optimiser step, and 42 an epoch. Validation comes after batches 25, 50 and 75; the
# first and the last of these lie inside an accumulation window.
OPTIONS = [
    *TINY,
    "--data.corpus=text.txt",
    "--model.gpt.dropout=0",
    f"--model.decay_steps={STEPS}",
    "--trainer.val_check_interval=25",
    "--trainer.limit_val_batches=1.0",
    "--depth_scan.n_sequences=2",
    "--attention_heatmaps.every_n_validations=0",
    "--text_samples.max_new_tokens=8",
]
ENDLESS = ["--trainer.max_steps=1000000", "--data.batch_size=2"]
BEST = RUN / runs.BEST
GONE = "error: Another of the 2 processes of this run ended, or no longer answers"


def one_process(directory: Path, *args: str) -> None:
    train_in(directory, *OPTIONS, f"--trainer.max_steps={STEPS}", "--data.batch_size=4", *args)


def start(args: list[str], cwd: Path) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Unbuffered: what a process said before it was killed is to be seen.
    env = environment() | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(args, cwd=cwd, env=env, start_new_session=True, **pipes)


def wait_for(condition: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        ended = [process.communicate() for process in processes if process.poll() is not None]
        assert not ended
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_all(processes: list[subprocess.Popen]) -> None:
    """Kill processes and those of their children that are still there."""
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def steps_saved(directory: Path) -> int:
    return step_of(directory / LAST) if (directory / LAST).exists() else 0


def curves(directory: Path) -> dict[str, dict[int, float]]:
    """The curves of a run, except those of speed: a value for each step."""
    of_speed = ("train/tokens_per_second", "train/mfu")
    return {tag: dict(points) for tag, points in scalars(directory / RUN).items() if tag not in of_speed}


def assert_same_curves(directory: Path, alone: Path, after: int = -1) -> None:
    """Losses, validations and depth scans after a step agree with those of `alone` within rounding."""
    ours, theirs = curves(directory), curves(alone)
    assert set(ours) == set(theirs)
    assert list(theirs["val/loss"]) == [12, 24, 37]
    for tag in theirs:
        expected = {step: value for step, value in theirs[tag].items() if step > after}
        actual = {step: value for step, value in ours[tag].items() if after < step < STEPS}
        rel = 2e-4 if tag.startswith("depth_scan") else 1e-5
        assert actual == pytest.approx(expected, rel=rel, abs=1e-5, nan_ok=True), tag


def assert_same_weights(directory: Path, alone: Path) -> None:
    ours, theirs = (torch.load(d / LAST, weights_only=True)["state_dict"] for d in (directory, alone))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus_file) -> Path:
    """The working directory of one process's finished run."""
    directory = tmp_path_factory.mktemp("alone")
    (directory / "text.txt").write_text(corpus_file.read_text()[:6100])
    one_process(directory)
    return directory


@pytest.fixture(scope="module")
def killed(tmp_path_factory, alone) -> Iterator[tuple[Path, subprocess.Popen, str]]:
    """Two processes on one machine. Rank zero, which started the other, is killed after a validation.

    The working directory; the process that was killed; and what both wrote to standard error, until both had ended.
    """
    directory = tmp_path_factory.mktemp("killed")
    shutil.copy(alone / "text.txt", directory)
    overlay = ["--config", REPO / "configs/ddp.yaml", "--trainer.devices=2"]
    process = start(command("train.py", "fit", *OPTIONS, *overlay, *ENDLESS), directory)
    try:
        wait_for((directory / BEST).exists, [process])
        process.kill()
        _, err = process.communicate(timeout=60)
        yield directory, process, err
    finally:
        kill_all([process])


def test_a_rank_whose_rank_zero_was_killed_ends_with_one_line(killed):
    directory, process, err = killed
    assert process.returncode == -signal.SIGKILL
    lines = [line for line in err.splitlines() if "Warning" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith(GONE)
    assert lines[0].endswith("--ckpt_path last.")
    assert [path.name for path in (directory / RUN.parent).iterdir()] == ["version_0"]
    assert len(list(directory.rglob("events.*"))) == len(list(directory.rglob("config.yaml"))) == 1


def test_a_rank_whose_rank_zero_was_killed_before_they_met_ends_with_one_line(tmp_path, alone):
    shutil.copy(alone / "text.txt", tmp_path)
    overlay = ["--config", REPO / "configs/ddp.yaml", "--trainer.devices=2"]
    process = start(command("train.py", "fit", *OPTIONS, *overlay, *ENDLESS), tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        wait_for(lambda: children.read_text() != "", [process])
        process.kill()
        _, err = process.communicate(timeout=60)
        assert err.splitlines()[-1].startswith("error: The process that started this one ended.")
    finally:
        kill_all([process])


def test_one_process_goes_on_where_two_were_killed_as_if_there_had_never_been_two(killed, alone, tmp_path):
    directory = shutil.copytree(killed[0], tmp_path / "resumed")
    one_process(directory, "--ckpt_path=last")
    assert_same_curves(directory, alone)
    assert_same_weights(directory, alone)


def test_twice_the_batch_without_accumulation_trains_the_same(killed, alone, tmp_path):
    """The same optimiser steps, counted in other batches."""
    directory = shutil.copytree(killed[0], tmp_path / "resumed")
    other = ["--data.batch_size=8", "--trainer.accumulate_grad_batches=1", "--trainer.val_check_interval=1000"]
    one_process(directory, "--ckpt_path=last", *other)
    assert_same_weights(directory, alone)


def test_fsdp_takes_over_inside_an_accumulation_window_and_hands_back(killed, alone, tmp_path):
    """DDP's checkpoints can be continued with FSDP, and FSDP's with one process."""
    shutil.copy(alone / "text.txt", tmp_path)
    shutil.copy(killed[0] / BEST, tmp_path)
    options = [
        "--config",
        REPO / "configs/fsdp.yaml",
        "--trainer.devices=2",
        "--data.batch_size=2",
        "--ckpt_path=best.ckpt",
    ]
    process = start(command("train.py", "fit", *OPTIONS, *options, f"--trainer.max_steps={STEPS}"), tmp_path)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        kill_all([process])
    assert process.returncode == 0, err
    # Lightning does not load the running average of train/loss with FSDP: the first figure is the mean of fewer steps.
    assert_same_curves(tmp_path, alone, after=14)
    assert_same_weights(tmp_path, alone)
    one_process(tmp_path, f"--ckpt_path={PREVIOUS}")
    assert_same_weights(tmp_path, alone)


def test_two_nodes_go_on_inside_an_accumulation_window_until_one_is_killed(killed, alone, tmp_path):
    """Each node is an agent of torchrun with one rank."""
    shutil.copy(alone / "text.txt", tmp_path)
    shutil.copy(killed[0] / BEST, tmp_path)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert "unstepped_gradients" in best
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1"]
    nodes = ["--trainer.strategy=ddp", "--trainer.devices=1", "--trainer.num_nodes=2"]
    train = [str(REPO / "train.py"), "fit", *OPTIONS, *nodes, *ENDLESS, "--ckpt_path=best.ckpt"]
    agents = [start([*torchrun, *train], tmp_path) for _ in range(2)]
    try:
        wait_for(lambda: steps_saved(tmp_path) > STEPS, agents)
        ranks = subprocess.run(["pgrep", "-P", str(agents[0].pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(ranks[0]), signal.SIGKILL)
        said = [agent.communicate(timeout=60) for agent in agents]
    finally:
        kill_all(agents)
    assert [agent.returncode for agent in agents] == [1, 1]
    assert GONE not in said[0][1]
    assert GONE in said[1][1]
    # Everything was said once, and there is one run.
    out = "".join(out for out, _ in said)
    assert out.count(f"run {RUN}, resumed at step {best['global_step']}\n") == 1
    assert out.count("step     37 ") == 1
    assert [path.name for path in (tmp_path / RUN.parent).iterdir()] == ["version_0"]
    assert len(list(tmp_path.rglob("events.*"))) == len(list(tmp_path.rglob("config.yaml"))) == 1
    assert_same_curves(tmp_path, alone, after=best["global_step"])
