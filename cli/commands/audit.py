"""`train.py audit`: proves that stopping and resuming changes nothing, for a user's own configuration and machine.

It trains some steps straight, then again with a stop in between, each as a process of its own in a temporary directory.
It compares what each batch held, each loss, and the weights and optimiser state at the end.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.content import read_checkpoint
from gpt_lightning.command_line import OneLineParser
from gpt_lightning.errors import UserError
from gpt_lightning.ranges import number_type

TRAIN = Path(__file__).parents[2] / "train.py"
Steps = number_type("Steps", int, "at least 2, with a stop in between", (">=", 2))


def main(arguments: list[str]) -> int:
    """Run the audit that the command line asks for, and print the result in one line.

    Returns:
        The exit status: 0 if resuming is exact, 1 if it is not.

    Raises:
        UserError: the checkpoint can't be read, or one of the runs failed.
    """
    parser = OneLineParser(prog="train.py audit", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="start from here, with the configuration beside it")
    parser.add_argument("--steps", type=Steps, default=20, help="optimiser steps to train (default %(default)s)")
    args, options = parser.parse_known_args(arguments)
    start = 0
    if args.checkpoint is not None:
        start = read_checkpoint(args.checkpoint)["global_step"]
        options = options_of_run(args.checkpoint, start + args.steps) + options
    half, end = start + args.steps // 2, start + args.steps
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        straight, stopped = directory / "straight", directory / "stopped"
        with tqdm(desc="audit", unit="batch", leave=False, disable=None) as bar:
            train(straight, args.checkpoint, options, end, bar)
            train(stopped, args.checkpoint, options, half, bar)
            train(stopped, None, options, end, bar)
            differences = compare(straight, stopped)
            if differences:  # is it the stop, or does the machine give other numbers each time?
                again = directory / "again"
                train(again, args.checkpoint, options, end, bar)
                without_a_stop = compare(straight, again)
    trained = f"{args.steps} steps from step {start:,}, straight and with a stop at step {half:,}"
    if not differences:
        print(f"Exact: {trained}, gave the same batches, losses, weights and optimiser state, bit for bit.")
    elif without_a_stop:
        print(
            f"Not exact: two straight runs of {args.steps} steps differ too ({'; '.join(without_a_stop)}), so it is "
            "not the stop: this device computes in another order each time. Try --trainer.deterministic true."
        )
    else:
        print(f"Not exact: {trained}, differ: {'; '.join(differences)}.")
    return 1 if differences else 0


def options_of_run(checkpoint: Path, end: int) -> list[str]:
    """The options of the run that a checkpoint lies in, made to last until step `end`."""
    run = runs.run_of(checkpoint)
    if run is None or not (config := run / "config.yaml").is_file():
        return []
    try:
        limits = yaml.safe_load(config.read_text())["trainer"]
        too_short = 0 < limits["max_steps"] < end or limits["max_epochs"] is not None
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{config} is not the configuration of a run ({type(error).__name__}: {problem}).") from error
    options = ["--config", str(config), "--trainer.max_time", "null"]
    if too_short:
        options += ["--trainer.max_epochs", "-1", "--trainer.max_steps", str(end)]
    return options


def train(directory: Path, checkpoint: Path | None, options: list[str], stop_at: int, bar: tqdm) -> None:
    """Run train.py in `directory` until step `stop_at`, from the checkpoint given, else from the one in `directory`, if
    there is one.

    Raises:
        UserError: it failed, or ended before that step.
    """
    last = directory / "runs" / "audit" / "version_0" / runs.LAST
    trail = directory / "trail"
    trail.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        last.parent.mkdir(parents=True)
        last.symlink_to(checkpoint.resolve())  # replaced, not written to, by the first save
    resume = ["--ckpt_path", "last"] if last.exists() else []
    command = [sys.executable, str(TRAIN), "fit", *options, *resume, "--experiment", "audit"]
    command += ["--runs_dir", str(directory / "runs"), "--trainer.callbacks+=callbacks.AuditTrail"]
    command += [f"--trainer.callbacks.directory={trail}", f"--trainer.callbacks.stop_at={stop_at}"]
    with (directory / "stderr").open("w+") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        seen = batches(trail)
        while process.poll() is None:
            time.sleep(0.2)
            now = batches(trail)
            bar.update(now - seen)
            seen = now
        stderr.seek(0)
        errors = [line.removeprefix("error: ") for line in stderr.read().splitlines() if line.startswith("error: ")]
    if not last.is_file() or read_checkpoint(last)["global_step"] != stop_at:
        raise UserError(f"The run to audit did not reach step {stop_at:,}: {(errors or ['it ended before'])[-1]}")


def batches(trail: Path) -> int:
    """How many batches a run has written down so far."""
    return sum(path.read_bytes().count(b"\n") for path in trail.glob("*.jsonl"))


def compare(straight: Path, other: Path) -> list[str]:
    """What differs between two runs, in words; empty if nothing does."""
    differences = []
    for path in sorted((straight / "trail").iterdir()):
        ours = [json.loads(line) for line in path.read_text().splitlines()]
        theirs = [json.loads(line) for line in (other / "trail" / path.name).read_text().splitlines()]
        for column in ("batch", "tokens", "loss"):
            differing = (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a[column] != b[column])
            first = next(differing, None)
            if first is not None or len(ours) != len(theirs):
                batch = ours[min(len(ours), len(theirs)) - 1 if first is None else first]["batch"]
                differences.append(f"{'loss' if column == 'loss' else 'the text'} from batch {batch:,} on")
                break
    a, b = (read_checkpoint(directory / "runs" / "audit" / "version_0" / runs.LAST) for directory in (straight, other))
    for part, key in (("weights", "state_dict"), ("optimiser state", "optimizer_states")):
        if largest := largest_difference(a[key], b[key]):
            differences.append(f"{part} by up to {largest:.2g}")
    return differences


def largest_difference(a: Any, b: Any) -> float:
    """The largest difference between numbers in the same place of two structures of tensors, dicts and lists; infinite
    if the structures differ."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
        return 0.0 if torch.equal(a, b) else (a.double() - b.double()).abs().max().item() or float("inf")
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((largest_difference(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return max((largest_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    return 0.0 if type(a) is type(b) and a == b else float("inf")
