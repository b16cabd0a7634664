"""Settings that depend on one another: the checkpoint to go on from, the run's directory, the sizes of the network,
the precision, the test split.

`settle` reads files, but it prints nothing, writes nothing and leaves the configuration that it is given alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tiktoken
from jsonargparse import Namespace

from callbacks.resuming.exact_resume import VALIDATION_DUE
from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.content import (
    DATA_KEY,
    check_same_network,
    check_training_state,
    read_checkpoint,
    saved_config,
    saved_tokenizer,
)
from gpt_lightning.checkpoints.load import LoadedCheckpoint
from gpt_lightning.checkpoints.torch_files import DamagedCheckpoint
from gpt_lightning.data.prepare import holds_tokens
from gpt_lightning.data.text.corpora import NAMED_CORPORA, full_path, may_share_text
from gpt_lightning.data.text.hf import PREFIX
from gpt_lightning.data.tokenizer import bpe_size, vocabulary_size
from gpt_lightning.errors import UserError
from gpt_lightning.files import is_name
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.model import VOCABULARY_MULTIPLE, GPTConfig, padded_vocabulary
from gpt_lightning.ranges import PositiveFloat, PositiveInt, number_type
from gpt_lightning.training.precision import choose_precision, uses_gpu

# Ranges of Lightning's options, which its own annotations lack. A number outside would end in a division by zero, or be
# ignored without a word.
TRAINER_RANGES = {
    "accumulate_grad_batches": PositiveInt,
    "log_every_n_steps": PositiveInt,
    "check_val_every_n_epoch": PositiveInt,
    "val_check_interval": PositiveFloat,
    "gradient_clip_val": number_type("ClipValue", float, "at least 0 (never clip)", (">=", 0)),
    "num_sanity_val_steps": number_type("SanitySteps", int, "at least -1 (all)", (">=", -1)),
}


@dataclass(frozen=True)
class Plan:
    """What a call of train.py is going to do."""

    settings: Mapping[str, Any]  # what to set in the configuration, by dotted key
    run_dir: Path  # the run to go on in, else the next one, which does not exist yet
    checkpoint: Path | None  # to go on from, to validate or to test
    step: int | None  # optimiser steps taken in `checkpoint`
    purge_step: int | None  # TensorBoard drops what was logged from here on, since it will be logged again
    initial: LoadedCheckpoint | None  # what a new run begins with
    tokenizer: tiktoken.Encoding | None  # what bpe:<vocabulary size> means; None: it is learnt from the corpus
    on_gpu: bool
    precision: str  # for Lightning
    notes: tuple[str, ...]  # lines for the user


def settle(config: Namespace, subcommand: str) -> Plan:
    """Settle what a run does.

    Args:
        config: The configuration of the subcommand, with Lightning's options and ours.
        subcommand: fit, validate or test.

    Raises:
        UserError: settings contradict each other, or a checkpoint or tokenizer can't be used.
    """
    experiment_dir = experiment_directory(config)
    run_dir = runs.new_run(experiment_dir)
    checkpoint, content, checkpoint_note = find_checkpoint(config.ckpt_path, experiment_dir)
    start = None if content is None else saved_config(content)
    vocab_size = vocabulary(config, start)
    initial = tokenizer = step = purge_step = test_note = None
    if content is None and config.model.init_from is not None:  # of a run that goes on, init_from may be gone by now
        initial = load_checkpoint(config.model.init_from, config.data.tokenizer)
        tokenizer, start = initial.encoding, initial.model.config
    gpt = network(config, vocab_size, start)

    if content is not None:
        if bpe_size(config.data.tokenizer) is not None:  # it was learnt from that run's corpus
            tokenizer = saved_tokenizer(content, checkpoint)
        check_same_network(content, gpt, checkpoint)
        if subcommand == "fit":
            check_training_state(content, checkpoint)
        if subcommand == "test":
            test_note = note_on_other_text(config.data, trained_on(content))
        # A finished validation inside an accumulation window was logged at the step to come, and is not logged again.
        validated = "unstepped_gradients" in content and not content.get(VALIDATION_DUE)
        step, purge_step = content["global_step"], content["global_step"] + validated
        run_dir = runs.run_of(checkpoint) or run_dir
    elif subcommand != "fit" and initial is None:
        raise UserError(f"{subcommand} needs a checkpoint: --ckpt_path last, best or a file.")

    length = config.data.context_length or gpt.context_length
    if length > gpt.context_length:
        raise UserError(
            f"data.context_length ({length}) is longer than the network's context "
            f"(model.gpt.context_length {gpt.context_length})."
        )
    check_trainer(config.trainer)
    on_gpu = uses_gpu(config.trainer.accelerator)
    precision, precision_note = choose_precision(config.trainer.precision, on_gpu, gpt.d_model)
    # The checkpoint and the precision stay out of the configuration, which is saved beside the run: whoever starts
    # another run from that wants neither this run's checkpoint nor its hardware.
    settings = {"ckpt_path": None, "data.context_length": length}
    settings |= {f"model.gpt.{name}": value for name, value in asdict(gpt).items()}
    if test_note is not None:
        settings["data.percents"] = [0, 0, 100]
    notes = tuple(filter(None, (checkpoint_note, precision_note, test_note)))
    return Plan(settings, run_dir, checkpoint, step, purge_step, initial, tokenizer, on_gpu, precision, notes)


def experiment_directory(config: Namespace) -> Path:
    """Where the runs of the experiment lie; UserError if that can't be a directory under runs_dir."""
    directory = Path(config.runs_dir) / config.experiment
    if not is_name(str(directory)):
        raise UserError("runs_dir and experiment must be UTF-8, without NUL.")
    if ".." in Path(config.experiment).parts or Path(config.experiment).is_absolute():
        raise UserError(f"experiment is {config.experiment!r} but must be the name of a directory under runs_dir.")
    return directory


