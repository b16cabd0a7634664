"""LightningCLI for this project: its options, run directories, callbacks and subcommands."""

import logging
import pkgutil
import sys
import threading
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

import callbacks
from callbacks.resuming.lost_process import end_with_launcher
from cli import commands, endings
from cli.settings import settle
from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.load import LoadedCheckpoint
from gpt_lightning.checkpoints.save import AtomicCheckpointIO
from gpt_lightning.command_line import usage_error
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.data.tokenizer import same_tokenizer, tokenizer_state
from gpt_lightning.errors import UserError
from gpt_lightning.module import GPTModule
from gpt_lightning.notices import say

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "default.yaml"
SUBCOMMANDS = ("fit", "validate", "test")


def main() -> None:
    """Run the CLI; without a subcommand, fit."""
    threading.excepthook = quiet_about_files
    end_with_launcher()
    if set(sys.argv[1:2]) & {module.name for module in pkgutil.iter_modules(commands.__path__)}:
        raise SystemExit(import_module(f"cli.commands.{sys.argv[1]}").main(sys.argv[2:]))
    if len(sys.argv) == 1 or (sys.argv[1].startswith("-") and sys.argv[1] not in ("-h", "--help")):
        sys.argv.insert(1, "fit")
    # Lightning's own notices (which devices exist, tips) say less than `before_fit`; warnings and errors stay.
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Two notices come from nobody else: that it kills this process because another has died, and a profiler's table.
    for logger in ("lightning.fabric.strategies.launchers.subprocess_script", "lightning.pytorch.profilers"):
        logging.getLogger(logger).setLevel(logging.INFO)
    for expected in (
        r".*LeafSpec.* is deprecated",  # Lightning's own call, not the user's
        r"Detected call of `lr_scheduler.step\(\)` before",  # fp16's scaler skips a first step that overflows
        r"Checkpoint directory .* is not empty",  # on a resume
    ):
        warnings.filterwarnings("ignore", message=expected)
    GPTCLI(
        GPTModule,
        TextDataModule,
        seed_everything_default=1337,
        parser_class=Parser,
        parser_kwargs={name: {"default_config_files": [str(DEFAULT_CONFIG)]} for name in SUBCOMMANDS},
        save_config_callback=callbacks.SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


class Parser(LightningArgumentParser):
    """The parser of LightningCLI, with errors of one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Print what is wrong and exit with 2, as argparse does."""
        usage_error(message, self._option_string_actions, self.prog.replace(" [options]", ""))


class GPTCLI(LightningCLI):
    """LightningCLI with this project's run directories, precision, resume and callbacks.

    Attributes:
        plan: What `cli.settings.settle` made of the configuration.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", default="default", help="Name of the directory of runs under runs_dir.")
        parser.add_argument("--runs_dir", default="runs", help="Where runs are kept.")
        parser.set_defaults({"model.gpt.vocab_size": 0})  # the tokenizer's, see cli.settings.vocabulary
        parser.add_lightning_class_args(callbacks.DepthScan, "depth_scan")
        parser.add_lightning_class_args(callbacks.AttentionHeatmaps, "attention_heatmaps")
        parser.add_lightning_class_args(callbacks.TextSamples, "text_samples")
        parser.add_lightning_class_args(callbacks.LastCheckpoint, "last_checkpoint")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in SUBCOMMANDS}

    def parse_arguments(self, *args: Any) -> None:
        """Parse as Lightning does; any failure is due to what the user gave."""
        try:
            super().parse_arguments(*args)
        except Exception as error:
            raise UserError(f"The configuration can't be understood ({type(error).__name__}: {error}).") from error

    def _set_seed(self) -> None:
        """Seed as Lightning does, with an error of one line."""
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"seed_everything: {error}.") from error

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: Lightning would let the checkpoint's hyper-parameters override it silently."""

    def before_instantiate_classes(self) -> None:
        """Settle what depends on several settings, and tell the user what may be unexpected."""
        self.plan = settle(self.config[self.subcommand], self.subcommand)
        for note in self.plan.notes:  # validate and test print their figures, and no more, on standard output
            say(note, sys.stdout if self.subcommand == "fit" else sys.stderr)
        if self.plan.on_gpu:
            torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it, for what autocast leaves in float32
        if self.subcommand != "fit":
            self.save_config_callback = None  # a look at a checkpoint makes no run of its own

    def instantiate_classes(self) -> None:
        """Instantiate with the settled settings. The configuration saved beside the run keeps the user's vocab_size, so
        that whoever starts another run from it can choose another tokenizer."""
        config = self.config[self.subcommand]
        given_vocabulary = config.model.gpt.vocab_size
        for key, value in self.plan.settings.items():
            config[key] = value
        super().instantiate_classes()
        config.model.gpt.vocab_size = given_vocabulary

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the directory of a new run; add its logger, unless the user chose one, and the callbacks of all runs."""
        config = self._get(self.config_init, "trainer")
        if self.makes_a_run() and self.plan.run_dir == runs.new_run(self.plan.run_dir.parent):
            self.plan = replace(self.plan, run_dir=runs.make_run(self.plan.run_dir.parent))
        run_dir = self.plan.run_dir
        all_callbacks = [callbacks.ExactResume(), *(config.callbacks or []), callbacks.GracefulStop()]
        all_callbacks += [callbacks.LostProcess(), callbacks.Throughput(), callbacks.HyperParameters()]
        all_callbacks.append(callbacks.BestCheckpoint())
        if config.max_time is not None:
            all_callbacks.append(callbacks.TimeLimit(config.max_time))
            kwargs["max_time"] = None
        if config.enable_progress_bar is not False:
            all_callbacks.append(callbacks.StepProgressBar())
        if config.logger is None or config.logger is True:
            kwargs["logger"] = self.subcommand == "fit" and TensorBoardLogger(
                save_dir=str(run_dir.parent.parent),
                name=run_dir.parent.name,
                version=run_dir.name,
                default_hp_metric=False,
                purge_step=self.plan.purge_step,
            )
        if config.default_root_dir is None:
            kwargs["default_root_dir"] = str(run_dir)
        plugins = config.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs, callbacks=all_callbacks, precision=self.plan.precision)
        except Exception as error:
            if self.makes_a_run():
                runs.remove_if_empty(run_dir)
            if isinstance(error, ValueError | TypeError | ImportError):  # Lightning's words for an impossible option
                raise UserError(f"trainer: {' '.join(str(error).split())}") from error
            raise

    def makes_a_run(self) -> bool:
        """Whether this process writes into a run's directory."""
        fast_dev_run = self.config[self.subcommand].trainer.fast_dev_run
        return self.subcommand == "fit" and not fast_dev_run and rank_zero_only.rank == 0

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Hand over the checkpoint; it loads as plain data only."""
        checkpoint = None if self.plan.checkpoint is None else str(self.plan.checkpoint)
        return super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": checkpoint, "weights_only": True}

    def before_fit(self) -> None:
        """Say what is about to run."""
        model, data, trainer = self.model.model, self.datamodule, self.trainer
        c = model.config
        say(
            f"{c.n_layer} layers × {c.n_head} heads × {c.d_model} wide, {model.parameter_count():,} parameters, "
            f"context {c.context_length}, positions {c.position}\n"
            f"corpus {data.hparams.corpus}, tokenizer {data.hparams.tokenizer}, batch {data.hparams.batch_size} × "
            f"{trainer.accumulate_grad_batches} accumulated\n"
            f"{type(trainer.accelerator).__name__} × {trainer.world_size}, precision {trainer.precision}\n"
            f"run {'none: nothing is written (fast_dev_run)' if trainer.fast_dev_run else self.plan.run_dir}"
            + ("" if self.plan.step is None else f", resumed at step {self.plan.step:,}"),
            sys.stdout,
        )

    def after_fit(self, stopped_by: str | None = None) -> None:
        """Say where everything lies, and show a sample."""
        if self.trainer.fast_dev_run:
            return
        samples = self._get(self.config_init, "text_samples")
        text = callbacks.sample(self.model.model, self.datamodule.encoding, samples.prompt, 200, samples.temperature)
        say(endings.summary(self.trainer, self.plan.run_dir, text, stopped_by), sys.stdout)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run as Lightning does, while no other process may train in the run's directory; say how it ended."""
        plan = self.plan
        lock = runs.lock(plan.run_dir) if self.makes_a_run() else None
        try:
            with endings.explained(self.trainer, subcommand, plan.run_dir, plan.checkpoint):
                self.datamodule.learnt = plan.tokenizer
                if plan.initial is not None:
                    self.begin_with(plan.initial)
                try:
                    super()._run_subcommand(subcommand)
                except callbacks.Stopped as stop:
                    if stop.signal is not None:
                        raise
                    self.after_fit(stop.by)  # no fault, but an end like any other
        finally:
            if lock is not None:
                lock.release()  # now, and not when Python's garbage is collected
            if self.makes_a_run():
                runs.remove_if_empty(plan.run_dir)

    def begin_with(self, initial: LoadedCheckpoint) -> None:
        """Put the weights of `initial` into the network.

        Raises:
            UserError: it was trained with another tokenizer.
        """
        self.datamodule.prepare_data()  # which may have to learn the tokenizer
        theirs, ours = initial.encoding, self.datamodule.encoding
        if not same_tokenizer(tokenizer_state(theirs), tokenizer_state(ours)):
            raise UserError(
                f"{self.model.hparams.init_from} was trained with tokenizer {theirs.name!r} of other tokens than "
                f"--data.tokenizer {self.datamodule.hparams.tokenizer}."
            )
        self.model.model.load_state_dict(initial.model.state_dict())


def quiet_about_files(details: threading.ExceptHookArgs) -> None:
    """Print no traceback when TensorBoard's thread can't write a file: the same error is raised where training runs."""
    if not issubclass(details.exc_type, OSError):
        threading.__excepthook__(details)
