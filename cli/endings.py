"""How a run ends, in words: what was trained and what is saved, the command to go on with, and the exit status."""

import errno
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import callbacks
from callbacks.lightning_private import is_restoring_checkpoint
from callbacks.resuming.lost_process import lost_a_process
from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.content import read_checkpoint
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.judge.alarms import what_is_wrong
from gpt_lightning.notices import say

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def explained(trainer: L.Trainer, subcommand: str, run_dir: Path, checkpoint: Path | None) -> Iterator[None]:
    """Say how to go on if the block doesn't come to its end; after a signal, exit with the customary status.

    `checkpoint` is what the run goes on from, or what is validated or tested.

    Raises:
        SystemExit: after a signal, or when another process of the run is gone.
        UserError: in place of an error that the user can mend.
    """
    try:
        yield
    except (callbacks.Stopped, SIGTERMException) as stop:
        say(f"{str(stop) or 'Stopped by SIGTERM'} after {how_to_go_on(trainer, run_dir)}", sys.stdout)
        # Lightning kills rank zero when another ends with anything but 0.
        number = stop.signal if isinstance(stop, callbacks.Stopped) else signal.SIGTERM
        raise SystemExit(128 + number if rank_zero_only.rank == 0 else 0) from None
    except SystemExit:  # what Lightning makes of a second Ctrl-C
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            say(f"Interrupted after {how_to_go_on(trainer, run_dir)}", sys.stdout)
            raise SystemExit(128 + signal.SIGINT) from None
        raise
    except Exception as error:
        if subcommand == "fit" and trainer.global_step:
            say(f"Ended by an error after {how_to_go_on(trainer, run_dir)}", sys.stdout)
        if is_restoring_checkpoint(trainer) and not isinstance(error, UserError):
            raise UserError(
                f"No run can go on from {checkpoint}: some of it is not as train.py wrote it "
                f"({type(error).__name__}: {error})."
            ) from error
        if lost_a_process(error):  # callbacks.LostProcess has said so
            raise SystemExit(1) from None
        if isinstance(error, OSError) and error.errno in DISK_FULL and error.filename is None:  # TensorBoard's
            raise UserError(f"{run_dir} could not be written ({error.strerror}): make room for it.") from error
        raise


def summary(trainer: L.Trainer, run_dir: Path, sample: str, stopped_by: str | None) -> str:
    """What a run leaves behind when it comes to its end, or is ended early by `stopped_by`, in words.

    `sample` is text that the network wrote.
    """
    scan = next(callback for callback in trainer.callbacks if isinstance(callback, callbacks.DepthScan))
    stopped_by = stopped_by if scan.stopped_by is None else "an alarm of the depth scan"
    return (
        f"\nA sample:\n{sample.strip()}\n\n"
        + ("" if scan.result is None else f"Depth scan: {what_is_wrong(scan.result.step, scan.result.alarms)}\n")
        + f"Stopped{f' by {stopped_by}' if stopped_by else ''} after {trainer.global_step:,} optimiser steps.\n"
        f"The run lies in   {run_dir}\n"
        f"Look at it with   tensorboard --logdir {run_dir.parent.parent}\n"
        f"Analyse it with   python analyze.py --checkpoint {run_dir / runs.LAST}\n"
        f"Go on with        {resume_command(trainer)}"
    )


def how_to_go_on(trainer: L.Trainer, run_dir: Path) -> str:
    """How many steps were made, how many of them are saved, and the command to resume."""
    made, checkpoints = trainer.global_step, (run_dir / runs.LAST, run_dir / runs.PREVIOUS)
    last = next((path for path in checkpoints if path.is_file()), None)
    if last is None:
        return f"{made:,} optimiser steps, of which none was saved."
    kept = read_checkpoint(last)["global_step"]
    saved = "all saved" if kept == made else f"of which {kept:,} are saved"
    return f"{made:,} optimiser steps, {saved}. Go on with  {resume_command(trainer)}"


def resume_command(trainer: L.Trainer) -> str:
    """This call again, going on from the last checkpoint, and for twice as long if it came to its end."""
    command = ["python", "train.py", *(arg for arg in sys.argv[1:] if not arg.startswith("--ckpt_path="))]
    if "--ckpt_path" in command:
        at = command.index("--ckpt_path")
        del command[at : at + 2]
    command += ["--ckpt_path", "last"]
    if 0 < trainer.max_steps <= trainer.global_step:
        command += ["--trainer.max_steps", str(2 * trainer.max_steps)]
    if 0 < (trainer.max_epochs or -1) <= trainer.current_epoch:
        command += ["--trainer.max_epochs", str(2 * trainer.max_epochs)]
    return shlex.join(command)
