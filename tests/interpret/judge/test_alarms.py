"""Alarms from made-up records: every rule, its threshold, and that one scan is not enough."""

import json

import pytest

from gpt_lightning.interpret.judge.alarms import ALARMS, Alarm, health, layer_alarms, what_is_wrong

# A layer with nothing wrong.
HEALTHY = {
    "heads": 4,
    "broken_heads": 0,
    "finite": True,
    "silent_heads": 0,
    "dead_heads": [],
    "sharp_heads": 0,
    "largest_output": 0.2,
    "normalized_entropy": 0.8,
    "max_logit": 10.0,
    "stripe": 0.1,
    "stripe_at": "'e'",
    "one_column_share": 0.0,
    "effective_rank": 45.0,
    "block_influence": 0.1,
}
COLLAPSED = {"normalized_entropy": 0.05, "max_logit": 300.0, "stripe": 0.6}
# What raises each kind of alarm.
CAUSES = {
    "broken": {"broken_heads": 1},
    "entropy collapse": COLLAPSED,
    "dead layer": {"block_influence": 9e-5},
    "dead attention": {"silent_heads": 4},
    "dead heads": {"dead_heads": [2]},
    "lazy layer": {"one_column_share": 0.75},
}


def scans(*changes: dict, layers: int = 1) -> list[dict]:
    """A history: one scan for each of `changes` to the last layer, 50 steps apart, all other layers healthy."""
    return [
        {"step": 50 * (i + 1), "layers": [HEALTHY] * (layers - 1) + [HEALTHY | change]}
        for i, change in enumerate(changes)
    ]


def labels(*changes: dict) -> list[str]:
    return [alarm.label for alarm in layer_alarms(scans(*changes))]


def test_every_kind_is_tested_and_names_others_that_exist():
    assert ALARMS.keys() == CAUSES.keys() | {"rank collapse"}
    assert {kind for row in ALARMS.values() for kind in row.implies or ()} <= ALARMS.keys()


def test_a_healthy_layer_raises_no_alarm():
    assert labels({}, {}, {}) == []
    assert labels() == []


@pytest.mark.parametrize("kind", sorted(CAUSES.keys() - {"broken", "lazy layer"}))
def test_an_alarm_takes_two_scans_in_a_row(kind):
    cause = CAUSES[kind]
    assert labels(cause) == [f"{kind}?"]
    assert labels({}, cause) == [f"{kind}?"]
    assert labels(cause, cause) == [kind]
    assert labels(cause, {}, cause) == [f"{kind}?"]
    assert labels(cause, cause, {}) == []


def test_what_is_broken_needs_no_second_scan():
    assert labels({"broken_heads": 1}) == ["broken"]


def test_a_layer_that_passes_on_nan_is_broken():
    assert labels({"finite": False}) == ["broken"]


def test_a_text_too_short_for_stripes_shows_a_collapse_by_the_rest():
    nan = float("nan")
    assert labels(COLLAPSED | {"stripe": nan}) == ["entropy collapse?"]
    assert labels({"stripe": nan}, {"stripe": nan, "max_logit": 300.0}) == []


def test_a_lazy_layer_stays_a_suspicion_until_an_ablation_proves_it():
    cause = CAUSES["lazy layer"]
    alarms = layer_alarms(scans(cause, cause, cause))
    assert [alarm.label for alarm in alarms] == ["lazy layer?"]
    # Heads that rest on a sink are normal, so nobody need hear of it.
    assert health(150, alarms) == "healthy"
    assert what_is_wrong(150, alarms) == "Healthy: no layer raises an alarm."


@pytest.mark.parametrize(
    "change",
    [
        {"block_influence": 1.1e-4},
        {"silent_heads": 3},
        {"one_column_share": 0.74},
        COLLAPSED | {"normalized_entropy": 0.16},
        COLLAPSED | {"max_logit": 49.0},
        COLLAPSED | {"stripe": 0.29},
        {"sharp_heads": 2, "stripe": 0.6},
        {"sharp_heads": 3, "stripe": 0.29},
    ],
)
def test_every_condition_is_needed(change):
    assert labels(HEALTHY | change, HEALTHY | change) == []


def test_three_quarters_of_the_heads_sharp_are_a_collapse_on_its_way():
    assert labels({"sharp_heads": 3, "stripe": 0.31}) == ["entropy collapse?"]


def test_entropy_that_halves_while_logits_double_is_a_collapse():
    before = {"normalized_entropy": 0.8, "max_logit": 10.0}
    assert labels(before, {"normalized_entropy": 0.39, "max_logit": 21.0, "stripe": 0.4}) == ["entropy collapse?"]
    assert labels(before, {"normalized_entropy": 0.41, "max_logit": 21.0, "stripe": 0.4}) == []
    assert labels(before, {"normalized_entropy": 0.39, "max_logit": 19.0, "stripe": 0.4}) == []


def ranks(*values: float) -> list[str]:
    return labels(*({"effective_rank": value} for value in values))


