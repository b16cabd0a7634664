"""The LightningDataModule. The work is done by corpora, tokenizer, token files and loaders, which it puts together."""

from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from gpt_lightning.data.batches.loader import BlockLoader, EvaluationLoader
from gpt_lightning.data.prepare import Prepared, prepare, problem_of_percents
from gpt_lightning.data.text import formats
from gpt_lightning.data.text.corpora import full_path
from gpt_lightning.data.tokenizer import same_tokenizer, token_byte_lengths, tokenizer_state
from gpt_lightning.data.tokens.token_sequence import Tokens
from gpt_lightning.errors import UserError
from gpt_lightning.files import is_name
from gpt_lightning.ranges import PositiveInt, Seed, check_arguments

STORED_SEQUENCES = 8  # validation sequences kept in a checkpoint, to look at without the data


class TextDataModule(LightningDataModule):
    __doc__ = f"""Text as batches `(inputs, targets)` of int64 (B, T), targets being inputs shifted by one.

    `setup` provides `encoding` (tiktoken.Encoding), `tokens` (arrays by the names train, val and test) and
    `token_byte_lengths` ((vocabulary,) int64, the bytes of text in each token id). If `learnt` is set before, to the
    tokenizer of a checkpoint, bpe:<vocabulary size> means that one, whatever the corpus.

    Args:
        corpus: Text to train on: pydoc (Python's own documentation, no download), shakespeare, enwik8; hf:owner/name or
            hf:owner/name:configuration, which Hugging Face's datasets streams; token files: a directory that
            `python -m gpt_lightning.data.prepare` made, or the .bin files of nanoGPT and llm.c; or a file, glob or
            directory of {formats.in_words()}. 90 % of the bytes are for
            training, 5 % for validation and 5 % for the test; of shakespeare 10 % are both validation and test.
        tokenizer: bytes (256 raw bytes), gpt2, cl100k_base, o200k_base, bpe:<vocabulary size>, which is learnt from the
            training text, or a file of tiktoken ranks. All but bytes put <|endoftext|> between documents.
        batch_size: Sequences in a batch of one process.
        context_length: Tokens in a sequence. Left out, that of the model.
        data_dir: Directory for downloads and token files.
        seed: Seed of the order in which the training text is seen.
        test_stride: Tokens from one window of the test to the next: with context_length − n, each token is predicted
            from at least n tokens before it, at context_length / test_stride times the cost. Left out, windows do not
            overlap.
        text_key: The name of the text in a record, for files and datasets that have records.
        max_bytes: Read only so much of the text.
        percents: Shares of the bytes for training, validation and test, such as [80, 10, 10]. Left out, those of the
            corpus; but `train.py test` tests on all of a text that the checkpoint was not trained on.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        corpus: str = "pydoc",
        tokenizer: str = "bytes",
        batch_size: PositiveInt = 16,
        context_length: PositiveInt | None = None,
        data_dir: str = "data",
        seed: Seed = 1337,
        test_stride: PositiveInt | None = None,
        text_key: str = "text",
        max_bytes: PositiveInt | None = None,
        percents: list[int] | None = None,
    ) -> None:
        arguments = locals()
        super().__init__()
        texts = {name: arguments[name] for name in ("corpus", "tokenizer", "data_dir", "text_key")}
        problems = [f"data.{name} is empty" for name, value in texts.items() if not value]
        problems += [
            f"data.{name} {value!r} is no name in UTF-8: rename it or name the directory it lies in"
            for name, value in texts.items()
            if not is_name(value)
        ]
        if percents is not None and (problem := problem_of_percents(percents)):
            problems.append(problem)
        check_arguments(TextDataModule.__init__, arguments, "data", problems)
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.context_length = context_length  # None until train.py sets it, before the data is prepared
        self.tokens: dict[str, Tokens] = {}
        self._text: dict[str, Any] = {}
        self._prepared: Prepared | None = None
        self.learnt: tiktoken.Encoding | None = None

    def prepare_data(self) -> None:
        """Downloads and tokenises once. Of several processes one does it and the others wait.

        Raises:
            UserError: the corpus, the tokenizer or `data_dir` cannot be used, or `context_length` is not set.
        """
        self._prepare()

    def setup(self, stage: str | None = None) -> None:
        """Maps the token files into memory and, unless the stage is validate or test, checks that training is possible.

        Raises:
            UserError: as in `prepare_data`, or token files are damaged, there is no validation text, or the training
                text is too short for one sequence.
        """
        if not self.tokens:
            prepared = self._prepare()
            self.token_byte_lengths = token_byte_lengths(self.encoding)
            self._text = prepared.identity | {"source": full_path(self.hparams.corpus, Path(self.hparams.data_dir))}
            self.tokens = prepared.tokens
        if stage not in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            self._split("val")
            if len(tokens := self._split("train")) <= self.context_length:
                raise UserError(
                    f"The train split of corpus {self.hparams.corpus} has {len(tokens)} tokens, too few for "
                    f"sequences of {self.context_length}: set a smaller context_length."
                )

    def train_dataloader(self) -> BlockLoader:
        """Shuffled batches; a checkpoint stores the position among them.

        Raises:
            UserError: the training text does not fill one batch of all processes.
        """
        rank, world_size = self._rank()
        loader = BlockLoader(
            self.tokens["train"],
            self.context_length,
            self.batch_size,
            self.hparams.seed,
            rank,
            world_size,
            limit=self.trainer.limit_train_batches if self.trainer else 1.0,
            same_order=bool(self.trainer and self.trainer.overfit_batches),
            progress=self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer else None,
        )
        if len(loader) == 0:
            raise UserError(
                f"The train split of corpus {self.hparams.corpus} ({loader.n_tokens} tokens) is too small for a batch "
                f"of {self.batch_size} × {world_size} sequences of {self.context_length}: set a smaller batch_size or "
                "context_length."
            )
        return loader

    def val_dataloader(self) -> EvaluationLoader:
        """All of the validation split, in order.

        Raises:
            UserError: it is empty.
        """
        return EvaluationLoader(self._split("val"), self.context_length, self.batch_size, *self._rank())

    def test_dataloader(self) -> EvaluationLoader:
        """All of the test split, in order.

        Raises:
            UserError: windows would leave tokens out, or the split is empty.
        """
        stride = self.hparams.test_stride
        if stride is not None and stride > self.context_length:
            raise UserError(
                f"data.test_stride is {stride} but must be at most the context_length, {self.context_length}."
            )
        tokens = self._split("test")
        return EvaluationLoader(tokens, self.context_length, self.batch_size, *self._rank(), stride)

    def validation_sequences(self, n: int) -> torch.Tensor:
        """Fixed sequences spread evenly over the validation split, the same on every rank.

        Returns:
            (n', T) int64 with n' ≤ n, since they don't overlap; of a split shorter than T, all of it as one sequence.
        """
        tokens = self.tokens["val"]
        if len(tokens) == 0:
            return torch.empty((0, self.context_length), dtype=torch.int64)
        length = min(self.context_length, len(tokens))
        starts = np.linspace(0, len(tokens) - length, min(n, len(tokens) // length), dtype=np.int64)
        return torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]).astype(np.int64))

    def state_dict(self) -> dict[str, Any]:
        """What allows a checkpoint to be examined without the data: tokenizer and some validation sequences (int32).

        Also the identity of the training text, so that resuming on another text is noticed.
        """
        if not self.tokens:  # a checkpoint made because setup failed
            return {}
        return {
            "tokenizer": tokenizer_state(self.encoding),
            "validation_sequences": self.validation_sequences(STORED_SEQUENCES).int(),
            "text": self._text,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that the checkpoint's token ids mean the same here; warns if training continues with another text.

        Raises:
            UserError: the checkpoint was trained with another tokenizer.
        """
        theirs, ours = state_dict["tokenizer"], tokenizer_state(self.encoding)
        if not same_tokenizer(theirs, ours):
            raise UserError(
                f"The checkpoint was trained with tokenizer {theirs['name']!r} of other tokens than {ours['name']!r} "
                f"(--data.tokenizer {self.hparams.tokenizer}): use the one it was trained with."
            )
        then, now = state_dict.get("text"), self._text  # None in checkpoints from before this was stored
        fitting = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if fitting and then and (then["tokens"], then["crc32"]) != (now["tokens"], now["crc32"]):
            that, this = (
                f"corpus {text['corpus']} with {text['tokens']:,} tokens (checksum {text['crc32']:08x})"
                for text in (then, now)
            )
            rank_zero_warn(
                f"The training text is not the one that the checkpoint was trained on: that was {that}, this is {this}."
                " Training goes on at its position in the new text."
            )

    def _prepare(self) -> Prepared:
        if self.context_length is None:
            raise UserError("data.context_length is not set: set it, or take it from the model as train.py does.")
        if self._prepared is None:
            h = self.hparams
            self._prepared = prepare(
                h.corpus, h.tokenizer, h.data_dir, h.text_key, h.max_bytes, h.percents, self.learnt
            )
            self.encoding = self._prepared.encoding
        return self._prepared

    def _split(self, name: str) -> Tokens:
        """The tokens of a split. Raises UserError if there are none."""
        if len(self.tokens[name]) == 0:
            raise UserError(
                f"The {name} split of corpus {self.hparams.corpus} is empty, since data.percents is "
                f"{list(self.hparams.percents)}: give it a share."
            )
        return self.tokens[name]

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
