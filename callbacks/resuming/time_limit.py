"""`trainer.max_time` for one call of train.py."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from callbacks.resuming.graceful_stop import Stopped
from callbacks.validation import batches_into_step


class TimeLimit(Timer):
    """Lightning's Timer, but a run ends as after a signal, between two optimiser steps, and a run that is resumed gets
    the full time again.

    Lightning's own ends a run in the middle of a step, with a validation and figures that a run that goes on does not
    have; and it counts the time before the resume too, so that a run that it stopped would stop again at once.
    """

    def __init__(self, duration: str | dict[str, int]) -> None:
        super().__init__(duration)
        self.is_up = False

    def on_fit_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Look at the time, all ranks at rank zero's."""
        self.is_up = trainer.strategy.broadcast(self.time_remaining() <= 0)

    on_train_batch_end = on_fit_start

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop, if this batch begins an optimiser step."""
        if self.is_up and batches_into_step(trainer) == 0:
            raise Stopped("the time limit")

    def load_state_dict(self, state_dict: dict) -> None:
        """Forget the time spent before."""
