"""Verdicts from made-up metrics: every rule, its threshold, and which of two rules wins."""

import math

import pytest

from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict, head_verdict, summarise, with_evidence

NAN = math.nan
# A head that no rule matches.
MIXED = {
    "entropy": 2.0,
    "normalized_entropy": 0.6,
    "normalized_entropy_p10": 0.3,
    "normalized_entropy_p90": 0.8,
    "first_position_mass": 0.1,
    "first_position_mass_64": 0.1,
    "sink_rate": 0.0,
    "value_weighted_first_position_share": 0.1,
    "first_value_norm": 1.0,
    "stripe": 0.1,
    "stripe_position": 9.0,
    "stripe_token": 42.0,
    "local_mass": 0.3,
    "local_mass_baseline": 0.2,
    "previous_token": 0.1,
    "induction": 0.1,
    "duplicate_token": 0.1,
    "max_logit": 8.0,
    "output_norm": 1.0,
    "output_norm_relative_to_layer": 1.0,
    "output_norm_relative_to_residual": 0.1,
}
# What makes a head of each kind, in the order of the rules: the first that matches wins.
CAUSES = {
    "broken": {"entropy": NAN},
    "dead?": {"output_norm_relative_to_residual": 9e-4},
    "induction": {"induction": 0.4},
    "duplicate-token": {"duplicate_token": 0.4},
    "previous-token": {"previous_token": 0.4},
    "sink (active)": {"first_position_mass": 0.31, "sink_rate": 1.0, "value_weighted_first_position_share": 0.3},
    "stripe": {"stripe": 0.31},
    "local": {"local_mass": 0.51},
    "diffuse": {"normalized_entropy": 0.96},
    "mixed": {},
}
ALL_ON_FIRST = {"first_position_mass": 1.0, "value_weighted_first_position_share": 1.0}


def kind(**changes: float) -> str:
    return head_verdict(MIXED | changes).kind


@pytest.mark.parametrize("expected", CAUSES)
def test_every_kind_has_its_cause(expected):
    assert kind(**CAUSES[expected]) == expected


def test_the_first_rule_that_matches_wins():
    everything = {}
    for expected, cause in reversed(CAUSES.items()):  # from the last rule to the first, each added to those after it
        everything |= cause
        assert kind(**everything) == expected


def test_every_kind_can_be_reached():
    reached = {kind(**cause) for cause in CAUSES.values()} | {
        head_verdict(MIXED, step=0).kind,
        kind(**CAUSES["sink (active)"] | {"value_weighted_first_position_share": 0.1}),
    }
    reached |= {settled("dead?", effect).kind for effect in ("harmful", "no effect", "needed")}
    assert reached == KINDS.keys()


def settled(before: str, effect: str) -> Verdict:
    return with_evidence(Verdict(before, f"a {before}", "why"), effect, 0.0123, -0.0004, 0.025)


@pytest.mark.parametrize(
    ("before", "effect", "expected"),
    [
        ("dead?", "no effect", "dead"),
        ("dead?", "needed", "quiet"),
        ("dead?", "unclear", "dead?"),
        ("dead?", "harmful", "harmful"),
        ("mixed", "harmful", "harmful"),
        ("mixed", "no effect", "mixed"),
        ("stripe", "needed", "stripe"),
        ("sink (no-op)", "no effect", "sink (no-op)"),
    ],
)
def test_an_ablation_settles_what_attention_suggests(before, effect, expected):
    verdict = settled(before, effect)
    assert verdict.kind == expected
    assert "why" in verdict.reason
    assert verdict.evidence == "without it the loss changes by +0.0123 nats per token (-0.0004 to +0.0250)"


def test_a_verdict_that_stays_keeps_its_label():
    assert settled("stripe", "needed").label == "a stripe"
    assert settled("dead?", "no effect").label == "dead"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"output_norm_relative_to_residual": 1.1e-3}, "mixed"),
        ({"output_norm_relative_to_layer": 0.11}, "mixed"),
        ({"output_norm_relative_to_layer": 0.09}, "dead?"),
        ({"output_norm": 0.0, "output_norm_relative_to_residual": 0.0, "output_norm_relative_to_layer": NAN}, "dead?"),
        ({"previous_token": 0.39}, "mixed"),
        ({"first_position_mass": 0.3}, "mixed"),
        ({"first_position_mass": 0.8, "value_weighted_first_position_share": 0.41}, "sink (active)"),
        ({"first_position_mass": 0.8, "value_weighted_first_position_share": 0.39}, "sink (no-op)"),
        (ALL_ON_FIRST | {"first_value_norm": 0.19}, "sink (no-op)"),
        (ALL_ON_FIRST | {"first_value_norm": 0.21}, "sink (active)"),
        ({"stripe": 0.3}, "mixed"),
        ({"local_mass": 0.5}, "mixed"),
        ({"local_mass": 0.6, "local_mass_baseline": 0.31}, "mixed"),
        ({"local_mass": 0.6, "local_mass_baseline": 0.29}, "local"),
        ({"normalized_entropy": 0.95}, "mixed"),
    ],
)
def test_thresholds(changes, expected):
    assert kind(**changes) == expected


