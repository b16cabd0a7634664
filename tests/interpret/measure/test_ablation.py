"""Ablation against brute force, `transformers` and a circuit whose heads are known; and what its numbers prove."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure import hooks
from gpt_lightning.interpret.measure.ablation import T_QUANTILES, Ablation, ablate, effect, interval
from gpt_lightning.interpret.scan import attention_maps, depth_scan
from gpt_lightning.model import GPT, GPTConfig
from tests.gpt2_oracle import copy_from_huggingface, random_huggingface_gpt2
from tests.interpret.circuits import induction_circuit, repeated_sequences
from tests.interpret.conftest import Largest, left_as_it_was, random_tokens, sharpened_gpt, with_checkpointed_blocks
from tests.networks import VARIANTS

PERIOD = 31
SECOND_HALF = PERIOD + 2  # the first token that is predictable


def uncertain_gpt(**options) -> GPT:
    """Sharp attention, but not the logits: float32 holds a cross-entropy of 4 nats to 1e-6, one of 14 not to 1e-5."""
    gpt = sharpened_gpt(**{"n_layer": 3, "tie_weights": False} | options).eval()
    with torch.no_grad():
        gpt.head.weight.mul_(0.25)
    return gpt


def assert_same(measured: Ablation, expected: Ablation, **tolerance: float) -> None:
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(measured, name), value, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


@torch.no_grad()
def brute_force(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    projections: list[torch.nn.Module],
    n_head: int,
    tokens: torch.Tensor,
    first_target: int = 1,
) -> Ablation:
    """The definition: the entire network once per head, with the head's slice of what its layer projects replaced."""

    def losses() -> torch.Tensor:
        logits = logits_of(tokens)
        return torch.stack(
            [F.cross_entropy(x[first_target - 1 : -1], t[first_target:]) for x, t in zip(logits, tokens, strict=True)]
        )

    def ablated(projection: torch.nn.Module, heads: slice) -> torch.Tensor:
        def replace(module, inputs):
            mixed = inputs[0].clone()
            width = mixed.size(-1) // n_head
            channels = slice(heads.start * width, heads.stop * width)
            mixed[..., channels] = mixed[..., channels].flatten(0, 1).mean(0)
            return (mixed,)

        with projection.register_forward_pre_hook(replace):
            return losses() - baseline

    baseline = losses()
    heads = [[ablated(projection, slice(head, head + 1)) for head in range(n_head)] for projection in projections]
    layers = [ablated(projection, slice(0, n_head)) for projection in projections]
    return Ablation(baseline, torch.stack([torch.stack(row) for row in heads]), torch.stack(layers))


def brute_force_of(gpt: GPT, tokens: torch.Tensor, first_target: int = 1) -> Ablation:
    projections = [block.attention.output for block in gpt.blocks]
    return brute_force(gpt, projections, gpt.config.n_head, tokens, first_target)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("first_target", [1, 17, 39])
def test_ablation_equals_brute_force(variant, first_target):
    gpt, tokens = uncertain_gpt(**VARIANTS[variant]), random_tokens(3, 40)
    expected = brute_force_of(gpt, tokens, first_target)
    assert expected.head_delta_LHn.abs().amax(-1).min() > 0.001  # every head matters, or this would prove little
    assert_same(ablate(gpt, tokens, first_target=first_target), expected, atol=1e-5, rtol=0)


def test_ablation_equals_that_of_transformers():
    theirs = random_huggingface_gpt2(n_layer=3, n_head=4, d_model=32, context_length=40, vocab_size=50)
    tokens = random_tokens(3, 40)
    projections = [block.attn.c_proj for block in theirs.transformer.h]
    expected = brute_force(lambda x: theirs(x).logits, projections, 4, tokens)
    assert expected.head_delta_LHn.abs().amax(-1).min() > 0.005
    assert_same(ablate(copy_from_huggingface(theirs), tokens), expected, atol=1e-5, rtol=0)


def test_what_each_head_of_the_circuit_does():
    circuit, tokens = induction_circuit(PERIOD), repeated_sequences(8, PERIOD)
    assert depth_scan(circuit, tokens).heads["previous_token"][0, 0] >= 0.999
    (_, sink), (induction, uniform) = attention_maps(circuit, tokens[0])
    assert induction.diagonal(1 - PERIOD)[2:].min() >= 0.999  # row t = PERIOD + 1, the first with an earlier copy, on
    assert sink[:, 0].min() >= 0.999
    torch.testing.assert_close(uniform, torch.ones(63, 63).tril() / torch.arange(1.0, 64)[:, None])


