"""Directories of runs: `<runs_dir>/<experiment>/version_N/`, with `checkpoints/`, `config.yaml` and event files."""

import re
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from gpt_lightning.errors import UserError

LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = Path("checkpoints") / "previous.ckpt"  # the `last.ckpt` before it
BEST = Path("checkpoints") / "best.ckpt"
LOCK = ".lock"


def versions(experiment_dir: Path) -> list[int]:
    """The numbers of an experiment's runs, ascending."""
    if not experiment_dir.is_dir():
        return []
    matches = (re.fullmatch(r"version_(\d+)", path.name) for path in experiment_dir.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def new_run(experiment_dir: Path) -> Path:
    """The directory of the next run, which does not exist yet."""
    return experiment_dir / f"version_{max(versions(experiment_dir), default=-1) + 1}"


def make_run(experiment_dir: Path) -> Path:
    """Make the directory of the next run. Two processes that do so at once get one each."""
    while True:
        run = new_run(experiment_dir)
        with suppress(FileExistsError):  # another process was faster: try the next number
            run.mkdir(parents=True)
            return run


def remove_if_empty(run: Path) -> None:
    """Remove the directory of a run that ended before it wrote anything."""
    if run.is_dir() and {path.name for path in run.iterdir()} <= {LOCK}:
        (run / LOCK).unlink(missing_ok=True)
        run.rmdir()


def lock(run: Path) -> BaseFileLock | None:
    """Keep other processes from training in the same run until this process ends, however it ends.

    Returns:
        The lock, which the caller has to keep; None on a file system without locks.

    Raises:
        UserError: another process trains there.
    """
    held = FileLock(run / LOCK, fallback_to_soft=False)  # a soft one would outlive a killed process
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another process is training in {run}: wait for it to end, or leave --ckpt_path out to start a new run."
        ) from error
    except (OSError, NotImplementedError):
        return None
    return held


def last_run(experiment_dir: Path) -> Path:
    """The newest run that left a checkpoint to go on from; UserError if there is none."""
    for version in reversed(versions(experiment_dir)):
        run = experiment_dir / f"version_{version}"
        if (run / LAST).is_file() or (run / PREVIOUS).is_file():
            return run
    raise UserError(
        f"There is nothing to resume: no {experiment_dir}/version_*/{LAST} exists. Leave --ckpt_path out to start a "
        "new run, or give the path of a checkpoint."
    )


def run_of(checkpoint: Path) -> Path | None:
    """The directory of the run that a checkpoint belongs to, or None if it lies elsewhere."""
    run_name = checkpoint.resolve().parent.parent.name
    in_run = checkpoint.parent.name == LAST.parent.name and re.fullmatch(r"version_\d+", run_name)
    return checkpoint.parent.parent if in_run else None
