"""The LightningModule: loss, metrics, optimiser, schedule. Nothing about files, corpora or plots.

Training randomness (dropout) is a pure function of (seed, batch, rank): nothing has to be saved for an exact resume,
and validation may draw as many random numbers as it likes.
"""

import math
from dataclasses import asdict
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, SumMetric

from gpt_lightning.errors import UserError
from gpt_lightning.faults import (
    NO_FAULT,
    NO_WAY_ON,
    Fault,
    Kind,
    StepWatch,
    bad_optimizer_states,
    bad_output,
    bad_values,
    bad_weights,
    nonfinite,
)
from gpt_lightning.loss import IGNORED, next_token_loss
from gpt_lightning.model import GPT, Block, GPTConfig
from gpt_lightning.optim import SCHEDULES, build_optimizer, parameter_groups
from gpt_lightning.sharding import full_tensor, number_as_network, reshard, shard, sharded_like

Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) int64 each; targets of -100 do not count
# What it takes to say what was wrong with a batch: its loss as backward got it, the batch (None if it was trained on
# before a resume), and its number in the run.
Trained = tuple[Tensor, Batch | None, int]


def completed_logged_step(trainer: L.Trainer) -> bool:
    """After a batch: whether the optimiser has just stepped, to a step that is logged. False for the other batches of
    an accumulation window, so that what costs a look at the device happens once a logged step."""
    accumulating = trainer.fit_loop._should_accumulate()
    return not accumulating and trainer.global_step % trainer.log_every_n_steps == 0


def check_options(h: AttributeDict) -> None:
    """Raise UserError naming every one of GPTModule's options that is out of range."""
    allowed = {
        "learning_rate must be above 0": 0 < h.learning_rate < math.inf,
        "muon_learning_rate must be above 0": 0 < h.muon_learning_rate < math.inf,
        "muon_momentum must be at least 0 and below 1": 0 <= h.muon_momentum < 1,
        "embedding_learning_rate must be above 0": h.embedding_learning_rate is None
        or 0 < h.embedding_learning_rate < math.inf,
        "warmup_steps must be 0 or more": 0 <= h.warmup_steps < 2**53,
        "decay_steps must be 1 or more": h.decay_steps is None or 1 <= h.decay_steps < 2**53,
        "final_learning_rate_fraction must be between 0 and 1": 0 <= h.final_learning_rate_fraction <= 1,
        "weight_decay must be 0 or more": 0 <= h.weight_decay < math.inf,
        "beta1 must be at least 0 and below 1": 0 <= h.beta1 < 1,
        "beta2 must be at least 0 and below 1": 0 <= h.beta2 < 1,
        "spike_factor must be above 1": h.spike_factor > 1,
    }
    problems = [rule for rule, holds in allowed.items() if not holds]
    if problems:
        raise UserError(f"model: {'; '.join(problems)}.")