@pytest.mark.parametrize("name", ["entropy", "max_logit", "output_norm"])
@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_head_that_is_not_finite_is_broken_even_at_step_0(name, value):
    verdict = head_verdict(MIXED | {name: value}, step=0)
    assert verdict.kind == "broken"
    assert verdict.reason == f"{name} not finite"


def test_at_step_0_every_finite_head_is_untrained():
    for cause in list(CAUSES.values())[1:]:
        assert head_verdict(MIXED | cause, step=0).kind == "untrained"
        assert head_verdict(MIXED | cause, step=1).kind != "untrained"


def test_short_sequences_have_no_sinks_stripes_or_previous_token_heads():
    """Uniform attention alone puts 0.34 on position 0 of 8, and half on the previous token of 2."""
    undefined = dict.fromkeys(("sink_rate", "stripe", "stripe_position", "stripe_token", "local_mass"), NAN)
    assert kind(first_position_mass=0.9, previous_token=0.9, **undefined | {"local_mass_baseline": NAN}) == "mixed"


def test_a_sink_or_low_entropy_alone_never_stands_out():
    low = {name: 0.0 for name in MIXED if "entropy" in name}
    for share in (0.05, 0.95):
        sink = {"first_position_mass": 0.95, "sink_rate": 1.0, "value_weighted_first_position_share": share}
        for changes in (low, sink, sink | low):
            assert not KINDS[kind(**changes)].stands_out


def test_the_calibration_pair_of_runs():
    """Layer 0 of a healthy and a collapsing run: the ranges that were measured."""
    healthy = [(0.74, 0.04, 0.09, 6), (0.89, 0.02, 0.12, 24)]
    collapsing = [(0.03, 0.15, 0.38, 332), (0.18, 0.05, 0.65, 8)]
    for heads, stands_out in ((healthy, False), (collapsing, True)):
        for entropy, first, stripe, logit in heads:
            name = kind(normalized_entropy=entropy, first_position_mass=first, stripe=stripe, max_logit=logit)
            assert KINDS[name].stands_out == stands_out


def test_a_stripe_names_its_place_if_it_has_one():
    stripe = MIXED | {"stripe": 0.5, "stripe_position": 17.0}
    assert head_verdict(stripe).label == "stripe"
    mass = "0.50 of the mass that could go to one token goes to"
    assert head_verdict(stripe).reason == f"{mass} one, another in each sequence"
    named = head_verdict(stripe, stripe_place="'␣the'")
    assert (named.kind, named.label, named.reason) == ("stripe", "stripe at '␣the'", f"{mass} '␣the'")


def test_a_single_sequence_has_no_interval():
    verdict = with_evidence(Verdict("mixed", "mixed", "why"), "unclear", 0.5, -math.inf, math.inf)
    assert verdict.evidence == "without it the loss changes by +0.5000 nats per token (one sequence: no interval)"


def test_reasons_give_the_numbers():
    assert "0.42" in head_verdict(MIXED | {"previous_token": 0.42}).reason
    assert "8.0e-05" in head_verdict(MIXED | {"output_norm_relative_to_residual": 8e-5}).reason
    sink = head_verdict(MIXED | {"first_position_mass": 0.77, "value_weighted_first_position_share": 0.05})
    assert "0.77" in sink.reason
    assert "0.05" in sink.reason


def test_letters_are_distinct():
    letters = [kind.letter for kind in KINDS.values()]
    assert len(set(letters)) == len(letters)
    assert all(len(letter) == 1 for letter in letters)


def verdict(kind: str) -> Verdict:
    return Verdict(kind, kind, f"why {kind}")


def test_a_summary_when_nothing_stands_out():
    rows = [[verdict("mixed"), verdict("sink (no-op)")], [verdict("mixed"), verdict("local")]]
    assert summarise(rows) == "4 heads in 2 layers: 2 mixed, 1 sink (no-op), 1 local; nothing stands out."


def test_a_summary_names_the_three_worst_first():
    rows = [[verdict("stripe"), verdict("dead?")], [verdict("stripe"), verdict("broken")]]
    assert summarise(rows).endswith(
        "worth a look: layer 1 head 1 is broken (why broken); layer 0 head 1 is dead? (why dead?); "
        "layer 0 head 0 is stripe (why stripe); and 1 more."
    )


def test_heads_of_a_layer_that_are_alike_are_named_together():
    rows = [[verdict("mixed")] * 2, [verdict("dead?"), verdict("mixed"), verdict("dead?"), verdict("dead?")]]
    assert summarise(rows).endswith("worth a look: layer 1 heads 0, 2 and 3 are dead? (head 0: why dead?).")


def test_a_summary_of_one_layer():
    assert summarise([[verdict("dead?")]]) == (
        "1 head in layer 0: 1 dead?; worth a look: layer 0 head 0 is dead? (why dead?)."
    )
