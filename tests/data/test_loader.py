import numpy as np
import pytest
import torch

from gpt_lightning.data.loader import IGNORED_TARGET, BlockLoader, EvaluationLoader, epoch_offsets

T, B = 8, 3


def consecutive(n_tokens: int) -> np.ndarray:
    """Tokens that tell where they are."""
    return np.arange(n_tokens, dtype=np.uint16)


def block_loader(n_tokens: int = 1000, **kwargs) -> BlockLoader:
    return BlockLoader(consecutive(n_tokens), T, B, seed=5, **kwargs)


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
    # Written down: a NumPy that drew other numbers would resume old checkpoints elsewhere in the text.
    assert epoch_offsets(100, T, seed=1337, epoch=2).tolist() == [12, 4, 44, 76, 60, 20, 52, 28, 84, 36, 68]


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
    for (whole, _), (first, _), (second, _) in zip(one, *two, strict=True):
        assert sorted(whole.tolist()) == sorted(first.tolist() + second.tolist())


@pytest.mark.parametrize("delivered", [1, 7, 40])
def test_a_resumed_epoch_goes_on_where_it_stopped(delivered):
    loader = block_loader()
    loader.set_epoch(2)
    whole = as_lists(loader)
    iterator = iter(loader)
    for _ in range(delivered):
        next(iterator)
    state = loader.state_dict()
    assert state == {"epoch": 2, "batch": delivered, "skipped_epochs": 0, "global_batch_size": B}
    resumed = block_loader()
    resumed.load_state_dict(state)
    iterator = iter(resumed)  # as Lightning does: iter() before set_epoch()
    resumed.sampler.set_epoch(2)
    assert as_lists(iterator) == whole[delivered:]
    assert resumed.state_dict()["batch"] == 0
    assert as_lists(resumed) == whole


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


def test_resuming_with_another_batch_size_warns():
    with pytest.warns(UserWarning, match="batches of 3 sequences, saved with 6"):
        block_loader().load_state_dict(block_loader(world_size=2).state_dict())


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
        there = targets != IGNORED_TARGET
        assert (targets[there] == inputs[there] + 1).all()
        assert (inputs[~there] == 0).all()
        scored += targets[there].tolist()
    assert sorted(scored) == list(range(1, n_tokens))
    if world_size == 1:
        assert scored == sorted(scored)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_pinned_where_there_is_a_gpu():
    for loader in (block_loader(), EvaluationLoader(consecutive(100), T, B)):
        assert all(tensor.is_pinned() for tensor in next(iter(loader)))
