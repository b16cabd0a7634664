"""Train, validate and test through LightningCLI.

    python train.py                                              train the default configuration
    python train.py fit --config configs/shakespeare.yaml        another one, layered over the default
    python train.py fit --config … --ckpt_path last              go on where the newest run of that experiment stopped
    python train.py validate --config … --ckpt_path best         figures of a checkpoint
    python train.py test --ckpt_path … --data.corpus other.txt   … on all of a text that it was not trained on
    python train.py audit --checkpoint …/last.ckpt               proves that stopping and resuming changes nothing

`python train.py fit --help` lists every option; `--print_config` shows the whole configuration.
"""

import errno
import logging
import shlex
import signal
import sys
import threading
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

import callbacks
from callbacks.exact_resume import VALIDATION_DUE
from callbacks.lost_process import end_with_launcher, lost_a_process
from gpt_lightning import audit, precision, runs
from gpt_lightning.checkpoint import (
    LoadedCheckpoint,
    check_same_network,
    check_training_state,
    load_checkpoint,
    read_checkpoint,
    saved_config,
    saved_tokenizer,
    trained_on,
)
from gpt_lightning.checkpoint_io import AtomicCheckpointIO
from gpt_lightning.cli_errors import clear_errors, usage_error
from gpt_lightning.data.corpora import NAMED_CORPORA, full_path, may_share_text
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.data.hf import PREFIX
from gpt_lightning.data.prepare import holds_tokens
from gpt_lightning.data.tokenizer import bpe_size, same_tokenizer, tokenizer_state, vocabulary_size
from gpt_lightning.errors import UserError
from gpt_lightning.files import is_name
from gpt_lightning.interpret.alarms import what_is_wrong
from gpt_lightning.model import VOCABULARY_MULTIPLE, GPTConfig, padded_vocabulary
from gpt_lightning.module import GPTModule
from gpt_lightning.torch_files import DamagedCheckpoint

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "default.yaml"
SUBCOMMANDS = ("fit", "validate", "test")
DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class Parser(LightningArgumentParser):
    """The parser of LightningCLI, with errors of one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Print what is wrong and exit with 2, as argparse does."""
        usage_error(message, self._option_string_actions, self.prog.replace(" [options]", ""))


