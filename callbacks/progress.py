"""What a person at the terminal sees: one bar counting optimiser steps, and one line per validation."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm


class StepProgressBar(ProgressBar):
    """A tqdm bar over optimiser steps (Lightning's own counts batches per epoch), and a line of figures after each
    validation. If the output is not a terminal, only the lines are printed.

    The bar is refreshed when figures are logged, every `log_every_n_steps` steps: a refresh takes milliseconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._training: tqdm | None = None
        self._evaluation: tqdm | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls this on every rank but zero."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print a line above the bar."""
        if self._enabled:
            tqdm.write(sep.join(map(str, args)))

    def _bar(self, **kwargs: Any) -> tqdm:
        # disable=None: tqdm shows nothing if the output is not a terminal.
        return tqdm(disable=None if self._enabled else True, dynamic_ncols=True, **kwargs)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._training = self._bar(desc="training", total=total, initial=trainer.global_step, unit="step")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._training is None or not pl_module.completes_logged_step:
            return
        metrics = trainer.callback_metrics
        if "train/loss" in metrics:
            self._training.set_postfix_str(f"loss {metrics['train/loss']:.3f}", refresh=False)
        self._training.update(trainer.global_step - self._training.n)

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._training is not None:
            self._training.update(trainer.global_step - self._training.n)
            self._training.close()

    def on_exception(self, *_: Any) -> None:
        for bar in (self._evaluation, self._training):
            if bar is not None:
                bar.close()

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._start_evaluation("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        if self._evaluation is not None:
            self._evaluation.update()

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._end_evaluation()
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return  # `validate` prints Lightning's table
        labels = {
            "train/loss": "train loss {:.4f}",
            "val/loss": "val loss {:.4f}",
            "val/bits_per_byte": "{:.4f} bits per byte",
            "train/tokens_per_second": "{:,.0f} tokens/s",
        }
        metrics = trainer.callback_metrics
        figures = [text.format(metrics[name].item()) for name, text in labels.items() if name in metrics]
        self.print(f"step {trainer.global_step:>6,}  " + "  ".join(figures))

    def on_test_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._start_evaluation("testing", sum(trainer.num_test_batches))

    on_test_batch_end = on_validation_batch_end

    def _start_evaluation(self, name: str, batches: float) -> None:
        self._evaluation = self._bar(desc=name, total=batches, unit="batch", leave=False)

    def _end_evaluation(self, *_: Any) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    on_test_end = _end_evaluation
