"""The chunked loss equals the plain one, in value and gradient, on each of its paths."""

import pytest
import torch
import torch.nn.functional as F

from gpt_lightning.training import loss


@pytest.fixture
def problem():
    torch.manual_seed(0)
    hidden = torch.randn(70, 24, requires_grad=True)
    weight = (torch.randn(300, 24) * 0.1).requires_grad_()
    targets = torch.randint(300, (70,))
    targets[[3, 40, 69]] = loss.IGNORED
    return hidden, weight, targets


def value_and_gradients(value, *inputs):
    return value.detach(), *torch.autograd.grad(value, inputs)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("path", ["plain", "fused", "checkpointed"])
def test_every_path_equals_plain_cross_entropy(problem, monkeypatch, path, reduction):
    hidden, weight, targets = problem
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction=reduction)
    monkeypatch.setattr(loss, "CHUNK_ABOVE", 2**24 if path == "plain" else 0)
    monkeypatch.setattr(loss, "CHUNK_ROWS", 16)
    if path == "checkpointed":
        monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    elif path == "fused" and not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this torch has no F.linear_cross_entropy")
    actual = loss.head_cross_entropy(hidden, weight, targets, reduction)
    assert actual.dtype == torch.float32
    for ours, theirs in zip(
        value_and_gradients(actual, hidden, weight), value_and_gradients(expected, hidden, weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_large_logits_are_never_held_at_once(monkeypatch):
    """The largest tensor that the checkpointed path makes is one chunk of logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    monkeypatch.setattr(loss, "CHUNK_ABOVE", 0)
    monkeypatch.setattr(loss, "CHUNK_ROWS", 8)
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    with Watch():
        loss.head_cross_entropy(hidden, weight, torch.randint(100, (64,))).backward()
    assert max(sizes) == 8 * 100


def test_fp16_gradients_survive_a_scaler(monkeypatch):
    """Gradients of improbable classes are below fp16's range (6e-8). A scaler lifts them before backward, too late for
    the fused function, which has computed them by then: fp16 must not use it."""
    monkeypatch.setattr(loss, "CHUNK_ABOVE", 0)
    torch.manual_seed(0)
    hidden = torch.rand(64, 8) + 0.5
    weight = torch.zeros(512, 8)
    weight[0] = 2.4  # a logit of about 19: every other class has a probability of about 5e-9
    weight.requires_grad_()
    targets = torch.zeros(64, dtype=torch.long)
    with torch.autocast("cpu", torch.float16):
        scaled = loss.head_cross_entropy(hidden, weight, targets) * 2.0**18
    (gradient,) = torch.autograd.grad(scaled, weight)
    (expected,) = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), weight)
    assert expected[1:].max() < 6e-8
    torch.testing.assert_close(gradient[1:] / 2.0**18, expected[1:], atol=0, rtol=0.1)
