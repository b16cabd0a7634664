"""The optimiser step, guarded: collects the losses of the step's batches, looks for numerical faults before any weight
changes, then clips the gradients or drops them. A checkpoint in the middle of a step holds what was collected.

It knows Lightning's trainer and the network, but nothing of metrics, logs, schedules or the optimiser's options.
"""

import math
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from gpt_lightning.batch import Batch
from gpt_lightning.training.numerical_faults import NO_FAULT, Fault, Kind, StepWatch, bad_output, nonfinite
from gpt_lightning.training.sharding import full_tensor, sharded_like


class TrainedBatch(NamedTuple):
    """What it takes to say what was wrong with a batch."""

    loss: Tensor  # as given to backward: scaled, and divided by the number of batches in the step
    batch: Batch | None  # None if it was trained on before a resume
    number: int  # of the batch in the run


def is_accumulating(trainer: L.Trainer) -> bool:
    """Whether more batches are to come in the accumulation window of the latest one, before the optimiser steps.

    As Lightning's private `fit_loop._should_accumulate`, but for strategies that accumulate themselves.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    ends_epoch = progress.is_last_batch or progress.current.ready == trainer.num_training_batches
    return progress.current.ready % trainer.accumulate_grad_batches != 0 and not ends_epoch


def gradient_scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    """fp16's gradient scaler, if there is one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


