"""The LightningModule: loss, metrics, optimiser, schedule. Nothing about files, corpora or plots.

Training randomness (dropout) is a pure function of (seed, batch, rank): nothing has to be saved for an exact resume,
and validation may draw as many random numbers as it likes.
"""

import math
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torchmetrics import MeanMetric, SumMetric

from gpt_lightning.errors import UserError
from gpt_lightning.loss import IGNORED, next_token_loss
from gpt_lightning.model import GPT, Block, GPTConfig
from gpt_lightning.optim import adamw, warmup_cosine

Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) int64 each; targets of -100 do not count


def completed_logged_step(trainer: L.Trainer) -> bool:
    """After a batch: whether the optimiser has just stepped, to a step that is logged. False for the other batches of
    an accumulation window, so that what costs a look at the device happens once a logged step."""
    accumulating = trainer.fit_loop._should_accumulate()
    return not accumulating and trainer.global_step % trainer.log_every_n_steps == 0


def check_options(
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int | None,
    final_learning_rate_fraction: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> None:
    """Raise UserError naming every option that is out of range."""
    allowed = {
        "learning_rate must be above 0": 0 < learning_rate < math.inf,
        "warmup_steps must be 0 or more": warmup_steps >= 0,
        "decay_steps must be 1 or more": decay_steps is None or decay_steps >= 1,
        "final_learning_rate_fraction must be between 0 and 1": 0 <= final_learning_rate_fraction <= 1,
        "weight_decay must be 0 or more": 0 <= weight_decay < math.inf,
        "beta1 must be at least 0 and below 1": 0 <= beta1 < 1,
        "beta2 must be at least 0 and below 1": 0 <= beta2 < 1,
    }
    problems = [rule for rule, holds in allowed.items() if not holds]
    if problems:
        raise UserError(f"model: {'; '.join(problems)}.")


class GPTModule(L.LightningModule):
    """Train a GPT to predict the next token.

    Args:
        gpt: Sizes and options of the network.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Optimiser steps of linear warm-up.
        decay_steps: Optimiser step at which the cosine reaches its end; null means the last step of the run.
        final_learning_rate_fraction: Learning rate at the end of the cosine, as a share of the peak.
        weight_decay: AdamW's decay of matrices; biases and norms never decay.
        beta1: AdamW's decay rate of the gradient's running mean.
        beta2: AdamW's decay rate of the squared gradient's running mean.
        compile: Compile the training step with torch.compile.
        activation_checkpointing: Recompute activations in backward: less memory, about a third more compute.
    """

    def __init__(
        self,
        gpt: GPTConfig,
        learning_rate: float = 6e-4,
        warmup_steps: int = 100,
        decay_steps: int | None = None,
        final_learning_rate_fraction: float = 0.1,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.95,
        compile: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_options(
            learning_rate, warmup_steps, decay_steps, final_learning_rate_fraction, weight_decay, beta1, beta2
        )
        # A checkpoint keeps the config as a plain dict, so that it loads with weights_only=True; it comes back as one.
        gpt = gpt if isinstance(gpt, GPTConfig) else GPTConfig(**gpt)
        self.save_hyperparameters(ignore=["gpt"])
        self.save_hyperparameters({"gpt": asdict(gpt)})
        self.model = GPT(gpt)
        if activation_checkpointing:
            apply_activation_checkpointing(self.model, check_fn=lambda module: isinstance(module, Block))
        self.training_loss = torch.compile(next_token_loss) if compile else next_token_loss
        # nan_strategy: the check costs a device synchronisation per batch, and a non-finite loss stops the run anyway.
        self.train_loss = MeanMetric(nan_strategy="disable")
        # Part of the checkpoint, so that a resumed run logs the same averages as one that was never stopped.
        self.train_loss.persistent(True)
        # Sums, not weighted means: MeanMetric forgets the weights when its check for NaN is off (torchmetrics 1.9).
        self.nats, self.tokens, self.bytes = (SumMetric(nan_strategy="disable") for _ in range(3))
        self.register_buffer("token_byte_lengths", None, persistent=False)
        self.seed: int | None = None
        self.unstepped_gradients: list[Tensor | None] | None = None

    # ---- set-up

    def setup(self, stage: str) -> None:
        """Take from the datamodule how many bytes each token stands for; remember the run's seed."""
        # Not a buffer: DDP would overwrite every rank's with rank zero's.
        self.first_bad_step = torch.tensor(-1, device=self.trainer.strategy.root_device)
        lengths = getattr(self.trainer.datamodule, "token_byte_lengths", None)
        if lengths is not None:
            self.token_byte_lengths = lengths.to(self.device)
        if self.seed is None:
            self.seed = torch.initial_seed()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with decay on matrices only; warm-up and cosine per optimiser step."""
        h = self.hparams
        precision = self.trainer.precision_plugin
        scaled = isinstance(precision, MixedPrecision) and precision.scaler is not None
        # A fused optimiser unscales fp16 gradients inside its step, too late to clip them.
        fused = not (scaled and self.trainer.gradient_clip_val)
        optimizer = adamw(self.model, h.learning_rate, (h.beta1, h.beta2), h.weight_decay, fused)
        if not scaled:
            # Lightning refuses to clip with any optimiser that could unscale, also in bf16 where nothing is scaled.
            optimizer._step_supports_amp_scaling = False
        decay_steps = h.decay_steps or self.total_optimizer_steps()
        multiplier = warmup_cosine(h.warmup_steps, decay_steps, h.final_learning_rate_fraction)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_optimizer_steps(self) -> int:
        """Optimiser steps of the whole run. Not `trainer.estimated_stepping_batches`: that sets the loaders up again
        and loses a resumed loader's position (Lightning issue 20550)."""
        trainer = self.trainer
        if trainer.max_steps > 0:
            return trainer.max_steps
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            raise UserError(
                "The cosine schedule needs to know where training ends: give --trainer.max_steps, "
                "--trainer.max_epochs or --model.decay_steps."
            )
        batches = len(trainer.datamodule.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)

    # ---- training

    def on_train_start(self) -> None:
        """After a resume: options of now win over the checkpoint's."""
        self.apply_options()

    def apply_options(self) -> None:
        """Put learning rate, decay and betas into the optimiser, whose state from a checkpoint brought its own."""
        h, scheduler = self.hparams, self.lr_schedulers()
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [h.learning_rate for _ in groups]
        for group, weight_decay, multiplier in zip(groups, (h.weight_decay, 0.0), scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = h.learning_rate
            group["lr"] = h.learning_rate * multiplier(scheduler.last_epoch)
            group["betas"], group["weight_decay"] = (h.beta1, h.beta2), weight_decay

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this batch's dropout, and put back gradients that a checkpoint inside an accumulation window carried."""
        # Distinct for every (batch, rank); the golden-ratio multiplier spreads neighbouring numbers over 64 bits.
        stream = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        seed = (self.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        # Not torch.manual_seed: it formats a stack trace for each kind of device that is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if self.unstepped_gradients is not None:
            for parameter, gradient in zip(self.model.parameters(), self.unstepped_gradients, strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
            self.unstepped_gradients = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean next-token loss in nats of one batch."""
        inputs, targets = batch
        loss = self.training_loss(self.model, inputs, targets)
        detached = loss.detach()
        # Kept on the device: looking at the value here would make the CPU wait for the GPU in every batch.
        first_bad = (self.first_bad_step < 0) & ~detached.isfinite()
        self.first_bad_step = torch.where(first_bad, self.global_step, self.first_bad_step)
        self.train_loss.update(detached)
        # Here and not in on_train_batch_end, which comes after the callbacks: a checkpoint must see the average reset.
        if self.completes_logged_step():
            self.log("train/loss", self.train_loss.compute())
            self.log("train/learning_rate", self.lr_schedulers().optimizer.param_groups[0]["lr"])
            self.train_loss.reset()
        return loss

    def completes_logged_step(self) -> bool:
        """Whether the optimiser steps after this batch, and that step is one to log: every `log_every_n_steps`-th."""
        accumulating = self.trainer.fit_loop._should_accumulate()
        return not accumulating and (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """At each logged step, look for a non-finite loss."""
        if completed_logged_step(self.trainer):
            self.stop_if_not_finite()

    def stop_if_not_finite(self) -> None:
        """Raise UserError on every rank, naming the step, if any rank's loss was NaN or infinite so far."""
        bad_step = int(self.trainer.strategy.reduce(self.first_bad_step, reduce_op="max"))
        if bad_step >= 0:
            raise UserError(
                f"The loss became non-finite (NaN or infinite) at optimiser step {bad_step}; training stopped, and "
                "checkpoints from before are kept. Try a lower --model.learning_rate, more --model.warmup_steps, or "
                "--trainer.gradient_clip_val 1.0."
            )

    # ---- validation and test

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch's nats, tokens and bytes."""
        inputs, targets = batch
        self.nats.update(next_token_loss(self.model, inputs, targets, reduction="sum"))
        counted = targets != IGNORED
        self.tokens.update(counted.sum())
        if self.token_byte_lengths is not None:
            self.bytes.update(self.token_byte_lengths[targets[counted]].sum())

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same figures, on the test split."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log loss (nats per token), perplexity, and bits per byte, which compares runs with different tokenizers."""
        self.log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """As for validation, under `test/`."""
        self.log_evaluation("test")

    def log_evaluation(self, split: str) -> None:
        """Log and reset the metrics of one pass over a split."""
        nats = self.nats.compute()
        loss = nats / self.tokens.compute()
        values = {"loss": loss, "perplexity": loss.exp()}
        if self.token_byte_lengths is not None:
            values["bits_per_byte"] = nats / self.bytes.compute() / math.log(2)
        # The metrics have summed over all ranks already; sync_dist tells Lightning so.
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)
        for metric in (self.nats, self.tokens, self.bytes):
            metric.reset()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed and, inside an accumulation window, its gradients so far; refuse after a non-finite loss."""
        self.stop_if_not_finite()
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            raise UserError(
                f"The weights became non-finite (NaN or infinite) at optimiser step {self.global_step - 1}; training "
                "stopped, and checkpoints from before are kept. Try a lower --model.learning_rate."
            )
        checkpoint["seed"] = self.seed
        if self.trainer.state.fn == TrainerFn.FITTING and self.trainer.fit_loop._should_accumulate():
            gradients = [parameter.grad for parameter in self.model.parameters()]
            checkpoint["unstepped_gradients"] = [None if g is None else g.detach().cpu() for g in gradients]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the seed and the gradients of an unfinished accumulation window."""
        self.seed = checkpoint.get("seed", self.seed)
        self.unstepped_gradients = checkpoint.get("unstepped_gradients")

    @property
    def flops_per_batch(self) -> int:
        """Floating-point operations of one training batch on one device, for MFU."""
        data = self.trainer.datamodule
        return self.model.flops_per_token() * data.batch_size * data.context_length
