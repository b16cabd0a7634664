"""`trainer.max_time` for one call of train.py."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from callbacks.graceful_stop import Stopped
from callbacks.validation import batches_into_step


class TimeLimit(Timer):
    """Lightning's Timer, which ends a run as a signal does, between two optimiser steps, and without its memory: a run
    that is resumed gets the whole time again.

    Lightning's own ends it in the middle of a step, with a validation and figures that a run that goes on does not
    have; and it counts the time before the resume too, so that a run that it stopped would stop at once.
    """

    def __init__(self, duration: str | dict[str, int]) -> None:
        super().__init__(duration, interval="step")
        self.is_up = False

    def _check_time_remaining(self, trainer: L.Trainer) -> None:
        self.is_up = trainer.strategy.broadcast(self.time_elapsed() >= self._duration)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop, if this batch begins an optimiser step."""
        if self.is_up and batches_into_step(trainer) == 0:
            raise Stopped("the time limit")

    def load_state_dict(self, state_dict: dict) -> None:
        """Forget what was spent before."""