class GPTCLI(LightningCLI):
    """LightningCLI with this project's run directories, precision, resume and callbacks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", default="default", help="Name of the directory of runs under runs_dir.")
        parser.add_argument("--runs_dir", default="runs", help="Where runs are kept.")
        parser.set_defaults({"model.gpt.vocab_size": 0})  # see `fill_vocabulary`
        parser.add_lightning_class_args(callbacks.DepthScan, "depth_scan")
        parser.add_lightning_class_args(callbacks.AttentionHeatmaps, "attention_heatmaps")
        parser.add_lightning_class_args(callbacks.TextSamples, "text_samples")
        parser.add_lightning_class_args(callbacks.LastCheckpoint, "last_checkpoint")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in SUBCOMMANDS}

    def parse_arguments(self, *args: Any) -> None:
        """As Lightning's; what it fails on, it is given by the user."""
        try:
            super().parse_arguments(*args)
        except Exception as error:
            raise UserError(f"The configuration can't be understood ({type(error).__name__}: {error}).") from error

    def _set_seed(self) -> None:
        """As Lightning's, with an error of one line."""
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"seed_everything: {error}.") from error

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: Lightning would let the checkpoint's hyper-parameters override it silently."""

    def before_instantiate_classes(self) -> None:
        """Settle what depends on several settings: the checkpoint, the run directory, the precision, the context."""
        config = self.config[self.subcommand]
        experiment_dir = Path(config.runs_dir) / config.experiment
        if not is_name(str(experiment_dir)):
            raise UserError("runs_dir and experiment must be UTF-8, without NUL.")
        if ".." in Path(config.experiment).parts or Path(config.experiment).is_absolute():
            raise UserError(f"experiment is {config.experiment!r} but must be the name of a directory under runs_dir.")
        # The checkpoint and the precision stay out of the configuration, which is saved beside the run: who takes that
        # as theirs wants neither the resume nor the hardware of this run.
        self.run_dir, self.checkpoint, self.lock = runs.new_run(experiment_dir), None, None
        self.resume_step, self.purge_step, self.stopped_by, self.initial = None, None, None, None
        self.tokenizer = None
        content = None if config.ckpt_path is None else self.find_checkpoint(config, experiment_dir)
        self.given_vocabulary = config.model.gpt.vocab_size
        fill_vocabulary(config, None if content is None else saved_config(content).vocab_size)
        if config.model.init_from is not None and content is not None:
            take_sizes(config, saved_config(content))  # what the run began with may be gone by now
        elif config.model.init_from is not None:
            self.initial = load_checkpoint(config.model.init_from, config.data.tokenizer)
            self.tokenizer = self.initial.encoding
            take_sizes(config, self.initial.model.config)
        try:
            gpt = GPTConfig(**vars(config.model.gpt))
        except ValueError as error:
            raise UserError(f"model.gpt: {error}.") from error
        if content is not None:
            if bpe_size(config.data.tokenizer) is not None:  # it was learnt from that run's corpus
                self.tokenizer = saved_tokenizer(content, self.checkpoint)
            self.resume_from(content, gpt)
        elif self.subcommand != "fit" and self.initial is None:
            raise UserError(f"{self.subcommand} needs a checkpoint: --ckpt_path last, best or a file.")
        if self.subcommand == "test" and content is not None:
            test_on_all(config.data, trained_on(content))
        if config.data.context_length is None:
            config.data.context_length = gpt.context_length
        if config.data.context_length > gpt.context_length:
            raise UserError(
                f"data.context_length ({config.data.context_length}) is longer than the network's context "
                f"(model.gpt.context_length {gpt.context_length})."
            )
        check_numbers(config.trainer)
        on_gpu = precision.uses_gpu(config.trainer.accelerator)
        if on_gpu:
            torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it, for what autocast leaves in float32
        self.precision, line = precision.choose_precision(config.trainer.precision, on_gpu, gpt.d_model)
        if line:
            say(line)
        if self.subcommand != "fit":
            self.save_config_callback = None  # a look at a checkpoint makes no run of its own

    def instantiate_classes(self) -> None:
        """As Lightning's; the configuration that is saved beside the run still lets another tokenizer say how many
        ids there are, unless the user did."""
        super().instantiate_classes()
        self.config[self.subcommand].model.gpt.vocab_size = self.given_vocabulary

    def find_checkpoint(self, config: Namespace, experiment_dir: Path) -> dict[str, Any]:
        """Find the checkpoint that `--ckpt_path` names; return its content."""
        path, config.ckpt_path = config.ckpt_path, None
        if path == "last":
            self.checkpoint, content = newest_undamaged(runs.last_run(experiment_dir))
        else:
            self.checkpoint = runs.last_run(experiment_dir) / runs.BEST if path == "best" else Path(path)
            content = read_checkpoint(self.checkpoint)
        return content

    def resume_from(self, content: dict[str, Any], gpt: GPTConfig) -> None:
        """Check what the checkpoint holds, and go on in its run's directory."""
        check_same_network(content, gpt, self.checkpoint)
        if self.subcommand == "fit":
            check_training_state(content, self.checkpoint)
        # What was logged from here on is to be made again. A validation inside an accumulation window, which is done,
        # stands where the next step will.
        validated = "unstepped_gradients" in content and not content.get(VALIDATION_DUE)
        self.resume_step, self.purge_step = content["global_step"], content["global_step"] + validated
        self.run_dir = runs.run_of(self.checkpoint) or self.run_dir

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Hand over the checkpoint that was found; it loads as plain data only."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": checkpoint, "weights_only": True}

    def instantiate_trainer(self, **kwargs):
        """Add the logger of this run, unless the user chose one, and the callbacks that every run has."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand == "fit" and not config.fast_dev_run and rank_zero_only.rank == 0:
            if self.run_dir == runs.new_run(self.run_dir.parent):  # not a run to go on with
                self.run_dir = runs.make_run(self.run_dir.parent)
            self.lock = runs.lock(self.run_dir)
        extra = [callbacks.GracefulStop(), callbacks.LostProcess(), callbacks.Throughput(), callbacks.HyperParameters()]
        extra.append(callbacks.BestCheckpoint())
        if config.max_time is not None:
            extra.append(callbacks.TimeLimit(config.max_time))
            kwargs["max_time"] = None
        if config.enable_progress_bar is not False:
            extra.append(callbacks.StepProgressBar())
        if config.logger is None or config.logger is True:
            kwargs["logger"] = self.tensorboard_logger() if self.subcommand == "fit" else False
        if config.default_root_dir is None:
            kwargs["default_root_dir"] = str(self.run_dir)
        kwargs["callbacks"] = [callbacks.ExactResume(), *(config.callbacks or []), *extra]
        plugins = config.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        kwargs["precision"] = self.precision
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:  # Lightning's words for an option that can't be
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error

    def tensorboard_logger(self) -> TensorBoardLogger:
        """Log into the run's directory; after a resume TensorBoard drops what was logged past the checkpoint."""
        return TensorBoardLogger(
            save_dir=str(self.run_dir.parent.parent),
            name=self.run_dir.parent.name,
            version=self.run_dir.name,
            default_hp_metric=False,
            purge_step=self.purge_step,
        )

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
            f"run {'none: nothing is written (fast_dev_run)' if trainer.fast_dev_run else self.run_dir}"
            + ("" if self.resume_step is None else f", resumed at step {self.resume_step:,}")
        )

    def after_fit(self) -> None:
        """Say where everything lies, and show what the network writes."""
        if self.trainer.fast_dev_run:
            return
        samples = self._get(self.config_init, "text_samples")
        text = callbacks.sample(self.model.model, self.datamodule.encoding, samples.prompt, 200, samples.temperature)
        scan = next(callback for callback in self.trainer.callbacks if isinstance(callback, callbacks.DepthScan))
        if scan.stopped_by is not None:
            self.stopped_by = "an alarm of the depth scan"
        reason = f" by {self.stopped_by}" if self.stopped_by else ""
        say(
            f"\nA sample:\n{text.strip()}\n\n"
            + ("" if scan.result is None else f"Depth scan: {what_is_wrong(scan.result.step, scan.result.alarms)}\n")
            + f"Stopped{reason} after {self.trainer.global_step:,} optimiser steps.\n"
            f"The run lies in   {self.run_dir}\n"
            f"Look at it with   tensorboard --logdir {self.run_dir.parent.parent}\n"
            f"Analyse it with   python analyze.py --checkpoint {self.run_dir / runs.LAST}\n"
            f"Go on with        {self.resume_command()}"
        )

    def _run_subcommand(self, subcommand: str) -> None:
        """However a run ends, say how to go on; after a signal, end with the customary status."""
        try:
            self.datamodule.learnt = self.tokenizer
            if self.initial is not None:
                self.begin_with(self.initial)
            super()._run_subcommand(subcommand)
        except (callbacks.Stopped, SIGTERMException) as stop:
            if isinstance(stop, callbacks.Stopped) and stop.signal is None:  # no fault, but an end like any other
                self.stopped_by = stop.by
                self.after_fit()
                return
            say(f"{str(stop) or 'Stopped by SIGTERM'} after {self.how_to_go_on()}")
            # Lightning kills rank zero when another ends with anything but 0.
            number = stop.signal if isinstance(stop, callbacks.Stopped) else signal.SIGTERM
            raise SystemExit(128 + number if rank_zero_only.rank == 0 else 0) from None
        except SystemExit:  # what Lightning makes of a second Ctrl-C
            if self.trainer.state.status == TrainerStatus.INTERRUPTED:
                say(f"Interrupted after {self.how_to_go_on()}")
                raise SystemExit(128 + signal.SIGINT) from None
            raise
        except Exception as error:
            if subcommand == "fit" and self.trainer.global_step:
                say(f"Ended by an error after {self.how_to_go_on()}")
            if self.trainer._checkpoint_connector._loaded_checkpoint and not isinstance(error, UserError):
                problem = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"{self.checkpoint} can't be gone on from: not all in it is as train.py wrote it ({problem})."
                ) from error
            if lost_a_process(error):  # callbacks.LostProcess has said so
                raise SystemExit(1) from None
            if isinstance(error, OSError) and error.errno in DISK_FULL and error.filename is None:  # TensorBoard's
                raise UserError(f"{self.run_dir} could not be written ({error.strerror}): make room for it.") from error
            raise
        finally:
            if self.lock is not None:
                self.lock.release()  # now, and not when Python's garbage is collected
            runs.remove_if_empty(self.run_dir)

    def begin_with(self, initial: LoadedCheckpoint) -> None:
        """Put its weights into the network.

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

    def how_to_go_on(self) -> str:
        """How many steps were made, how many are kept, and the command to resume."""
        made, checkpoints = self.trainer.global_step, (self.run_dir / runs.LAST, self.run_dir / runs.PREVIOUS)
        last = next((path for path in checkpoints if path.is_file()), None)
        if last is None:
            return f"{made:,} optimiser steps, of which none was saved."
        kept = read_checkpoint(last)["global_step"]
        saved = "all saved" if kept == made else f"of which {kept:,} are saved"
        return f"{made:,} optimiser steps, {saved}. Go on with  {self.resume_command()}"

    def resume_command(self) -> str:
        """This call again, going on from the last checkpoint, and for twice as long if it came to its end."""
        given = [argument for argument in sys.argv[1:] if not argument.startswith("--ckpt_path=")]
        if "--ckpt_path" in given:
            at = given.index("--ckpt_path")
            del given[at : at + 2]
        done = 0 < self.trainer.max_steps <= self.trainer.global_step
        longer = ["--trainer.max_steps", str(2 * self.trainer.max_steps)] if done else []
        epochs = self.trainer.max_epochs or -1
        if 0 < epochs <= self.trainer.current_epoch:
            longer += ["--trainer.max_epochs", str(2 * epochs)]
        return shlex.join(["python", "train.py", *given, "--ckpt_path", "last", *longer])


def check_numbers(trainer: Namespace) -> None:
    """Raise UserError for what Lightning would divide by, or count to, or silently leave out."""
    for name in ("accumulate_grad_batches", "log_every_n_steps", "check_val_every_n_epoch"):
        if trainer[name] is not None and not 1 <= trainer[name] < 2**53:
            raise UserError(f"trainer.{name} is {trainer[name]} but must be at least 1.")
    if isinstance(trainer.val_check_interval, int | float) and not trainer.val_check_interval > 0:
        raise UserError(f"trainer.val_check_interval is {trainer.val_check_interval} but must be above 0.")
    if trainer.gradient_clip_val is not None and not trainer.gradient_clip_val >= 0:
        raise UserError(f"trainer.gradient_clip_val is {trainer.gradient_clip_val} but must be 0 (never) or more.")
    if (trainer.num_sanity_val_steps or 0) < -1:
        raise UserError(
            f"trainer.num_sanity_val_steps is {trainer.num_sanity_val_steps} but must be at least -1 (all)."
        )


def newest_undamaged(run: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run, or the one before it if that is damaged, and its content.

    Raises:
        UserError: neither can be used.
    """
    last, previous = run / runs.LAST, run / runs.PREVIOUS
    if last.exists() and not last.is_file():
        raise UserError(f"{last} is no file, so that nothing could be saved there: move it away.")
    try:
        return last, read_checkpoint(last)
    except UserError as error:
        if not previous.is_file() or (last.is_file() and not isinstance(error, DamagedCheckpoint)):
            raise
        content = read_checkpoint(previous)
        say(f"{last} is damaged or missing: going on from {previous}, step {content['global_step']:,}.")
        return previous, content


