"""Kill a run with `kill -9` at random moments, resume it, and see whether anything is lost.

    python -m benchmarks.kill_trials --trials 30

A small network on Python's own documentation. Each trial starts from nothing, so that a kill can hit anything: imports,
tokenising, training, validation, pictures, writing checkpoints. It is killed one to three times, most often while it
trains, resumed each time with `--ckpt_path last` (or started again, if nothing was saved yet), and then left to end.
A trial is good if no checkpoint on the disk was damaged after any kill, and the last one is bit-identical to that
of a run that was never killed.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from cli.commands.audit import TRAIN, largest_difference
from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.content import read_checkpoint

OPTIONS = [
    "--model.gpt.n_layer=2",
    "--model.gpt.n_head=2",
    "--model.gpt.d_model=32",
    "--model.gpt.context_length=32",
    "--model.gpt.dropout=0.1",
    "--model.warmup_steps=5",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=200",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.val_check_interval=40",
    "--trainer.limit_val_batches=4",
    "--last_checkpoint.every_n_train_steps=5",
]
RUN = Path("runs/default/version_0")


def start(directory: Path) -> subprocess.Popen:
    """Start the run in a directory, or go on with the one there."""
    saved = any((directory / RUN / name).is_file() for name in (runs.LAST, runs.PREVIOUS))
    resume = ["--ckpt_path", "last"] if saved else []
    command = [sys.executable, str(TRAIN), "fit", *OPTIONS, *resume]
    with (directory / "errors.txt").open("w") as errors:
        return subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=errors)


def check_success(process: subprocess.Popen, directory: Path) -> None:
    """Wait for the end of a run; raise RuntimeError with its last line if it failed."""
    if process.wait():
        raise RuntimeError((directory / "errors.txt").read_text().splitlines()[-1])


def seconds_to_begin_and_end(directory: Path) -> tuple[float, float]:
    """How long the run takes, if nobody kills it, to its first checkpoint and to its end."""
    began, first = time.monotonic(), None
    process = start(directory)
    while process.poll() is None:
        if first is None and (directory / RUN / runs.LAST).is_file():
            first = time.monotonic() - began
        time.sleep(0.05)
    check_success(process, directory)
    return first, time.monotonic() - began


def trial(directory: Path, kills: list[float]) -> tuple[list[int], dict]:
    """Start the run and kill it after so many seconds, for each of `kills`; then let it end.

    Returns:
        The step of the last checkpoint at each kill (0 for none), and the content of the last checkpoint.

    Raises:
        UserError: a checkpoint was damaged.
        RuntimeError: the run ended with an error.
    """
    steps: list[int] = []
    for seconds in kills:
        process = start(directory)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        contents = [read_checkpoint(path) for path in sorted(directory.rglob("*.ckpt"))]
        steps.append(max((content["global_step"] for content in contents), default=0))
        # A run that was killed before its first checkpoint leaves its directory; the next begins anew beside it.
        if not any((directory / RUN / name).is_file() for name in (runs.LAST, runs.PREVIOUS)):
            subprocess.run(["rm", "-rf", directory / "runs"], check=True)
    check_success(start(directory), directory)
    return steps, read_checkpoint(directory / RUN / runs.LAST)


def state(checkpoint: dict) -> dict:
    """What a run ends with: weights, optimiser, schedule, and its place in the text and in the epoch."""
    loop = checkpoint["loops"]["fit_loop"]
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "lr_schedulers")} | {
        f"loop's {name}": loop[name] for name in ("state_dict", "epoch_loop.batch_progress", "epoch_progress")
    }


def main() -> None:
    """Run the trials and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chooser = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        unkilled = Path(name) / "unkilled"
        unkilled.mkdir()
        first, end = seconds_to_begin_and_end(unkilled)
        expected = state(read_checkpoint(unkilled / RUN / runs.LAST))
        good = 0
        for number in tqdm(range(args.trials), unit="trial", disable=None):
            directory = Path(name) / str(number)
            directory.mkdir()
            times = chooser.randint(1, 3)
            kills = [chooser.uniform(0.5 * first, first + 1.3 * (end - first) / times) for _ in range(times)]
            try:
                steps, last = trial(directory, kills)
                different = [part for part, value in state(last).items() if largest_difference(value, expected[part])]
                outcome = f"differs in {', '.join(different)}" if different else "bit-identical"
                good += not different
            except Exception as error:
                steps, outcome = [], f"{type(error).__name__}: {error}"
            at = ", ".join(f"{after:4.1f} s (step {step})" for after, step in zip(kills, steps, strict=False))
            tqdm.write(f"trial {number:>3}  killed after {at:<60}  {outcome}")
    print(f"{good} of {args.trials} runs ended bit-identical to one that was never killed ({end:.1f} s alone).")
    raise SystemExit(good != args.trials)


if __name__ == "__main__":
    main()
