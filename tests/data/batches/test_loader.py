"""Which samples the loaders deliver, in which order and to which rank, also after a resume."""

import itertools
import os
import tracemalloc

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics import MeanMetric

from callbacks import ExactResume
from gpt_lightning.batch import IGNORED
from gpt_lightning.data.batches import loader as loader_module
from gpt_lightning.data.batches.loader import BlockLoader, EvaluationLoader, epoch_offsets
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.data.tokens.token_sequence import Tokens

T, B = 8, 3


def consecutive(n_tokens: int) -> np.ndarray:
    """Tokens that tell where they are."""
    return np.arange(n_tokens, dtype=np.uint16)


def block_loader(n_tokens: int = 1000, batch_size: int = B, **kwargs) -> BlockLoader:
    return BlockLoader(consecutive(n_tokens), T, batch_size, seed=5, **kwargs)


def as_lists(batches) -> list:
    return [inputs.tolist() for inputs, _ in batches]


@pytest.mark.parametrize("n_tokens", [T + 1, 2 * T - 1, 2 * T, 2 * T + 1, 1000, 1003])
def test_blocks_fit_do_not_overlap_and_are_as_many_in_every_epoch(n_tokens):
    for epoch in range(50):
        offsets = np.sort(epoch_offsets(n_tokens, T, seed=0, epoch=epoch))
        assert len(offsets) == max(1, (n_tokens - T) // T)
        assert offsets[0] >= 0
        assert offsets[-1] + T + 1 <= n_tokens
        assert (np.diff(offsets) == T).all()


def test_every_shift_of_the_grid_occurs():
    assert {int(epoch_offsets(1000, T, 0, epoch).min()) for epoch in range(100)} == set(range(T))


def test_the_order_depends_on_seed_and_epoch_alone():
    offsets = epoch_offsets(1000, T, seed=0, epoch=3)
    np.random.seed(1)
    torch.manual_seed(1)
    assert (offsets == epoch_offsets(1000, T, seed=0, epoch=3)).all()
    assert not (offsets == epoch_offsets(1000, T, seed=0, epoch=4)).all()
    assert not (offsets == epoch_offsets(1000, T, seed=1, epoch=3)).all()


def test_the_order_is_the_one_written_down():
    """Another NumPy, or another order, would resume old checkpoints elsewhere in the text."""
    assert epoch_offsets(100, T, seed=1337, epoch=2).tolist() == [80, 32, 48, 40, 24, 16, 72, 56, 0, 8, 64]
    first = epoch_offsets(25_000_000_000, 256, seed=1337, epoch=0, end=4)
    assert first.tolist() == [22759590299, 22226145435, 12797524123, 24126455963]
    last = epoch_offsets(10_000_000, 256, seed=1337, epoch=3, first=39_055)
    assert last.tolist() == [9505043, 2648595, 285203, 6637331, 1935891, 686355]
    assert epoch_offsets(70_000, 1, 2**40, 1, 12_345, 12_350).tolist() == [44392, 17502, 56307, 47086, 68098]


def test_part_of_an_order_is_that_part_of_the_whole():
    expected = epoch_offsets(10_000, T, seed=0, epoch=3)
    assert len(expected) == 1249
    for first, end, step in [(0, 1249, 1), (0, 0, 1), (0, 1, 1), (1248, 1249, 1), (17, 900, 1), (17, 900, 4)]:
        assert (epoch_offsets(10_000, T, 0, 3, first, end, step) == expected[first:end:step]).all()
    assert (epoch_offsets(10_000, T, 0, 3, 1000) == expected[1000:]).all()


def test_orders_of_other_epochs_and_seeds_are_unlike():
    orders = [epoch_offsets(80_000, T, seed, epoch) // T for seed in range(6) for epoch in range(6)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).sum() <= 10  # 1 on average
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / len(one) ** 0.5


def test_batches_are_int64_blocks_and_their_successors():
    for inputs, targets in block_loader():
        assert inputs.shape == targets.shape == (B, T)
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous()
        assert targets.is_contiguous()
        assert (inputs[:, 1:] == inputs[:, :-1] + 1).all()
        assert (targets == inputs + 1).all()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_block_is_seen_once_per_epoch_by_one_rank(world_size):
    loaders = [block_loader(rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = [int(row[0]) for loader in loaders for inputs, _ in loader for row in inputs]
    n_blocks = (1000 - T) // T
    assert {len(list(loader)) for loader in loaders} == {len(loaders[0])} == {n_blocks // (B * world_size)}
    assert len(seen) == len(set(seen)) == len(loaders[0]) * B * world_size > n_blocks - B * world_size
    assert set(seen) <= set(epoch_offsets(1000, T, 5, 0).tolist())


def test_ranks_together_see_the_batch_of_one_process():
    one = BlockLoader(consecutive(1000), T, 4, seed=5)
    two = [BlockLoader(consecutive(1000), T, 2, seed=5, rank=rank, world_size=2) for rank in range(2)]
    for (both, _), (first, _), (second, _) in zip(one, *two, strict=True):
        assert sorted(both.tolist()) == sorted(first.tolist() + second.tolist())


def in_shards(n_tokens: int, n_shards: int) -> Tokens:
    """Of unequal lengths: some shorter than a sequence, one empty."""
    cuts = sorted((n_tokens * place**2 // n_shards**2 + 1 for place in range(1, n_shards)), reverse=True)
    return Tokens(np.split(consecutive(n_tokens), cuts[::-1] + cuts[:1] if cuts else []))


@pytest.mark.parametrize("n_shards", [1, 7, 100])
@pytest.mark.parametrize("world_size", [1, 4])
def test_neither_ranks_nor_shards_change_the_order(world_size, n_shards):
    tokens, batch_size = in_shards(5000, n_shards), 12 // world_size
    loaders = [BlockLoader(tokens, T, batch_size, 5, rank, world_size) for rank in range(world_size)]
    for epoch in range(2):
        for loader in loaders:
            loader.set_epoch(epoch)
        # Samples go to the ranks in turn.
        together = [torch.stack([inputs for inputs, _ in batches], 1) for batches in zip(*loaders, strict=True)]
        seen = torch.cat([rows.flatten(0, 1) for rows in together])
        expected = epoch_offsets(5000, T, 5, epoch)[: len(seen), None] + np.arange(T)
        assert len(seen) == 624 // 12 * 12
        assert (seen.numpy() == expected).all()


@pytest.mark.parametrize("at_once", [1, 7, 60])
@pytest.mark.parametrize("world_size", [1, 4])
def test_places_found_in_parts_are_those_found_at_once(world_size, at_once, monkeypatch):
    expected = [as_lists(block_loader(rank=rank, world_size=world_size)) for rank in range(world_size)]
    monkeypatch.setattr(loader_module, "ORDERED_AT_ONCE", at_once)
    for rank in range(world_size):
        loader = block_loader(rank=rank, world_size=world_size)
        assert as_lists(loader) == expected[rank]
        loader.load_state_dict({"epoch": 0, "sample": 5 * B * world_size, "skipped_epochs": 0})
        assert as_lists(loader) == expected[rank][5:]


@pytest.mark.parametrize("n_files", [1, 2])
def test_the_first_batch_of_fifty_gigabytes_takes_little_memory(tmp_path, n_files):
    """Of files with holes, which take no room on disk. Nothing is read, made or kept of the rest."""
    paths = [tmp_path / f"{number}.bin" for number in range(n_files)]
    for path in paths:
        path.touch()
        try:
            os.truncate(path, 50 * 10**9 // n_files)
        except OSError:
            pytest.skip("the disk has no files with holes")
    tokens = Tokens([np.memmap(path, np.uint16, mode="r") for path in paths])
    tracemalloc.start()
    try:
        loader = BlockLoader(tokens, 256, 32, seed=0)
        loader.load_state_dict({"epoch": 3, "sample": 10**7, "skipped_epochs": 0})
        next(iter(loader))
        next(iter(EvaluationLoader(tokens, 256, 32)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(loader) == (25 * 10**9 // 256 - 1) // 32
    assert peak < 4e6


@pytest.mark.parametrize("delivered", [1, 7, 40])
def test_a_resumed_epoch_goes_on_where_it_stopped(delivered):
    loader = block_loader()
    loader.set_epoch(2)
    expected = as_lists(loader)
    iterator = iter(loader)
    for _ in range(delivered):
        next(iterator)
    state = loader.state_dict()
    assert state == {"epoch": 2, "sample": delivered * B, "skipped_epochs": 0}
    resumed = block_loader()
    resumed.load_state_dict(state)
    iterator = iter(resumed)  # as Lightning does: iter() before set_epoch()
    resumed.sampler.set_epoch(2)
    assert as_lists(iterator) == expected[delivered:]
    assert resumed.state_dict()["sample"] == 0
    assert as_lists(resumed) == expected


def test_an_abandoned_epoch_is_followed_by_a_whole_one():
    loader = block_loader()
    next(iter(loader))
    loader.sampler.set_epoch(1)
    fresh = block_loader()
    fresh.set_epoch(1)
    assert as_lists(loader) == as_lists(fresh)


def test_same_order_repeats_the_first_epoch():
    loader = block_loader(same_order=True)
    first = as_lists(loader)
    loader.set_epoch(1)
    assert as_lists(loader) == first


def test_a_checkpoint_that_counted_batches_still_loads():
    """As older ones did."""
    loader = block_loader()
    loader.load_state_dict({"epoch": 2, "batch": 7, "skipped_epochs": 0, "global_batch_size": 6})
    assert loader.state_dict() == {"epoch": 2, "sample": 42, "skipped_epochs": 0}


@pytest.mark.parametrize(
    "parts",
    [
        [(1, 4, 5), (2, 4, 3), (1, 4, 100)],  # the ranks double and halve
        [(3, 5, 2), (2, 7, 1), (1, 1, 3), (4, 2, 100)],  # nothing fits into anything
        [(1, 1, 123), (2, 1, 100)],  # the one sample that is left fills no batch
        [(1, 100, 1), (1, 25, 100)],  # the batch of before would not have fitted once more
    ],
)
def test_an_epoch_shared_by_runs_of_any_ranks_and_batches_has_each_sample_once(parts):
    """Each part: number of ranks, batch size, and how many batches they deliver before the next takes over."""
    seen, state = [], None
    for world_size, batch_size, n_batches in parts:
        loaders = [block_loader(batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        for _, batches in zip(range(n_batches), zip(*loaders, strict=True), strict=False):
            assert {len(inputs) for inputs, _ in batches} == {batch_size}
            seen += [int(row[0]) for inputs, _ in batches for row in inputs]
            states = [loader.state_dict() for loader in loaders]
            assert states == states[:1] * world_size  # the one that is kept is rank zero's
            state = states[0]
    order = epoch_offsets(1000, T, seed=5, epoch=0).tolist()
    assert len(seen) == len(set(seen)) == state["sample"]
    assert set(seen) == set(order[: len(seen)])
    assert len(order) - len(seen) < world_size * batch_size


class Numbered(TextDataModule):
    """Its tokens tell where they are."""

    def prepare_data(self):
        pass

    def setup(self, stage):
        self.tokens = {"train": consecutive(123), "val": consecutive(50)}  # 14 samples in an epoch

    def state_dict(self):
        return {}


class Rows(L.LightningModule):
    """Remembers where each sequence that it was trained on began."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_loss = MeanMetric()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen += batch[0][:, 0].tolist()
        return self.weight * 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(directory, batch_size, ckpt_path=None, **options) -> list[int]:
    module = Rows()
    every_step = ModelCheckpoint(directory, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[ExactResume(), every_step],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(module, Numbered("x", batch_size=batch_size, context_length=T), ckpt_path=ckpt_path, weights_only=True)
    return module.seen


@pytest.mark.parametrize(
    ("resumed_size", "limit", "until"),
    [
        (1, 1.0, "epochs"),
        (2, 1.0, "steps"),
        (4, 1.0, "epochs"),
        (6, 1.0, "steps"),
        (2, 0.75, "epochs"),
        (4, 2, "steps"),
    ],
)
@pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader.", "ignore:Checkpoint directory")
def test_lightning_ends_epochs_right_after_a_resume_with_another_batch_size(tmp_path, resumed_size, limit, until):
    """From every step of two epochs. What is a batch to Lightning is one rank's, so this goes for other ranks too."""

    def asked(batch_size):
        return min(limit, 14 // batch_size) if isinstance(limit, int) else int(limit * (14 // batch_size))

    options = {"limit_train_batches": limit, "max_epochs": 3 if until == "epochs" else None}
    fit(tmp_path, 3, max_steps=2 * asked(3), **{**options, "max_epochs": None})
    for step in range(1, 2 * asked(3) + 1):
        epoch, batches = divmod(step, asked(3))
        # The samples that a run with the batches of now would have seen at most, and those of the epochs after this.
        left = min((14 - 3 * batches) // resumed_size, asked(resumed_size) - 3 * batches // resumed_size)
        order = [epoch_offsets(123, T, 1337, e).tolist() for e in range(epoch, 3)]
        expected = order[0][3 * batches :][: max(0, left) * resumed_size]
        for later in order[1:]:
            expected += later[: asked(resumed_size) * resumed_size]
        max_steps = -1 if until == "epochs" else step + len(expected) // resumed_size
        seen = fit(tmp_path, resumed_size, tmp_path / f"step={step}.ckpt", max_steps=max_steps, **options)
        assert seen == expected, step


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("n_tokens", [2, 5, T, T + 1, T + 2, 25 * T, 25 * T + 1, 203])
def test_every_token_but_the_first_is_a_target_once(n_tokens, world_size):
    loaders = [EvaluationLoader(consecutive(n_tokens), T, B, rank, world_size) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert {len(b) for b in batches} == {len(loaders[0])}
    assert all(len(inputs) == B for rank_batches in batches for inputs, _ in rank_batches[:-1])
    scored = []
    for inputs, targets in (batch for rank_batches in batches for batch in rank_batches):
        assert inputs.shape == targets.shape == (len(inputs), T)
        assert inputs.dtype == targets.dtype == torch.int64
        there = targets != IGNORED
        assert (targets[there] == inputs[there] + 1).all()
        assert (inputs[~there] == 0).all()
        scored += targets[there].tolist()
    assert sorted(scored) == list(range(1, n_tokens))
    if world_size == 1:
        assert scored == sorted(scored)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 3, T - 1, T])
@pytest.mark.parametrize("n_tokens", [2, T + 1, T + 2, 3 * T + 1, 203])
def test_with_a_stride_every_target_has_its_context(n_tokens, stride, world_size):
    loaders = [EvaluationLoader(consecutive(n_tokens), T, B, rank, world_size, stride) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert {len(b) for b in batches} == {len(loaders[0])}
    scored = []
    for inputs, targets in (batch for rank_batches in batches for batch in rank_batches):
        assert (inputs[(targets == IGNORED).all(1)] == 0).all()  # padding, though there may be text to fill it
        for row, column in (targets != IGNORED).nonzero().tolist():
            target = int(targets[row, column])
            before = min(target, column + 1)
            assert inputs[row, column + 1 - before : column + 1].tolist() == list(range(target - before, target))
            assert before == target or before > T - stride
            scored.append(target)
    assert sorted(scored) == list(range(1, n_tokens))


@pytest.mark.parametrize("stride", [3, T])
@pytest.mark.parametrize("n_tokens", [5, T + 1, 203])
def test_shards_do_not_change_what_is_evaluated(n_tokens, stride):
    for rank in range(3):
        one, many = (EvaluationLoader(in_shards(n_tokens, n), T, B, rank, 3, stride) for n in (1, 4))
        for (inputs, targets), (same_inputs, same_targets) in zip(one, many, strict=True):
            assert torch.equal(inputs, same_inputs)
            assert torch.equal(targets, same_targets)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_pinned_where_there_is_a_gpu():
    for loader in (block_loader(), EvaluationLoader(consecutive(100), T, B)):
        assert all(tensor.is_pinned() for tensor in next(iter(loader)))