def fill_vocabulary(config: Namespace, saved: int | None) -> None:
    """Set how many ids the network has, unless the user did: as many as were saved, if that is between the tokenizer's
    and these rounded up; else the latter.

    Raises:
        UserError: no such tokenizer, or it has more ids than the user asks for.
    """
    gpt, n_ids = config.model.gpt, vocabulary_size(config.data.tokenizer)
    padded = padded_vocabulary(n_ids)
    if gpt.vocab_size == 0:
        gpt.vocab_size = saved if saved is not None and n_ids <= saved <= padded else padded
    elif gpt.vocab_size < n_ids:
        raise UserError(
            f"model.gpt.vocab_size is {gpt.vocab_size:,}, but tokenizer {config.data.tokenizer!r} has {n_ids:,} ids: "
            "give at least as many, or leave it out."
        )


def take_sizes(config: Namespace, initial: GPTConfig) -> None:
    """Let the network be as the one it begins with, but for dropout.

    Raises:
        UserError: the tokenizer has more ids than it.
    """
    n_ids = vocabulary_size(config.data.tokenizer)
    # Others may have rounded up to another multiple, and the user may want any number.
    if not n_ids <= initial.vocab_size < max(n_ids + VOCABULARY_MULTIPLE, config.model.gpt.vocab_size + 1):
        raise UserError(
            f"{config.model.init_from} has {initial.vocab_size:,} token ids, but tokenizer {config.data.tokenizer!r} "
            f"has {n_ids:,}: give the one it was trained with as --data.tokenizer."
        )
    for name, value in asdict(initial).items():
        if name != "dropout":
            config.model.gpt[name] = value


