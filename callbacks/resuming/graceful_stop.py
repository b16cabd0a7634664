"""Ctrl-C and SIGTERM end training between two optimiser steps, the same two on every rank, and nothing is lost."""

import os
import signal
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from callbacks.validation import batches_into_step


class Stopped(Exception):
    """Training was asked to end; raised on every rank between two optimiser steps.

    Attributes:
        by: What asked, in words.
        signal: The signal, if it was one.
    """

    def __init__(self, by: str, signal: int | None = None) -> None:
        self.by, self.signal = by, signal
        super().__init__(f"Stopped by {by}")


class GracefulStop(L.Callback):
    """On the first Ctrl-C or SIGTERM, finish the current step, then raise `Stopped`, on which a checkpoint is saved;
    on a second Ctrl-C, give up at once.

    Lightning's own SIGTERM handler stops each rank wherever it is when the signal arrives; with several ranks, some
    would wait for others that are gone.
    """

    def __init__(self) -> None:
        self._received = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self._received = bool(self._received), self._received or number
        if number == signal.SIGINT and rank_zero_only.rank == 0:
            if again:
                raise KeyboardInterrupt
            # Not print: the signal may have interrupted a print, which can't be entered twice.
            os.write(2, b"\nCtrl-C: finishing this step, then saving. Once more to stop at once.\n")

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Between two optimiser steps, stop if any rank was asked to."""
        if batches_into_step(trainer) == 0:
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Don't wait for the end of a validation, unless there are several ranks: they agree only between steps."""
        if self._handlers and trainer.world_size == 1:
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            number = signal.Signals(self._received or signal.SIGTERM)  # SIGTERM if another rank was asked
            raise Stopped("Ctrl-C" if number == signal.SIGINT else number.name, number)

    def teardown(self, *_: Any, **__: Any) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
