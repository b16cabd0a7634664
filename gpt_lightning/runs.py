"""Where a run lies: `<runs_dir>/<experiment>/version_N/`, with `checkpoints/`, `config.yaml` and event files."""

import re
from pathlib import Path

from gpt_lightning.errors import UserError

LAST = Path("checkpoints") / "last.ckpt"
BEST = Path("checkpoints") / "best.ckpt"


def versions(experiment_dir: Path) -> list[int]:
    """Numbers of the runs in a directory, ascending."""
    if not experiment_dir.is_dir():
        return []
    matches = (re.fullmatch(r"version_(\d+)", path.name) for path in experiment_dir.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def new_run(experiment_dir: Path) -> Path:
    """The directory of the next run; it does not exist yet."""
    return experiment_dir / f"version_{max(versions(experiment_dir), default=-1) + 1}"


def last_run(experiment_dir: Path) -> Path:
    """The newest run that left a checkpoint to go on from.

    Raises:
        UserError: there is none.
    """
    for version in reversed(versions(experiment_dir)):
        run = experiment_dir / f"version_{version}"
        if (run / LAST).is_file():
            return run
    raise UserError(
        f"There is nothing to resume: no {experiment_dir}/version_*/{LAST} exists. Leave --ckpt_path out to start a "
        "new run, or give the path of a checkpoint."
    )


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint file lies in, or None when it lies elsewhere."""
    run = checkpoint.resolve().parent.parent
    inside = checkpoint.parent.name == LAST.parent.name and re.fullmatch(r"version_\d+", run.name)
    return checkpoint.parent.parent if inside else None