def test_the_first_fall_of_the_rank_is_learning():
    """The healthy run of docs: 95, 33, then 45 to 50."""
    assert ranks(95, 33, 45, 50, 47) == []
    assert ranks(95, 60, 40, 20, 10, 5) == []


def test_a_rank_that_halves_after_it_rose_is_a_collapse():
    assert ranks(95, 33, 45, 50, 24) == ["rank collapse?"]
    assert ranks(95, 33, 45, 50, 24, 20) == ["rank collapse"]
    assert ranks(95, 33, 45, 50, 26, 26) == []


def test_a_rise_before_the_first_fall_changes_nothing():
    assert ranks(95, 100, 45, 44, 43) == []


def test_records_of_an_older_version_are_passed_over():
    history = scans(COLLAPSED, COLLAPSED, COLLAPSED)
    history[0]["layers"][0] = {"normalized_entropy": 0.05}
    assert [(alarm.label, alarm.scans) for alarm in layer_alarms(history)] == [("entropy collapse", 2)]


def test_a_flat_rank_can_collapse_too_once_learning_is_under_way():
    assert ranks(*[50] * 12, 20, 20) == ["rank collapse"]
    assert ranks(50, 50, 50, 20, 20) == []  # at step 150 a slow network may not have begun to learn
    assert ranks(*[50] * 6, *range(48, 10, -2)) == []


def test_next_to_no_rank_needs_no_history():
    assert ranks(2.9) == ["rank collapse?"]
    assert ranks(3.1) == []


def test_an_undefined_rank_says_nothing():
    nan = float("nan")
    assert ranks(nan, nan) == []
    assert ranks(95, 33, 45, nan, 50, 24, 24) == ["rank collapse"]


def test_nothing_is_said_at_step_0():
    history = scans(COLLAPSED)
    history[0]["step"] = 0
    assert layer_alarms(history) == []
    assert health(0, []) == "untrained"
    assert what_is_wrong(0, []).startswith("Untrained")


def test_an_alarm_names_its_layer_its_reason_and_since_when():
    alarm = layer_alarms(scans({}, COLLAPSED, COLLAPSED, COLLAPSED, layers=3))[0]
    assert (alarm.kind, alarm.layer, alarm.scans, alarm.since_step) == ("entropy collapse", 2, 3, 100)
    stripe = "0.60 of the mass that could go to one token goes to 'e'"
    assert alarm.reason == f"median entropy 0.05 of uniform, largest logit 300, {stripe}"


def test_a_dead_layer_is_not_blamed_for_its_attention_too():
    assert labels(CAUSES["dead layer"] | CAUSES["dead attention"] | CAUSES["dead heads"]) == ["dead layer?"]
    assert labels(CAUSES["dead attention"] | CAUSES["dead heads"]) == ["dead attention?"]


def test_dead_heads_are_numbered():
    reason = layer_alarms(scans({"dead_heads": [2, 5]}))[0].reason
    assert reason == "heads 2 and 5: under 0.001 of the residual stream"


def test_the_most_serious_alarm_comes_first():
    everything = {name: value for cause in CAUSES.values() for name, value in cause.items()}
    raised = labels(everything, everything)
    assert raised == ["broken"]  # from which everything else may follow
    del everything["broken_heads"]
    assert labels(everything, everything) == ["entropy collapse", "dead layer", "lazy layer?"]


def test_a_history_survives_json():
    """A checkpoint carries it as plain types."""
    history = scans(COLLAPSED, COLLAPSED)
    assert layer_alarms(json.loads(json.dumps(history))) == layer_alarms(history)


def alarm(kind: str, layer: int, confirmed: bool = True) -> Alarm:
    return Alarm(kind, layer, "why", 2 if confirmed else 1, 100, confirmed)


def test_what_is_wrong_is_one_thing_and_what_to_try():
    words = what_is_wrong(150, [alarm("dead layer", 3)])
    assert words.startswith("Layer 3 is dead: it passes the residual stream on unchanged (why), since step 100. Try: ")
    assert ALARMS["dead layer"].advice in words
    assert "Also" not in words


def test_a_suspicion_says_so_and_comes_after_what_is_certain():
    assert what_is_wrong(150, [alarm("dead layer", 3, False)]).startswith("Suspect: layer 3 is dead")
    assert "may pass" in what_is_wrong(150, [alarm("dead layer", 3, False)])
    both = what_is_wrong(150, [alarm("dead layer", 3, False), alarm("rank collapse", 1)])
    assert both.startswith("Layer 1 has a rank collapse")
    assert both.endswith("Also layer 3 (dead layer?).")


def test_more_alarms_are_listed_shortly():
    sentence = what_is_wrong(150, [alarm("entropy collapse", layer) for layer in range(6)])
    assert sentence.endswith(
        "Also layer 1 (entropy collapse), layer 2 (entropy collapse), layer 3 (entropy collapse) and 2 more."
    )


def test_the_health_of_a_run():
    assert health(150, []) == health(None, []) == "healthy"
    assert health(150, [alarm("dead layer", 3, False)]) == "suspect"
    assert health(150, [alarm("dead layer", 3, False), alarm("dead layer", 2)]) == "sick"