def find_checkpoint(given: str | None, experiment_dir: Path) -> tuple[Path | None, dict[str, Any] | None, str | None]:
    """The checkpoint that `--ckpt_path` names, its content, and a line for the user if it is not quite that one."""
    if given is None:
        return None, None, None
    if given == "last":
        return newest_undamaged(runs.last_run(experiment_dir))
    path = runs.last_run(experiment_dir) / runs.BEST if given == "best" else Path(given)
    return path, read_checkpoint(path), None


def newest_undamaged(run: Path) -> tuple[Path, dict[str, Any], str | None]:
    """The last checkpoint of a run, or the one before it if that is damaged, as a line then says.

    Raises:
        UserError: neither can be used.
    """
    last, previous = run / runs.LAST, run / runs.PREVIOUS
    if last.exists() and not last.is_file():
        raise UserError(f"{last} is not a file, so nothing could be saved there: move it away.")
    try:
        return last, read_checkpoint(last), None
    except UserError as error:
        if not previous.is_file() or (last.is_file() and not isinstance(error, DamagedCheckpoint)):
            raise
        content = read_checkpoint(previous)
        note = f"{last} is damaged or missing: going on from {previous}, step {content['global_step']:,}."
        return previous, content, note


def vocabulary(config: Namespace, saved: GPTConfig | None) -> int:
    """How many ids the network has: what the user says, else the tokenizer's number rounded up; but a checkpoint keeps
    the number that it was `saved` with, if that lies between these two.

    Raises:
        UserError: there is no such tokenizer, or it has more ids than the user asks for.
    """
    given, n_ids = config.model.gpt.vocab_size, vocabulary_size(config.data.tokenizer)
    if given == 0:
        padded = padded_vocabulary(n_ids)
        return saved.vocab_size if saved is not None and n_ids <= saved.vocab_size <= padded else padded
    if given < n_ids:
        raise UserError(
            f"model.gpt.vocab_size is {given:,}, but tokenizer {config.data.tokenizer!r} has {n_ids:,} ids: "
            "give at least as many, or leave it out."
        )
    return given


def network(config: Namespace, vocab_size: int, start: GPTConfig | None) -> GPTConfig:
    """The network as the options say; with `model.init_from` it is `start`, where training begins, but for dropout.

    Raises:
        UserError: there is no such network, or `start` has other ids than the tokenizer.
    """
    options = vars(config.model.gpt) | {"vocab_size": vocab_size}
    if config.model.init_from is not None:
        n_ids = vocabulary_size(config.data.tokenizer)
        # Others may have rounded up to another multiple, and the user may want any number.
        if not n_ids <= start.vocab_size < max(n_ids + VOCABULARY_MULTIPLE, vocab_size + 1):
            raise UserError(
                f"{config.model.init_from} has {start.vocab_size:,} token ids, but tokenizer "
                f"{config.data.tokenizer!r} has {n_ids:,}: give the one it was trained with as --data.tokenizer."
            )
        options = asdict(start) | {"dropout": options["dropout"]}
    try:
        return GPTConfig(**options)
    except ValueError as error:
        raise UserError(f"model.gpt: {error}.") from error


def trained_on(checkpoint: dict[str, Any]) -> str | None:
    """The `full_path` of the corpus; None if nothing says. Older checkpoints hold only what the user called it."""
    text, options = checkpoint[DATA_KEY].get("text"), checkpoint.get("datamodule_hyper_parameters")
    if isinstance(text, dict) and isinstance(text.get("source"), str):
        return text["source"]
    named = [options.get(name) for name in ("corpus", "data_dir")] if isinstance(options, dict) else []
    if named and all(isinstance(name, str) and is_name(name) for name in named):
        return full_path(named[0], Path(named[1]))
    return None


def note_on_other_text(data: Namespace, trained: str | None) -> str | None:
    """A line for the user if `test` takes all of a text; None if it takes the text's own test split.

    It takes all of a text other than the one that the checkpoint was `trained` on, unless the user says which part.
    """
    if data.percents is not None or data.corpus in NAMED_CORPORA or trained is None:
        return None
    if not data.corpus or not is_name(data.corpus) or data.corpus.startswith(PREFIX) or holds_tokens(data.corpus):
        return None  # what has splits of its own keeps them
    tested = full_path(data.corpus, Path(data.data_dir))
    if tested == trained:
        return None
    seen = "which the checkpoint was not trained on."
    if may_share_text(tested, trained):
        seen = f"some of which the checkpoint may have been trained on: its text was {trained!r}."
    return f"Tests on all of {data.corpus}, {seen}"


def check_trainer(trainer: Namespace) -> None:
    """Raise UserError for a number that is out of range; val_check_interval may also be a time, which is no number."""
    for name, kind in TRAINER_RANGES.items():
        if isinstance(trainer[name], int | float):
            try:
                kind(trainer[name])
            except ValueError as error:
                raise UserError(f"trainer.{name}: {error}.") from error
