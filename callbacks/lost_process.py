"""What a process says when another of the same run is gone."""

import sys

import lightning as L
import torch


class LostProcess(L.Callback):
    """Say in one line that another process of the run is gone and how to go on, as soon as that shows: a launcher may
    end this one, too, before it gets to its end."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say it, if that is what happened."""
        if lost_a_process(exception):
            message = (
                f"Another of the {trainer.world_size} processes of this run ended, or no longer answers; what it said "
                "last may tell why. Go on from the last checkpoint with --ckpt_path last."
            )
            print(f"error: {message}", file=sys.stderr, flush=True)


def lost_a_process(error: BaseException) -> bool:
    """Whether an error says that the processes of a run no longer reach each other; gloo's are plain RuntimeErrors."""
    of_gloo = any(words in str(error) for words in ("/gloo/", "Application timeout caused pair closure"))
    return isinstance(error, torch.distributed.DistError) or of_gloo
