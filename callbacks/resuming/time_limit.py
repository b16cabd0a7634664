"""`trainer.max_time` for one call of train.py."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from callbacks.resuming.graceful_stop import Stopped
from callbacks.validation import batches_into_step


class TimeLimit(Timer):
    """Lightning's Timer, but a run ends between two optimiser steps, as after a signal, and a resumed run gets the full
    time again.

    Lightning's own ends a run in the middle of a step, with a validation and figures that an uninterrupted run lacks.
    It also counts the time before a resume, so that a run that it stopped would stop again at once.
    """

    def __init__(self, duration: str | dict[str, int]) -> None:
        super().__init__(duration)
        self.is_up = False

    def on_fit_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Check the time; every rank goes by rank zero's."""
        self.is_up = trainer.strategy.broadcast(self.time_remaining() <= 0)

    on_train_batch_end = on_fit_start

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.is_up and batches_into_step(trainer) == 0:
            raise Stopped("the time limit")

    def load_state_dict(self, state_dict: dict) -> None:
        """Ignore the time spent before the resume."""
