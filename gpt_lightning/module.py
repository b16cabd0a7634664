"""The LightningModule: loss, metrics, optimiser, schedule. Nothing about files, corpora or plots.

Training randomness (dropout) is a pure function of (seed, batch, rank): nothing has to be saved for an exact resume,
and validation may draw as many random numbers as it likes.
"""

import math
from dataclasses import asdict
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, SumMetric

from gpt_lightning import ranges
from gpt_lightning.batch import IGNORED, Batch
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, Block, GPTConfig
from gpt_lightning.training.guarded_step import GuardedStep, gradient_scaler
from gpt_lightning.training.loss import next_token_loss
from gpt_lightning.training.numerical_faults import GO_BACK, StepWatch, bad_optimizer_states, bad_values, bad_weights
from gpt_lightning.training.optim import SCHEDULES, build_optimizer, parameter_groups
from gpt_lightning.training.sharding import number_as_network, reshard, shard


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
        learning_rate: ranges.PositiveFloat = 6e-4,
        muon_learning_rate: ranges.PositiveFloat = 0.02,
        muon_momentum: ranges.ShareBelowOne = 0.95,
        embedding_learning_rate: ranges.PositiveFloat | None = None,
        schedule: Literal["cosine", "linear"] = "cosine",
        warmup_steps: ranges.NonNegativeInt = 100,
        decay_steps: ranges.PositiveInt | None = None,
        final_learning_rate_fraction: ranges.ClosedUnitInterval = 0.1,
        weight_decay: ranges.NonNegativeFloat = 0.1,
        beta1: ranges.ShareBelowOne = 0.9,
        beta2: ranges.ShareBelowOne = 0.95,
        compile: bool = False,
        activation_checkpointing: bool = False,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        on_spike: Literal["warn", "skip", "stop"] = "warn",
        spike_factor: ranges.AboveOne = 10.0,
    ) -> None:
        super().__init__()
        # In a checkpoint it is a plain dict, so that it loads with weights_only=True.
        gpt = gpt if isinstance(gpt, GPTConfig) else GPTConfig(**gpt)
        self.save_hyperparameters(ignore=["gpt"])
        ranges.check_arguments(GPTModule.__init__, self.hparams, "model")
        self.save_hyperparameters({"gpt": asdict(gpt)})
        self.model = GPT(gpt)
        if activation_checkpointing:
            apply_activation_checkpointing(self.model, check_fn=lambda module: isinstance(module, Block))
        self.training_loss = torch.compile(next_token_loss) if compile else next_token_loss
        # nan_strategy: the check costs a device synchronisation, and only finite values get here.
        self.train_loss = MeanMetric(nan_strategy="disable")
        # Part of the checkpoint, so that a resumed run logs the same averages as one that was never stopped.
        self.train_loss.persistent(True)
        # Sums, not weighted means: MeanMetric forgets the weights when its check for NaN is off (torchmetrics 1.9).
        self.nats, self.tokens, self.bytes = (SumMetric(nan_strategy="disable") for _ in range(3))
        self.register_buffer("token_byte_lengths", None, persistent=False)
        self.seed: int | None = None
        self.guard = GuardedStep(self, StepWatch(on_nonfinite, on_spike, spike_factor))
        # Whether this batch completes an optimiser step that is logged (every `log_every_n_steps`-th). Set before that
        # step and kept until the next batch, for callbacks too, which look at the device only then.
        self.completes_logged_step = False

    # ---- set-up

    def setup(self, stage: str) -> None:
        """Take from the datamodule how many bytes each token stands for; remember the run's seed."""
        self.guard.window = []
        # Lightning converts only after loading a checkpoint's weights, which loses digits of double precision.
        self.trainer.precision_plugin.convert_module(self)
        lengths = getattr(self.trainer.datamodule, "token_byte_lengths", None)
        if lengths is not None:
            self.token_byte_lengths = lengths.to(self.device)
        if self.seed is None:
            self.seed = torch.initial_seed()

    def configure_model(self) -> None:
        """Under FSDP, shard the network over the processes, once."""
        if self.device_mesh is not None and not isinstance(self.model, FSDPModule):
            shard(self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser that the options name; its schedule moves at every optimiser step."""
        h = self.hparams
        if h.optimizer == "muon" and isinstance(self.model, FSDPModule):
            raise UserError("Muon needs full matrices, but FSDP leaves each process a share: use DDP, or adamw.")
        # A fused optimiser unscales fp16 gradients inside its step: too late to look at them or clip them.
        fused = gradient_scaler(self.trainer) is None
        optimizer = build_optimizer(self.parameter_groups(), fused)
        if fused:
            # Lightning refuses to clip with any optimiser that could unscale, even in bf16, where nothing is scaled.
            optimizer._step_supports_amp_scaling = False
        decay_steps = h.decay_steps or self.total_optimizer_steps()
        multiplier = SCHEDULES[h.schedule](h.warmup_steps, decay_steps, h.final_learning_rate_fraction)
        scheduler = LambdaLR(optimizer, multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network's parameters in groups, each with its options."""
        h = self.hparams
        muon = (h.muon_learning_rate, h.embedding_learning_rate, h.muon_momentum) if h.optimizer == "muon" else ()
        return parameter_groups(self.model, h.learning_rate, (h.beta1, h.beta2), h.weight_decay, *muon)

    def total_optimizer_steps(self) -> int:
        """Optimiser steps from the run's beginning to its end."""
        # trainer.estimated_stepping_batches would set the loaders up again and so lose a resumed loader's position
        # (Lightning issue 20550).
        trainer = self.trainer
        if trainer.max_steps > 0:
            return trainer.max_steps
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            raise UserError(
                "The learning rate's schedule needs to know where training ends: give --trainer.max_steps, "
                "--trainer.max_epochs or --model.decay_steps."
            )
        batches = len(trainer.datamodule.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)

    # ---- training

    def on_train_start(self) -> None:
        """After a resume, put this run's learning rates, decay and betas in place of the checkpoint's.

        Raises:
            UserError: the optimiser state is not this network's.
        """
        scheduler, groups = self.lr_schedulers(), self.parameter_groups()
        for parameter, state in scheduler.optimizer.state.items():
            # PyTorch does not check, and would write beyond the end of a tensor that is too small.
            if any(isinstance(v, Tensor) and v.dim() and v.shape != parameter.shape for v in state.values()):
                raise UserError("The optimiser state in the checkpoint does not fit its weights.")
        if not isinstance(scheduler, LambdaLR):
            return  # Lightning's LearningRateFinder tries rates of its own
        scheduler.base_lrs = [group["lr"] for group in groups]
        for group, options in zip(scheduler.optimizer.param_groups, groups, strict=True):
            multiplier = scheduler.lr_lambdas[0](scheduler.last_epoch)
            group |= {name: value for name, value in options.items() if name != "params"}
            group |= {"initial_lr": options["lr"], "lr": options["lr"] * multiplier}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this batch's dropout, and let the guard restore an unfinished accumulation window."""
        self.completes_logged_step = False
        self.seed_dropout(self.trainer.fit_loop.total_batch_idx)
        self.guard.begin_batch(batch)

    def seed_dropout(self, number: int) -> None:
        """Seed the random numbers of a batch, given its number in the run."""
        # Distinct for every (batch, rank); the golden-ratio multiplier spreads neighbouring numbers over 64 bits.
        stream = number * self.trainer.world_size + self.global_rank
        seed = (self.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        # torch.manual_seed would format a stack trace for each kind of device that is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean next-token loss in nats of one batch."""
        return self.training_loss(self.model, *batch)

    def on_before_backward(self, loss: Tensor) -> None:
        """Hand the loss to the guard, which checks it when the optimiser steps."""
        self.guard.add_loss(loss)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: GradClipAlgorithmType | None = None,
    ) -> None:
        """Let the guard look for numerical faults and clip, then log. Lightning calls this before every optimiser step.

        Raises:
            UserError: the run is to stop before this step, see `on_nonfinite` and `on_spike`.
        """
        self.completes_logged_step = (self.global_step + 1) % self.trainer.log_every_n_steps == 0
        norm, loss = self.guard.before_step(optimizer, gradient_clip_val, gradient_clip_algorithm)
        if math.isfinite(loss):
            self.train_loss.update(loss)  # the same on every rank: rank zero's checkpoint is for all of them
        # Not in on_train_batch_end, which comes after the callbacks: a checkpoint must see the average reset.
        if self.completes_logged_step:
            self.log_step(norm)

    def log_step(self, norm: float) -> None:
        """Log this optimiser step: the norm of its gradients, and the mean loss since the last logged step."""
        figures = {
            "train/learning_rate": self.lr_schedulers().optimizer.param_groups[0]["lr"],
            "train/skipped_steps": float(self.guard.watch.skipped),
        }
        if math.isfinite(norm):
            figures["train/grad_norm"] = norm
        if self.train_loss.weight > 0:  # not every step was skipped
            figures["train/loss"] = self.train_loss.compute()
        scaler = gradient_scaler(self.trainer)
        if scaler is not None:
            figures["train/loss_scale"] = scaler.get_scale()
        self.log_dict(figures)
        self.train_loss.reset()

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
        """Count the same on the test split."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log loss (nats per token), perplexity, and bits per byte, which compares runs with different tokenizers."""
        self.log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the same figures under `test/`."""
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
        """Add the seed, and what the guard knows of earlier steps and of the one under way.

        Raises:
            UserError: a weight is not finite.
        """
        if where := bad_weights(self.model):
            raise UserError(f"A weight is not finite at optimiser step {self.global_step:,}: {where}. {GO_BACK}")
        if "optimizer_states" in checkpoint and not isinstance(self.model, FSDPModule):
            number_as_network(checkpoint["optimizer_states"][0], self.trainer.optimizers[0], self.model)
        checkpoint["seed"] = self.seed
        self.guard.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the seed and what the guard knew.

        Raises:
            UserError: a weight is not finite, or the checkpoint is of another optimiser.
        """
        # Under FSDP Lightning has taken the weights out by now; there the first step finds what is not finite.
        if where := bad_values(checkpoint.get("state_dict", {}).items()):
            raise UserError(f"A weight of the checkpoint is not finite: {where}. {GO_BACK}")
        if where := bad_optimizer_states(checkpoint.get("optimizer_states", [])):
            raise UserError(f"The optimiser state in the checkpoint is not finite: {where}. {GO_BACK}")
        optimizer = checkpoint["hyper_parameters"].get("optimizer", "adamw")
        if optimizer != self.hparams.optimizer and self.trainer.state.fn == TrainerFn.FITTING:
            raise UserError(f"The checkpoint is of --model.optimizer {optimizer}: only that can go on from it.")
        self.seed = checkpoint.get("seed", self.seed)
        self.guard.on_load_checkpoint(checkpoint)

    @property
    def flops_per_batch(self) -> int:
        """Floating-point operations of one training batch on one device, for MFU."""
        data = self.trainer.datamodule
        return self.model.flops_per_token() * data.batch_size * data.context_length
