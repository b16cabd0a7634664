"""Batches of blocks of tokens from memory-mapped arrays: shuffled for training, in order for evaluation.

Position in the data is an integer: sample i of epoch e is a pure function of (seed, e, i). So a checkpoint stores a few
integers, there are no workers, samplers or random states to save, and any i can be computed alone: an epoch begins as
fast, and in as little memory, whatever the size of the data.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gpt_lightning.batch import IGNORED, Batch
from gpt_lightning.data.batches.permutation import ROUNDS, permuted
from gpt_lightning.data.tokens.token_sequence import Tokens

ORDERED_AT_ONCE = 1 << 14  # samples whose offsets are computed together: these fit in the processor's cache


def epoch_offsets(
    n_tokens: int, context_length: int, seed: int, epoch: int, first: int = 0, end: int | None = None, step: int = 1
) -> np.ndarray:
    """Where samples of an epoch begin: sample i is the `context_length` + 1 tokens from offset i on.

    The split is cut into blocks that do not overlap. In every epoch they are shifted by another random number of tokens
    and permuted in another way; their number stays the same. Time and memory grow with the samples asked for, not with
    the epoch.

    Args:
        n_tokens: Tokens in the split, at least `context_length` + 1.
        context_length: T, tokens in a block.
        seed: With `epoch`, the only source of randomness.
        epoch: Counted from 0.
        first, end, step: The samples asked for, as in `range`; an `end` of None means all.

    Returns:
        (samples,) int64.
    """
    n_blocks = _count_blocks(n_tokens, context_length)
    # NumPy promises only that the raw numbers of Philox and SeedSequence stay the same in every version.
    shift, *keys = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(1 + ROUNDS).tolist()
    # The last block must still have its last target.
    shift %= min(context_length, n_tokens - n_blocks * context_length)
    samples = np.arange(first, n_blocks if end is None else end, step)
    blocks = permuted(samples, n_blocks, np.array([key >> 32 for key in keys], np.uint32))
    return blocks * context_length + shift


def _count_blocks(n_tokens: int, context_length: int) -> int:
    # One fewer than fit, so that every shift leaves the same number.
    return max(1, (n_tokens - context_length) // context_length)


class BlockLoader:
    """Batches of an epoch for one rank; resumes at the sample after the last one delivered.

    Ranks take strides of one permutation: each sample is seen at most once per epoch and by one rank only, and every
    rank has the same number of batches. Samples that do not fill a global batch (one batch of every rank) are left for
    another epoch.

    A resume may have another global batch: another number of ranks, another batch size. It continues with the very next
    sample, and the epoch ends where it would with the new global batch from its beginning. So each sample is still seen
    at most once, and only those that do not fill a global batch are left out. Lightning, which counts batches, is told
    how many of the new ones make up the part that was seen.

    Args:
        tokens: Unsigned integers, at least `context_length` + 1, in one array or in several.
        context_length: T, tokens in a sequence.
        batch_size: B, sequences in a batch of this rank.
        seed: Seed of the order.
        rank: This process, from 0.
        world_size: Number of processes.
        limit: The Trainer's `limit_train_batches`: how many batches (int) or what part (float) of an epoch it asks for.
        same_order: Whether every epoch is like epoch 0, as the Trainer's `overfit_batches` requires.
        progress: Lightning's count of batches (`fit_loop.epoch_loop.batch_progress`), corrected when a resume has
            another global batch; None without a Trainer.
    """

    def __init__(
        self,
        tokens: Tokens | np.ndarray,
        context_length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        limit: int | float = 1.0,
        same_order: bool = False,
        progress: Any = None,
    ) -> None:
        self.n_tokens, self.context_length, self.batch_size = len(tokens), context_length, batch_size
        self.seed, self.rank, self.world_size, self.same_order = seed, rank, world_size, same_order
        self.n_samples, self.global_batch = _count_blocks(self.n_tokens, context_length), batch_size * world_size
        self._tokens = _as_tokens(tokens)
        self._pin = torch.cuda.is_available()
        self._progress = progress
        self.epoch = 0
        self.position = 0  # batches delivered in this epoch
        self._shift = 0  # batch i begins at sample i × global_batch + shift; not 0 after a resume with another batch
        self._skipped = 0  # epochs that Lightning announced and did not begin
        self._resuming = False
        self._batches_asked = min(limit, len(self)) if isinstance(limit, int) else int(limit * len(self))

    @property
    def sampler(self) -> "BlockLoader":
        """Lightning looks here for the `set_epoch` that it calls when an epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begins another epoch. Called with the current epoch, as after a resume, it keeps the position."""
        if epoch != self.epoch:
            if self._resuming and self.position < self._batches_asked:
                # With max_steps Lightning 2.6 counts one epoch too many when it resumes, either within an epoch, of
                # which it then asks for the rest, or at its end, when it announces an epoch and asks for nothing. The
                # order of the text must not skip an epoch, too.
                self._skipped += 1
            else:
                self.position = self._shift = 0
            self.epoch = epoch

    def __len__(self) -> int:
        return self.n_samples // self.global_batch

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing runs before the first batch, and Lightning calls set_epoch between iter() and that.
        epoch = 0 if self.same_order else self.epoch - self._skipped
        begin = end = 0  # `offsets` holds this rank's samples from begin to end
        while (first := self._next_sample()) + self.global_batch <= self.n_samples:
            if not begin <= first < end:
                begin, end = first, first + max(1, ORDERED_AT_ONCE // self.batch_size) * self.global_batch
                where = begin + self.rank, min(end, self.n_samples), self.world_size
                offsets = epoch_offsets(self.n_tokens, self.context_length, self.seed, epoch, *where)
            own = (first - begin) // self.world_size
            rows = self._tokens.windows(offsets[own : own + self.batch_size], self.context_length + 1)
            # Before the yield: a checkpoint made while this batch is trained on resumes with the next one.
            self.position += 1
            self._resuming = False
            yield _to_batch(rows[:, :-1], rows[:, 1:], self._pin)
        self.position = self._shift = 0

    def _next_sample(self) -> int:
        return self.position * self.global_batch + self._shift

    def state_dict(self) -> dict[str, int]:
        """The position, which Lightning puts into checkpoints, in samples of all ranks."""
        return {"epoch": self.epoch, "sample": self._next_sample(), "skipped_epochs": self._skipped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a stored position, whatever the global batch was."""
        # Older checkpoints hold the number of batches and their size.
        seen = state["sample"] if "sample" in state else state["batch"] * state["global_batch_size"]
        asked, progress = self._batches_asked, self._progress
        left = max(0, min((self.n_samples - seen) // self.global_batch, asked - seen // self.global_batch))
        if progress is not None and progress.is_last_batch and seen:
            left = 0  # the epoch had ended, even if what it left over would fill smaller batches
        self.epoch, self._skipped, self._resuming = state["epoch"], state["skipped_epochs"], True
        # Counted back from the end of the epoch: Lightning counts up to it, and so asks for as many as are left.
        self.position = asked - left
        self._shift = seen - self.position * self.global_batch
        if progress is not None:
            progress.is_last_batch |= left == 0
            more = self.position - progress.current.ready
            for stage in ("ready", "started", "processed", "completed"):
                setattr(progress.current, stage, getattr(progress.current, stage) + more)


class EvaluationLoader:
    """All of a split in order: every token but the first is a target exactly once, over all ranks.

    Windows of T tokens go to the ranks in turn. Every rank has the same number of batches. Past the end of the text
    inputs are 0 and targets `IGNORED`, so a row, or a rank's entire last batch, can be padding. Targets that an earlier
    window had are `IGNORED`, too.

    Args:
        tokens: Unsigned integers, at least 2, in one array or in several.
        context_length: T, tokens in a sequence.
        batch_size: B, sequences in a batch of this rank; the last batch may have fewer.
        rank: This process, from 0.
        world_size: Number of processes.
        stride: Tokens from the beginning of one window to that of the next, 1 to T: every target but the first T has at
            least T − stride tokens before it. None means T, so that windows do not overlap.
    """

    def __init__(
        self,
        tokens: Tokens | np.ndarray,
        context_length: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        stride: int | None = None,
    ) -> None:
        self.context_length, self.batch_size, self.stride = context_length, batch_size, stride or context_length
        self.rank, self.world_size = rank, world_size
        self._tokens = _as_tokens(tokens)
        self._n_targets = len(tokens) - 1
        self._n_windows = 1 + max(0, math.ceil((self._n_targets - context_length) / self.stride))
        self._n_rows = math.ceil(self._n_windows / world_size)
        self._pin = torch.cuda.is_available()

    def __len__(self) -> int:
        return math.ceil(self._n_rows / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        column = np.arange(self.context_length)
        for first in range(0, self._n_rows, self.batch_size):
            windows = np.arange(first, min(first + self.batch_size, self._n_rows)) * self.world_size + self.rank
            starts = windows * self.stride
            text = np.zeros((len(windows), self.context_length + 1), np.int64)
            n_full = int((starts + self.context_length <= self._n_targets).sum())
            text[:n_full] = self._tokens.windows(starts[:n_full], self.context_length + 1)
            if self._n_windows - 1 in windows[n_full:]:  # only the last window may be shorter
                rest = self._tokens[starts[n_full] :]
                text[n_full, : len(rest)] = rest
            exists = starts[:, None] + column < self._n_targets
            new = exists & ((windows[:, None] == 0) | (column >= self.context_length - self.stride))
            yield _to_batch(np.where(exists, text[:, :-1], 0), np.where(new, text[:, 1:], IGNORED), self._pin)


def _as_tokens(tokens: Tokens | np.ndarray) -> Tokens:
    return tokens if isinstance(tokens, Tokens) else Tokens([tokens])


def _to_batch(inputs: np.ndarray, targets: np.ndarray, pin: bool) -> Batch:
    batch = torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64))
    return (batch[0].pin_memory(), batch[1].pin_memory()) if pin else batch