def test_on_all(data: Namespace, trained: str | None) -> None:
    """Let all of a text be the test split, unless the user says which part, or a checkpoint was trained on it.

    Args:
        data: The options of the datamodule.
        trained: What the checkpoint was trained on; None if nothing says.
    """
    if data.percents is not None or data.corpus in NAMED_CORPORA or trained is None:
        return
    if not data.corpus or not is_name(data.corpus) or data.corpus.startswith(PREFIX) or holds_tokens(data.corpus):
        return  # what has splits of its own keeps them
    if (tested := full_path(data.corpus, Path(data.data_dir))) == trained:
        return
    data.percents = [0, 0, 100]
    if may_share_text(tested, trained):
        seen = f"some of which the checkpoint may have been trained on: its text was {trained!r}."
    else:
        seen = "which the checkpoint was not trained on."
    say(f"Tests on all of {data.corpus}, {seen}", sys.stderr)


@rank_zero_only
def say(text: str, file: TextIO | None = None) -> None:
    """Print once, whatever the number of ranks."""
    print(text, file=file, flush=True)


def quiet_about_files(details: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread prints a traceback when a file can't be written, and raises the same where training runs."""
    if not issubclass(details.exc_type, OSError):
        threading.__excepthook__(details)


def main() -> None:
    """Run the CLI; without a subcommand, fit."""
    threading.excepthook = quiet_about_files
    end_with_launcher()
    if sys.argv[1:2] == ["audit"]:
        raise SystemExit(audit.main(sys.argv[2:]))
    if len(sys.argv) == 1 or (sys.argv[1].startswith("-") and sys.argv[1] not in ("-h", "--help")):
        sys.argv.insert(1, "fit")
    # Lightning's own notices (which devices exist, tips) say less than `before_fit`; warnings and errors stay.
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # But for one: that it kills this process because another has died. Nobody else could say so.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")  # Lightning's own call, not the user's
    # When fp16 overflows at the very first step, the scaler skips it, as it should.
    warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)` before")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* is not empty")  # as it is meant to be on resume
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


if __name__ == "__main__":
    with clear_errors(MisconfigurationException):
        main()