class GPTModule(L.LightningModule):
    """Train a GPT to predict the next token.

    Args:
        gpt: Sizes and options of the network.
        init_from: Begin with the weights, and so with the sizes and options, of this network: a checkpoint of ours, a
            directory of Hugging Face's GPT-2, or nanoGPT's ckpt.pt. Dropout stays as configured.
        optimizer: "adamw", or "muon", which takes the matrices in the blocks and leaves the rest to AdamW.
        learning_rate: Peak learning rate of AdamW.
        muon_learning_rate: Peak learning rate of Muon.
        muon_momentum: Muon's decay rate of the gradient's running mean.
        embedding_learning_rate: With Muon, AdamW's peak learning rate of embeddings; null means `learning_rate`.
        schedule: How learning rates fall after the warm-up: a half "cosine", or "linear" in the second half of the run.
        warmup_steps: Optimiser steps of linear warm-up.
        decay_steps: Optimiser step at which the schedule reaches its end; null means the last step of the run.
        final_learning_rate_fraction: Learning rates at the end of the schedule, as a share of their peaks.
        weight_decay: Decay of matrices; biases and norms never decay.
        beta1: AdamW's decay rate of the gradient's running mean.
        beta2: AdamW's decay rate of the squared gradient's running mean.
        compile: Compile the training step with torch.compile.
        activation_checkpointing: Recompute activations in backward: less memory, about a third more compute.
        on_nonfinite: When a loss or gradient is NaN or infinite: "stop" ends the run, naming step, layer and value,
            before any weight changes; "skip" drops the step's gradients and goes on, up to 20 times in a row. Weights
            that are not finite always end the run; an fp16 overflow never does, while its scaler can still adapt.
        on_spike: When the gradient norm or the loss is far above its median of the last 50 steps: "warn" prints a
            line, "skip" and "stop" are as for on_nonfinite.
        spike_factor: How many times the median makes a gradient norm a spike. (For a loss, 3 times do.)
    """

    def __init__(
        self,
        gpt: GPTConfig,
        init_from: str | None = None,
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: float = 6e-4,
        muon_learning_rate: float = 0.02,
        muon_momentum: float = 0.95,
        embedding_learning_rate: float | None = None,
        schedule: Literal["cosine", "linear"] = "cosine",
        warmup_steps: int = 100,
        decay_steps: int | None = None,
        final_learning_rate_fraction: float = 0.1,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.95,
        compile: bool = False,
        activation_checkpointing: bool = False,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        on_spike: Literal["warn", "skip", "stop"] = "warn",
        spike_factor: float = 10.0,
    ) -> None:
        super().__init__()
        # A checkpoint keeps the config as a plain dict, so that it loads with weights_only=True; it comes back as one.
        gpt = gpt if isinstance(gpt, GPTConfig) else GPTConfig(**gpt)
        self.save_hyperparameters(ignore=["gpt"])
        check_options(self.hparams)
        self.save_hyperparameters({"gpt": asdict(gpt)})
        self.model = GPT(gpt)
        if activation_checkpointing:
            apply_activation_checkpointing(self.model, check_fn=lambda module: isinstance(module, Block))
        self.training_loss = torch.compile(next_token_loss) if compile else next_token_loss
        # nan_strategy: the check costs a device synchronisation, and what is not finite never gets here.
        self.train_loss = MeanMetric(nan_strategy="disable")
        # Part of the checkpoint, so that a resumed run logs the same averages as one that was never stopped.
        self.train_loss.persistent(True)
        # Sums, not weighted means: MeanMetric forgets the weights when its check for NaN is off (torchmetrics 1.9).
        self.nats, self.tokens, self.bytes = (SumMetric(nan_strategy="disable") for _ in range(3))
        self.register_buffer("token_byte_lengths", None, persistent=False)
        self.seed: int | None = None
        self.unstepped_gradients: list[Tensor | None] | None = None
        self.unstepped_losses: list[Tensor] | None = None
        self.batch: Batch | None = None  # the one being trained on
        self.window: list[Trained] = []  # the batches of the optimiser step under way
        self.watch = StepWatch(on_nonfinite, on_spike, spike_factor)

    # ---- set-up

    def setup(self, stage: str) -> None:
        """Take from the datamodule how many bytes each token stands for; remember the run's seed."""
        self.window = []
        # Lightning does so only after loading a checkpoint's weights, which loses digits of double precision.
        self.trainer.precision_plugin.convert_module(self)
        lengths = getattr(self.trainer.datamodule, "token_byte_lengths", None)
        if lengths is not None:
            self.token_byte_lengths = lengths.to(self.device)
        if self.seed is None:
            self.seed = torch.initial_seed()

    def configure_model(self) -> None:
        """Under FSDP, share the network out, once."""
        if self.shared and not isinstance(self.model, FSDPModule):
            shard(self.model)

    @property
    def shared(self) -> bool:
        """Whether each rank keeps only a share of the network."""
        return self._trainer is not None and isinstance(self.trainer.strategy, ModelParallelStrategy)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser of the options; its schedule moves at every optimiser step."""
        h = self.hparams
        if h.optimizer == "muon" and self.shared:
            raise UserError("Muon needs whole matrices, of which FSDP leaves each process a share: use DDP, or adamw.")
        # A fused optimiser unscales fp16 gradients inside its step, too late to look at them or clip them.
        fused = self.scaler is None
        optimizer = build_optimizer(self.parameter_groups(), fused)
        if fused:
            # Lightning refuses to clip with any optimiser that could unscale, also in bf16 where nothing is scaled.
            optimizer._step_supports_amp_scaling = False
        decay_steps = h.decay_steps or self.total_optimizer_steps()
        multiplier = SCHEDULES[h.schedule](h.warmup_steps, decay_steps, h.final_learning_rate_fraction)
        scheduler = LambdaLR(optimizer, multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters and what the options say of them."""
        h = self.hparams
        muon = (h.muon_learning_rate, h.embedding_learning_rate, h.muon_momentum) if h.optimizer == "muon" else ()
        return parameter_groups(self.model, h.learning_rate, (h.beta1, h.beta2), h.weight_decay, *muon)

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
        """Put learning rates, decay and betas into the optimiser, whose state from a checkpoint brought its own.

        Raises:
            UserError: that state is not this network's.
        """
        scheduler, groups = self.lr_schedulers(), self.parameter_groups()
        for parameter, state in scheduler.optimizer.state.items():
            # PyTorch does not look, and would write beyond the end of what is too small.
            if any(isinstance(v, Tensor) and v.dim() and v.shape != parameter.shape for v in state.values()):
                raise UserError("The optimiser state in the checkpoint does not fit its weights.")
        if not isinstance(scheduler, LambdaLR):
            return  # Lightning's LearningRateFinder tries its own
        scheduler.base_lrs = [group["lr"] for group in groups]
        for group, options in zip(scheduler.optimizer.param_groups, groups, strict=True):
            multiplier = scheduler.lr_lambdas[0](scheduler.last_epoch)
            group |= {name: value for name, value in options.items() if name != "params"}
            group |= {"initial_lr": options["lr"], "lr": options["lr"] * multiplier}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this batch's dropout, and take up an unfinished accumulation window."""
        self.batch = batch
        self.seed_dropout(self.trainer.fit_loop.total_batch_idx)
        self.put_back_unstepped()

    def put_back_unstepped(self) -> None:
        """Put back the gradients and losses that a checkpoint inside an accumulation window carried."""
        if self.unstepped_losses is not None:
            self.window = [(loss.to(self.device), None, -1) for loss in self.unstepped_losses]
            self.unstepped_losses = None
        if self.unstepped_gradients is not None:
            for parameter, gradient in zip(self.model.parameters(), self.unstepped_gradients, strict=True):
                parameter.grad = None if gradient is None else sharded_like(gradient, parameter)
            self.unstepped_gradients = None

    def seed_dropout(self, number: int) -> None:
        """Set the random numbers of a batch, given its number in the run."""
        # Distinct for every (batch, rank); the golden-ratio multiplier spreads neighbouring numbers over 64 bits.
        stream = number * self.trainer.world_size + self.global_rank
        seed = (self.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        # Not torch.manual_seed: it formats a stack trace for each kind of device that is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean next-token loss in nats of one batch."""
        return self.training_loss(self.model, *batch)

    def on_before_backward(self, loss: Tensor) -> None:
        """Keep the loss on the device: looking at the value here would make the CPU wait for the GPU in every batch."""
        self.window.append((loss.detach(), self.batch, self.trainer.fit_loop.total_batch_idx))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: GradClipAlgorithmType | None = None,
    ) -> None:
        """Before every optimiser step, also where nothing is to be clipped: look for numerical faults; then clip the
        gradients, or drop them and so skip the step. Every rank sees the same figures and does the same.

        Raises:
            UserError: the run is to stop before this step, see `on_nonfinite` and `on_spike`.
        """
        window, self.window = self.window, []
        if not window:
            return super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        losses = self.losses(window)
        parameters = [p for p in self.trainer.precision_plugin.main_params(optimizer) if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        figures = [full_tensor(norm).to(losses), losses.mean()]
        if self.completes_logged_step():  # a bad weight that the batches of a step don't meet shows in nothing else
            figures.append(full_tensor(get_total_norm(self.model.parameters())).to(losses))
        # The one time in a step that the CPU waits for the device.
        figures = self.trainer.strategy.reduce(torch.stack(figures), reduce_op="mean").tolist()
        mean_norm, mean_loss, *_ = figures
        fault = NO_FAULT
        if not all(map(math.isfinite, figures)):
            fault = self.worst_on_any_rank(self.nonfinite_here(window, losses, full_tensor(norm), optimizer))
        if fault.kind == Kind.NONE:
            fault = self.watch.spike(self.model, self.global_step, mean_norm, mean_loss)
        takes = self.watch.takes(fault)
        if takes:
            self.clip(optimizer, parameters, norm, mean_norm, gradient_clip_val, gradient_clip_algorithm)
        else:
            optimizer.zero_grad()  # to None: without gradients the optimiser moves nothing, its own state included
        if fault.kind != Kind.NONE:
            self.trainer.print(f"step {self.global_step:>6,}  {'SPIKE' if takes else 'SKIPPED'}  {fault.sentence}")
        self.record(mean_norm, mean_loss)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """fp16's gradient scaler, if there is one."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler if scaler is not None and scaler.is_enabled() else None

    def losses(self, window: list[Trained]) -> Tensor:
        """Loss in nats of each batch of an optimiser step: backward gets it scaled and as a share of the step."""
        losses = torch.stack([loss for loss, _, _ in window]).float() * self.trainer.accumulate_grad_batches
        return losses if self.scaler is None else losses / self.scaler.scale(torch.ones_like(losses))

    def clip(
        self,
        optimizer: Optimizer,
        parameters: list[Tensor],
        norm: Tensor,
        mean_norm: float,
        limit: float | None,
        algorithm: GradClipAlgorithmType | None,
    ) -> None:
        """Clip the gradients of `parameters` as the trainer's options say, given their norm here and over all ranks."""
        if algorithm == GradClipAlgorithmType.VALUE:
            super().configure_gradient_clipping(optimizer, limit, algorithm)
        elif 0 < (limit or 0) < mean_norm:
            clip_grads_with_norm_(parameters, limit, norm)

    def record(self, norm: float, loss: float) -> None:
        """Remember what this optimiser step was like, and log it if it is one to log."""
        self.watch.remember(norm, loss)
        if math.isfinite(loss):
            self.train_loss.update(loss)  # the same on every rank, so that rank zero's checkpoint is everybody's
        # Here and not in on_train_batch_end, which comes after the callbacks: a checkpoint must see the average reset.
        if self.completes_logged_step():
            figures = {
                "train/learning_rate": self.lr_schedulers().optimizer.param_groups[0]["lr"],
                "train/skipped_steps": float(self.watch.skipped),
            }
            if math.isfinite(norm):
                figures["train/grad_norm"] = norm
            if self.train_loss.weight > 0:  # not every step was skipped
                figures["train/loss"] = self.train_loss.compute()
            if self.scaler is not None:
                figures["train/loss_scale"] = self.scaler.get_scale()
            self.log_dict(figures)
            self.train_loss.reset()

    def completes_logged_step(self) -> bool:
        """Whether the optimiser steps after this batch, and that step is one to log: every `log_every_n_steps`-th."""
        accumulating = self.trainer.fit_loop._should_accumulate()
        return not accumulating and (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    # ---- numerical faults

    def nonfinite_here(self, window: list[Trained], losses: Tensor, norm: Tensor, optimizer: Optimizer) -> Fault:
        """What is NaN or infinite on this rank."""

        def look_again(index: int) -> str:
            return self.look_again(window[index])

        scale = self.overflowed_scale(optimizer)
        return nonfinite(self.model, self.global_step, losses.tolist(), norm.item(), scale, look_again)

    def overflowed_scale(self, optimizer: Optimizer) -> float | None:
        """The loss scale that fp16's scaler is about to lower, since it found gradients that are not finite."""
        scaler = self.scaler
        # A gradient that went bad after the scaler's look is no overflow: the scale would never come down.
        if scaler is None or not any(found.item() for found in scaler._found_inf_per_device(optimizer).values()):
            return None
        return scaler.get_scale()

    def look_again(self, trained: Trained) -> str:
        """Where the loss of a batch became bad, seen by running it again."""
        _, batch, number = trained
        if batch is None:
            return "it can't be run again, since that was before a resume"
        if self.shared:
            return "it can't be run again by one rank alone"
        self.seed_dropout(number)
        with self.trainer.precision_plugin.forward_context():
            return bad_output(self.model, *batch)

    def worst_on_any_rank(self, fault: Fault) -> Fault:
        """The worst fault of all ranks', the same on each of them: they have to do the same."""
        if self.trainer.world_size == 1:
            return fault
        of_ranks = [fault] * self.trainer.world_size
        torch.distributed.all_gather_object(of_ranks, fault)
        return max(of_ranks)

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
        reshard(self.model)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed, what is known of earlier steps and, inside an accumulation window, its gradients so far.

        Raises:
            UserError: a weight is not finite.
        """
        if found := bad_weights(self.model):
            raise UserError(f"A weight is not finite at optimiser step {self.global_step:,}: {found}. {NO_WAY_ON}")
        if "optimizer_states" in checkpoint and not self.shared:
            number_as_network(checkpoint["optimizer_states"][0], self.trainer.optimizers[0], self.model)
        checkpoint["seed"] = self.seed
        checkpoint["step_watch"] = self.watch.state_dict()
        if self.trainer.state.fn == TrainerFn.FITTING and self.trainer.fit_loop._should_accumulate():
            self.put_back_unstepped()  # they still wait for the first batch, if this is a validation that was due
            # Ranks take the mean of their gradients when they step; only rank zero's checkpoint is kept, so do it now.
            mean, gradients = self.trainer.strategy.reduce, [parameter.grad for parameter in self.model.parameters()]
            checkpoint["unstepped_gradients"] = [
                g if g is None else mean(full_tensor(g).clone()).cpu() for g in gradients
            ]
            checkpoint["unstepped_losses"] = [mean(loss.clone()).cpu() for loss, _, _ in self.window]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the seed, what is known of earlier steps and the gradients of an unfinished accumulation window.

        Raises:
            UserError: a weight is not finite, or the checkpoint is of another optimiser.
        """
        # Under FSDP Lightning has taken them out by now; there the first step finds what is not finite.
        if found := bad_values(checkpoint.get("state_dict", {}).items()):
            raise UserError(f"A weight of the checkpoint is not finite: {found}. {NO_WAY_ON}")
        if found := bad_optimizer_states(checkpoint.get("optimizer_states", [])):
            raise UserError(f"The optimiser state in the checkpoint is not finite: {found}. {NO_WAY_ON}")
        optimizer = checkpoint["hyper_parameters"].get("optimizer", "adamw")
        if optimizer != self.hparams.optimizer and self.trainer.state.fn == TrainerFn.FITTING:
            raise UserError(f"The checkpoint is of --model.optimizer {optimizer}, from which no other can go on.")
        self.seed = checkpoint.get("seed", self.seed)
        self.unstepped_gradients = checkpoint.get("unstepped_gradients")
        self.unstepped_losses = checkpoint.get("unstepped_losses")
        if "step_watch" in checkpoint:
            self.watch.load_state_dict(checkpoint["step_watch"])

    @property
    def flops_per_batch(self) -> int:
        """Floating-point operations of one training batch on one device, for MFU."""
        data = self.trainer.datamodule
        return self.model.flops_per_token() * data.batch_size * data.context_length