class GuardedStep:
    """Guards the optimiser steps of a module.

    Args:
        module: A LightningModule that has the network as `model`, `seed_dropout(number)` to run a batch again, and
            `completes_logged_step`, which says when to check the weights too.
        watch: Decides whether a step is taken.
    """

    def __init__(self, module: L.LightningModule, watch: StepWatch) -> None:
        self.module, self.watch = module, watch
        self.batch: Batch | None = None  # the one being trained on
        self.window: list[TrainedBatch] = []  # the batches of the optimiser step under way
        # From a checkpoint inside an accumulation window, until the first batch after it.
        self.unstepped_gradients: list[Tensor | None] | None = None
        self.unstepped_losses: list[Tensor] | None = None

    def begin_batch(self, batch: Batch) -> None:
        """Keep the batch, and restore an accumulation window that a checkpoint left unfinished."""
        self.batch = batch
        self.restore_window()

    def restore_window(self) -> None:
        """Put back the gradients and losses of a checkpoint inside an accumulation window, if not done yet."""
        if self.unstepped_losses is not None:
            self.window = [TrainedBatch(loss.to(self.module.device), None, -1) for loss in self.unstepped_losses]
            self.unstepped_losses = None
        if self.unstepped_gradients is not None:
            for parameter, gradient in zip(self.module.model.parameters(), self.unstepped_gradients, strict=True):
                parameter.grad = None if gradient is None else sharded_like(gradient, parameter)
            self.unstepped_gradients = None

    def add_loss(self, loss: Tensor) -> None:
        """Keep the loss on the device: reading its value here would make the CPU wait for the GPU at every batch."""
        self.window.append(TrainedBatch(loss.detach(), self.batch, self.module.trainer.fit_loop.total_batch_idx))

    def before_step(
        self, optimizer: Optimizer, clip_val: float | None, clip_algorithm: GradClipAlgorithmType | None
    ) -> tuple[float, float]:
        """Look for numerical faults; then clip the gradients, or drop them and so skip the step. All ranks see the same
        figures and do the same.

        Returns:
            The norm of the gradients before clipping, and the loss in nats, each the mean over ranks.

        Raises:
            UserError: the run is to stop before this step, see GPTModule's `on_nonfinite` and `on_spike`.
        """
        trainer, step = self.module.trainer, self.module.global_step
        window, self.window = self.window, []
        # In nats again: see `TrainedBatch.loss`.
        losses = torch.stack([trained.loss for trained in window]).float() * trainer.accumulate_grad_batches
        scaler = gradient_scaler(trainer)
        if scaler is not None:
            losses = losses / scaler.scale(torch.ones_like(losses))
        parameters = [p for p in trainer.precision_plugin.main_params(optimizer) if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        figures = [full_tensor(norm).to(losses), losses.mean()]
        if self.module.completes_logged_step:  # else a bad weight that no batch uses would go unnoticed
            figures.append(full_tensor(get_total_norm(self.module.model.parameters())).to(losses))
        # The one time in a step that the CPU waits for the device.
        figures = trainer.strategy.reduce(torch.stack(figures), reduce_op="mean").tolist()
        mean_norm, mean_loss, *_ = figures
        fault = NO_FAULT
        if not all(map(math.isfinite, figures)):
            fault = self.nonfinite_fault(window, losses, full_tensor(norm), optimizer)
        if fault.kind == Kind.NONE:
            fault = self.watch.spike(self.module.model, step, mean_norm, mean_loss)
        takes = self.watch.takes(fault)
        if not takes:
            optimizer.zero_grad()  # to None: without gradients the optimiser moves nothing, its own state included
        elif clip_algorithm == GradClipAlgorithmType.VALUE:
            self.module.clip_gradients(optimizer, clip_val, clip_algorithm)
        elif 0 < (clip_val or 0) < mean_norm:
            clip_grads_with_norm_(parameters, clip_val, norm)
        if fault.kind != Kind.NONE:
            trainer.print(f"step {step:>6,}  {'SPIKE' if takes else 'SKIPPED'}  {fault.sentence}")
        self.watch.remember(mean_norm, mean_loss)
        return mean_norm, mean_loss

    def nonfinite_fault(self, window: list[TrainedBatch], losses: Tensor, norm: Tensor, optimizer: Optimizer) -> Fault:
        """What is NaN or infinite on the rank where that is worst, since all ranks have to react alike."""
        trainer = self.module.trainer
        scaler = gradient_scaler(trainer)
        # Only what the scaler has met is an overflow: it would not lower its scale for a gradient that went bad later.
        # There is no public way to ask it (torch 2.13).
        overflow = scaler is not None and any(met.item() for met in scaler._found_inf_per_device(optimizer).values())
        scale = scaler.get_scale() if overflow else None
        network, step = self.module.model, self.module.global_step
        fault = nonfinite(network, step, losses.tolist(), norm.item(), scale, lambda i: self.rerun(window[i]))
        of_ranks = [fault] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(of_ranks, fault)
        return max(of_ranks)

    def rerun(self, trained: TrainedBatch) -> str:
        """Run a batch again to see where its loss became bad."""
        if trained.batch is None:
            return "it can't be run again, since that was before a resume"
        if isinstance(self.module.model, FSDPModule):
            return "it can't be run again by one rank alone"
        self.module.seed_dropout(trained.number)
        with self.module.trainer.precision_plugin.forward_context():
            return bad_output(self.module.model, *trained.batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is known of earlier steps and, inside an accumulation window, its gradients and losses so far."""
        trainer = self.module.trainer
        checkpoint["step_watch"] = self.watch.state_dict()
        if trainer.state.fn == TrainerFn.FITTING and is_accumulating(trainer):
            self.restore_window()  # not done yet if this is a validation that was due
            # Ranks average their gradients when they step; but only rank zero's checkpoint is kept, so do it now.
            mean, grads = trainer.strategy.reduce, [parameter.grad for parameter in self.module.model.parameters()]
            checkpoint["unstepped_gradients"] = [g if g is None else mean(full_tensor(g).clone()).cpu() for g in grads]
            checkpoint["unstepped_losses"] = [mean(trained.loss.clone()).cpu() for trained in self.window]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` added."""
        self.unstepped_gradients = checkpoint.get("unstepped_gradients")
        self.unstepped_losses = checkpoint.get("unstepped_losses")
        if "step_watch" in checkpoint:
            self.watch.load_state_dict(checkpoint["step_watch"])
