"""Parameter groups and the schedules, by known answers; Muon, beside PyTorch's."""

import copy

import pytest
import torch

from gpt_lightning.model import GPT
from gpt_lightning.training.muon import orthogonalise
from gpt_lightning.training.optim import build_optimizer, parameter_groups, warmup_cosine, warmup_linear


def test_only_matrices_decay_and_nothing_is_left_out(tiny_config):
    gpt = GPT(tiny_config)
    decayed, kept = parameter_groups(gpt, 1e-3, (0.9, 0.95), weight_decay=0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert {id(p) for p in kept["params"]} == {
        id(p) for name, p in gpt.named_parameters() if name.endswith("bias") or "norm" in name
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(list(gpt.parameters()))


def test_schedule_at_known_steps():
    multiplier = warmup_cosine(warmup_steps=10, decay_steps=110, final_fraction=0.1)
    assert multiplier(0) == pytest.approx(0.1)
    assert multiplier(9) == pytest.approx(1.0)
    assert multiplier(10) == pytest.approx(1.0)
    assert multiplier(60) == pytest.approx(0.55)
    assert multiplier(110) == pytest.approx(0.1)
    assert multiplier(10_000) == pytest.approx(0.1)


def test_schedule_without_warm_up_starts_at_the_peak():
    assert warmup_cosine(0, 100, 0.1)(0) == pytest.approx(1.0)


def test_linear_schedule_at_known_steps():
    multiplier = warmup_linear(warmup_steps=10, decay_steps=100, final_fraction=0.2)
    assert [multiplier(step) for step in (0, 9, 10, 50)] == pytest.approx([0.1, 1, 1, 1])
    assert [multiplier(step) for step in (75, 100, 1000)] == pytest.approx([0.6, 0.2, 0.2])


def test_muon_takes_the_matrices_of_the_blocks(tiny_config):
    tiny_config.tie_weights = False
    gpt = GPT(tiny_config)
    groups = parameter_groups(gpt, 1e-3, (0.9, 0.95), 0.1, muon_learning_rate=0.02, embedding_learning_rate=0.05)
    names = {id(p): name for name, p in gpt.named_parameters()}
    muon, embeddings, head, vectors = ([names[id(p)] for p in group["params"]] for group in groups)
    assert len(muon) == 4 * tiny_config.n_layer
    assert all(name.startswith("blocks.") and name.endswith("weight") and "norm" not in name for name in muon)
    assert embeddings == ["token_embedding.weight", "position_embedding.weight"]
    assert head == ["head.weight"]
    assert len(muon + embeddings + head + vectors) == len(list(gpt.parameters()))
    assert [group["lr"] for group in groups] == [0.02, 0.05, 1e-3, 1e-3]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.1, 0]
    tiny_config.tie_weights = True
    assert len(parameter_groups(GPT(tiny_config), 1e-3, (0.9, 0.95), 0.1, muon_learning_rate=0.02)) == 3


def train(gpt, optimizers, steps, seed=0):
    """A few steps on random tokens."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = torch.randint(256, (4, 17), generator=generator)
        logits = gpt(tokens[:, :-1]).flatten(0, 1)
        gpt.zero_grad()
        torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
        for optimizer in optimizers:
            optimizer.step()


def groups_of(gpt):
    """Parameter groups with so much decay that its absence would show."""
    return parameter_groups(gpt, 1e-3, (0.9, 0.95), 2.0, muon_learning_rate=0.02, embedding_learning_rate=0.05)


def muon_of(gpt):
    return build_optimizer(groups_of(gpt), fused=True)


def test_muon_is_that_of_pytorch(tiny_config):
    ours = GPT(tiny_config)
    start, theirs = copy.deepcopy(ours), copy.deepcopy(ours)
    hidden, *others = groups_of(theirs)
    muon = torch.optim.Muon(hidden["params"], lr=0.02, weight_decay=2.0, momentum=0.95)
    train(theirs, [muon, torch.optim.AdamW(others)], steps=5)
    train(ours, [muon_of(ours)], steps=5)
    for (name, a), b, before in zip(ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True):
        # PyTorch's iterates in bf16, which has three digits; from there the two drift apart.
        assert (a - b).norm() <= (0.15 if "blocks" in name else 0.05) * (b - before).norm(), name


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (1, 16, 16)])
def test_orthogonal_updates_are_nearly_orthogonal(shape):
    made = orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert made.shape == shape
    singular = torch.linalg.svdvals(made.float())
    assert singular.min() > (0.3 if shape[-1] == shape[-2] else 0.6)
    assert singular.max() < 1.3
    assert orthogonalise(torch.zeros(shape)).abs().max() == 0


def test_muon_goes_on_from_its_state(tiny_config):
    straight = GPT(tiny_config)
    stopped = copy.deepcopy(straight)
    optimizer = muon_of(straight)
    train(straight, [optimizer], 2)
    train(straight, [optimizer], 2, seed=1)
    before = muon_of(stopped)
    train(stopped, [before], 2)
    resumed = muon_of(stopped)
    resumed.load_state_dict(copy.deepcopy(before.state_dict()))
    train(stopped, [resumed], 2, seed=1)
    for a, b in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_goes_on_from_a_state_that_names_no_optimizer(tiny_config):
    """Older checkpoints have no such key in their groups."""
    gpt = GPT(tiny_config)
    optimizer = muon_of(gpt)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["optimizer"]
    optimizer.load_state_dict(state)
    assert [group["optimizer"] for group in optimizer.param_groups] == ["muon", "adamw", "adamw"]
    train(gpt, [optimizer], 1)