def test_layer_norm_does_nothing_in_the_circuit():
    circuit, tokens = induction_circuit(PERIOD), repeated_sequences(2, PERIOD)
    seen = []
    for norm in (*(block.norm1 for block in circuit.blocks), circuit.norm):
        norm.register_forward_hook(lambda module, inputs, output: seen.append((output, inputs[0])))
    with torch.no_grad():
        circuit(tokens)
    for output, x in seen:
        torch.testing.assert_close(output, x, atol=1e-4, rtol=2e-4)


def test_only_the_two_heads_of_the_circuit_are_needed():
    measured = ablate(induction_circuit(PERIOD), repeated_sequences(8, PERIOD), first_target=SECOND_HALF)
    assert measured.baseline_n.max() < 1e-3
    for layer in (0, 1):
        circuit_head, other_head = measured.head_delta_LHn[layer]
        assert circuit_head.tolist() == pytest.approx([math.log(64)] * 8, abs=0.1)
        assert other_head.abs().max() < 1e-5
        assert (effect(circuit_head), effect(other_head)) == ("needed", "no effect")
        torch.testing.assert_close(measured.attention_delta_Ln[layer], circuit_head, atol=1e-4, rtol=0)


def test_a_head_whose_output_is_not_read_changes_nothing_at_all():
    """Not even by rounding: both sides of the difference come from the same operations on the same micro-batches."""
    gpt = sharpened_gpt()
    with torch.no_grad():
        gpt.blocks[1].attention.output.weight[:, 8:] = 0  # head 1's slice
    measured = ablate(gpt, random_tokens(3, 30))
    assert measured.head_delta_LHn[1, 1].tolist() == [0] * 3
    assert measured.head_delta_LHn[1, 0].abs().min() > 0


@pytest.mark.parametrize("most_numbers", [1, 7 * 50, 40 * 64, 2 * 40 * 64, 2**24])
def test_micro_batches_and_blocks_of_rows_change_no_number(most_numbers, monkeypatch):
    """The means too are over all sequences, not over those of a micro-batch."""
    gpt, tokens = uncertain_gpt(), random_tokens(3, 40)
    expected = brute_force_of(gpt, tokens)
    monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
    assert_same(ablate(gpt, tokens), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("vocab_size", "d_model", "most_numbers"), [(2000, 8, 2**15), (50, 32, 2**14)])
def test_no_tensor_is_larger_than_allowed(vocab_size, d_model, most_numbers, monkeypatch):
    """Whether the logits are the largest (one sequence is too many) or the MLP (two of eight sequences fit)."""

    gpt = GPT(GPTConfig(2, 2, d_model, 64, vocab_size))
    monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
    with Largest() as largest:
        ablate(gpt, random_tokens(8, 64))
    assert most_numbers / 8 < largest.numel <= most_numbers


def test_shapes_and_progress():
    calls = []
    measured = ablate(sharpened_gpt(n_layer=3), random_tokens(4, 20), on_progress=lambda: calls.append(1))
    assert len(calls) == 3
    assert {name: tuple(value.shape) for name, value in vars(measured).items()} == {
        "baseline_n": (4,),
        "head_delta_LHn": (3, 2, 4),
        "attention_delta_Ln": (3, 4),
    }


