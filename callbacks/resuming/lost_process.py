"""What a process does when another process of its run is gone: it says so and ends."""

import os
import sys
import threading
import time

import lightning as L
import torch

LAUNCHER = "GPT_LIGHTNING_LAUNCHER"  # environment variable: the process that started the others of this machine
GRACE_SECONDS = 10.0


class LostProcess(L.Callback):
    """Say in one line that another process of the run is gone, and how to go on. This can't wait: a launcher may kill
    this process before it ends by itself."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if lost_a_process(exception):
            message = (
                f"Another of the {trainer.world_size} processes of this run ended, or no longer answers; what it last "
                "printed may tell why. Go on from the last checkpoint with --ckpt_path last."
            )
            print(f"error: {message}", file=sys.stderr, flush=True)


def end_with_launcher() -> None:
    """Make a process that Lightning started end soon after the process that started it, whatever it is doing.

    Their joint computations then fail by themselves, with a better message. But while processes still look for each
    other (for up to 30 minutes), and over NCCL, one would go on waiting long after the other was killed.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0" or torch.distributed.is_torchelastic_launched():
        os.environ[LAUNCHER] = str(os.getpid())  # the processes that Lightning starts inherit the environment
    elif LAUNCHER in os.environ:
        threading.Thread(target=_wait_for_end_of, args=(int(os.environ[LAUNCHER]),), daemon=True).start()


def _wait_for_end_of(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1.0)
    time.sleep(GRACE_SECONDS)
    message = "The process that started this one ended. Go on from the last checkpoint with --ckpt_path last."
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)  # the main thread may be waiting where no exception reaches it


def lost_a_process(error: BaseException) -> bool:
    """Whether an error says that the processes of a run no longer reach each other."""
    gloo = ("/gloo/", "Application timeout caused pair closure")  # in the messages of its plain RuntimeErrors
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in gloo)