def test_long_sequences_are_cut():
    gpt, tokens = sharpened_gpt(context_length=20), random_tokens(2, 50)
    assert_same(ablate(gpt, tokens, max_tokens=20), ablate(gpt, tokens[:, :20]), atol=0, rtol=0)
    assert_same(ablate(gpt, tokens, max_tokens=9), ablate(gpt, tokens[:, :9]), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("tokens", "options", "words"),
    [
        (torch.zeros(5, dtype=torch.long), {}, r"shape \(5,\)"),
        (torch.zeros(1, 73, dtype=torch.long), {}, r"shape \(1, 73\)"),
        (torch.tensor([[0, 50]]), {}, "token id 50"),
        (torch.zeros(1, 9, dtype=torch.long), {"first_target": 0}, "from 1 to 8 for sequences of 9 tokens, not 0"),
        (torch.zeros(1, 9, dtype=torch.long), {"first_target": 9}, "from 1 to 8 for sequences of 9 tokens, not 9"),
        (torch.zeros(1, 9, dtype=torch.long), {"max_tokens": 1}, r"shape \(1, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(tokens, options, words):
    with pytest.raises(UserError, match=words):
        ablate(sharpened_gpt(), tokens, **options)


def test_autocast_does_not_reach_the_ablation():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30)
    expected = ablate(gpt, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = ablate(gpt, tokens)
    assert_same(measured, expected, atol=0, rtol=0)


def test_a_network_in_bfloat16():
    gpt, tokens = induction_circuit(PERIOD), repeated_sequences(2, PERIOD)
    measured = ablate(gpt.bfloat16(), tokens, first_target=SECOND_HALF)
    assert all(value.dtype == torch.float32 for value in vars(measured).values())
    # bf16 keeps 8 bits, so that the logits themselves are off by up to 0.4%.
    assert measured.head_delta_LHn[:, 0].flatten().tolist() == pytest.approx([math.log(64)] * 4, abs=0.3)


def test_a_network_with_activation_checkpointing():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30)
    expected = ablate(gpt, tokens)
    with left_as_it_was(with_checkpointed_blocks(gpt)):
        assert_same(ablate(gpt, tokens), expected, atol=0, rtol=0)


def test_the_network_is_left_as_it_was():
    gpt = sharpened_gpt(dropout=0.5).train()
    gpt.blocks[1].eval()  # a mixture, as when part of a network is frozen
    with left_as_it_was(gpt):
        first, second = ablate(gpt, random_tokens(2, 20)), ablate(gpt, random_tokens(2, 20))
    assert not any(value.requires_grad for value in vars(first).values())
    assert_same(first, second, atol=0, rtol=0)  # in evaluation mode: without dropout, twice the same


@pytest.mark.parametrize("call", [1, 2, 3, "progress"])
def test_the_network_is_left_as_it_was_when_ablation_fails(call, monkeypatch):
    """The last layer runs first for the baseline, then with a head of the layer before it ablated, and so on."""
    gpt = sharpened_gpt(dropout=0.5).train()
    gpt.blocks[0].mlp.eval()
    calls, mlp = [], gpt.blocks[1].mlp.forward

    def fail(*args):
        raise RuntimeError("out of memory")

    def fail_at_call(x):
        calls.append(1)
        return fail() if len(calls) == call else mlp(x)

    monkeypatch.setattr(gpt.blocks[1].mlp, "forward", fail_at_call)
    with left_as_it_was(gpt), pytest.raises(RuntimeError, match="out of memory"):
        ablate(gpt, random_tokens(2, 20), on_progress=fail)


@pytest.mark.parametrize(
    ("deltas", "mean", "half"),
    [
        ([0, 2], 1, 12.706),  # s = √2, divided by √2
        ([1, 2, 3], 2, 4.303 / math.sqrt(3)),
        ([-1.0, 1.0] * 15 + [0.0], 0, 2.042 / math.sqrt(31)),  # n = 31: s² = 30 / 30
        ([-1.0, 1.0] * 16, 0, 1.96 * math.sqrt(32 / 31) / math.sqrt(32)),
        ([3], 3, math.inf),
    ],
)
def test_intervals_by_hand(deltas, mean, half):
    measured = interval(torch.tensor(deltas, dtype=torch.float32))
    assert measured == pytest.approx((mean, mean - half, mean + half), abs=1e-6)


def test_quantiles_are_those_of_students_distribution():
    """Half of the distribution is below 0; the rest is its density, integrated up to the quantile."""
    assert len(T_QUANTILES) == 30
    for df, quantile in enumerate(T_QUANTILES, start=1):
        t = np.linspace(0, quantile, 20_001)
        scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
        assert 0.5 + np.trapezoid(scale * (1 + t * t / df) ** (-(df + 1) / 2), t) == pytest.approx(0.975, abs=3e-5)


@pytest.mark.parametrize("n", [2, 5, 31, 32])
def test_intervals_hold_the_truth_as_often_as_they_say(n):
    draws = 3 + torch.randn(2000, n, generator=torch.Generator().manual_seed(0))
    covered = sum(low <= 3 <= high for _, low, high in map(interval, draws))
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)  # three standard errors of 2000 draws


@pytest.mark.parametrize("deltas", [torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)])
def test_an_interval_needs_one_change_per_sequence(deltas):
    with pytest.raises(UserError, match="one change per sequence"):
        interval(deltas)


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([0.5, 0.6, 0.7], "needed"),
        ([-0.5, -0.6, -0.7], "harmful"),
        ([-1.0, 2.0, 0.5], "unclear"),
        ([0.0005, 0.0006, 0.0007], "no effect"),  # certain, and too small to matter
        ([-0.0005, -0.0006, -0.0007], "no effect"),
        ([-0.0001, 0.0, 0.0001], "no effect"),
        ([0.0019] * 3, "no effect"),
        ([0.0021] * 3, "needed"),
        ([-0.0021] * 3, "harmful"),
        ([0.0010, 0.0020, 0.0015], "needed"),  # 0.0003 to 0.0027: above 0, not all of it negligible
        ([-0.003, 0.0, 0.003], "unclear"),  # the mean is 0, but ±0.007 excludes nothing
        ([0.0], "unclear"),
        ([5.0], "unclear"),
        ([math.nan, 1.0], "unclear"),
        ([math.inf, 1.0], "unclear"),
    ],
)
def test_what_the_changes_prove(deltas, expected):
    assert effect(torch.tensor(deltas)) == expected
