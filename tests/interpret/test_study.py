"""Everything on demand: what an ablation proves of verdicts and alarms, and what goes into the JSON."""

import json
import math
from dataclasses import replace

import pytest
import torch

from gpt_lightning.interpret.judge.alarms import Alarm
from gpt_lightning.interpret.judge.verdicts import Verdict
from gpt_lightning.interpret.measure.ablation import Ablation
from gpt_lightning.interpret.measure.predictions import cross_entropies
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.interpret.study import settled, study
from tests.interpret.circuits import induction_circuit, repeated_sequences
from tests.interpret.conftest import random_tokens, sharpened_gpt

NOTHING, NEEDED, HARMFUL = [0.0001, -0.0001, 0.0], [0.1, 0.11, 0.12], [-0.1, -0.11, -0.12]


def measured(scan, change: list[float]) -> Ablation:
    """An ablation that measured the same change everywhere."""
    L, H = scan.heads["entropy"].shape
    delta_n = torch.tensor(change)
    return Ablation(torch.ones(len(change)), delta_n.expand(L, H, -1), delta_n.expand(L, -1))


@pytest.mark.parametrize(("change", "kind"), [(NOTHING, "dead"), (NEEDED, "quiet"), (HARMFUL, "harmful")])
def test_an_ablation_settles_the_question_mark_of_a_dead_head(scanned, change, kind):
    scanned.verdicts[1][2] = Verdict("dead?", "dead?", "why")
    verdict = settled(scanned, measured(scanned, change)).verdicts[1][2]
    assert verdict.kind == kind
    assert "without it the loss changes by" in verdict.evidence


@pytest.mark.parametrize(
    ("kind", "change", "confirmed"),
    [
        ("lazy layer", NOTHING, True),
        ("lazy layer", NEEDED, False),
        ("dead attention", NOTHING, True),
        ("entropy collapse", NOTHING, True),
        ("entropy collapse", HARMFUL, True),
        ("entropy collapse", NEEDED, False),
        ("rank collapse", NOTHING, False),
    ],
)
def test_an_ablation_proves_a_suspicion_or_leaves_it_one(scanned, kind, change, confirmed):
    scanned.alarms = [Alarm(kind, 1, "why", scans=1, since_step=300, confirmed=False)]
    alarm = settled(scanned, measured(scanned, change)).alarms[0]
    assert alarm.confirmed == confirmed
    assert alarm.reason.startswith("why")
    assert ("without its attention the loss changes by" in alarm.reason) == (kind != "rank collapse")


def test_what_two_scans_have_confirmed_is_not_taken_back(scanned):
    scanned.alarms = [Alarm("entropy collapse", 1, "why", scans=2, since_step=250, confirmed=True)]
    assert settled(scanned, measured(scanned, NEEDED)).alarms[0].confirmed


def test_the_induction_circuit_is_understood():
    """The hand-built circuit on its own text: which heads it consists of, and that the others are of no use."""
    gpt = induction_circuit()
    result = study(gpt, repeated_sequences(8, 31, 64, seed=0), step=1)
    kinds = [[verdict.kind for verdict in row] for row in result.scan.verdicts]
    assert (kinds[0][0], kinds[1][0]) == ("previous-token", "induction")
    effects = [[head["ablation"]["effect"] for head in layer["heads"]] for layer in result.to_json()["layers"]]
    assert effects == [["needed", "no effect"], ["needed", "no effect"]]
    # Of the probe, which has no BOS, the first token is its own predecessor: half of one row of 31 goes there.
    assert result.scan.heads["induction"][1, 0].item() == pytest.approx(1 - 0.5 / 31, abs=1e-3)
    repeated = next(probe for probe in result.probes if probe.name == "repeated")
    assert repeated.cross_entropy < 0.2  # it copies: only the repeat's first token, of 64, is a surprise


def test_probes_and_their_floors():
    gpt, tokens = sharpened_gpt(), random_tokens(3, 60)
    probes = {probe.name: probe for probe in study(gpt, tokens, with_ablation=False).probes}
    assert list(probes) == ["natural", "random", "repeated"]
    types, counts = tokens.unique(return_counts=True)
    share = counts / counts.sum()
    assert probes["natural"].reference == pytest.approx(-(share * share.log()).sum().item())
    assert probes["random"].reference == pytest.approx(math.log(len(types)))
    assert probes["repeated"].reference == 0
    assert probes["natural"].cross_entropy == pytest.approx(cross_entropies(gpt, tokens).mean().item())
    mass = depth_scan(gpt, tokens).heads["first_position_mass"].mean(1)
    torch.testing.assert_close(probes["natural"].first_position_mass_L, mass)


def test_no_network_is_better_than_the_floor_on_random_text():
    """The best that there is: the same probability for each of the tokens that occur."""
    gpt, tokens = sharpened_gpt(), random_tokens(3, 60)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
    probe = study(gpt, tokens, with_ablation=False).probes[1]
    assert probe.cross_entropy == pytest.approx(math.log(50), rel=1e-5)
    assert probe.cross_entropy >= probe.reference


def test_the_json_has_everything_and_is_json():
    gpt, tokens = sharpened_gpt(), random_tokens(3, 60)
    content = json.loads(json.dumps(study(gpt, tokens, step=5).to_json(), allow_nan=False))
    assert {"cross_entropy", "probes", "similarity", "embedding", "alarms", "verdict"} <= content.keys()
    assert len(content["similarity"]) == 3
    for layer in content["layers"]:
        assert {"logit_lens_cross_entropy", "logit_lens_kl_to_final", "attention_ablation"} <= layer.keys()
        assert {"mean", "low", "high", "effect"} == layer["heads"][0]["ablation"].keys()
    names = {name for layer in content["layers"] for name in layer} - {"layer", "verdict", "heads"}
    assert names <= content["units"].keys()
    assert content["layers"][-1]["logit_lens_cross_entropy"] == pytest.approx(content["cross_entropy"], rel=1e-4)


def test_one_sequence_proves_nothing_and_still_is_json():
    content = study(sharpened_gpt(), random_tokens(1, 60), step=5).to_json()
    head = json.loads(json.dumps(content, allow_nan=False))["layers"][0]["heads"][0]
    assert head["ablation"]["effect"] == "unclear"
    assert (head["ablation"]["low"], head["ablation"]["high"]) == (None, None)


@pytest.mark.parametrize(("with_ablation", "steps"), [(True, 4 + 2), (False, 4)])
def test_progress_is_told(with_ablation, steps):
    told = []
    study(sharpened_gpt(), random_tokens(2, 30), None, None, (), with_ablation, lambda *step: told.append(step))
    assert len(told) == steps
    assert {total for _, total in told} == {steps}
    assert told.count(("ablating", steps)) == (2 if with_ablation else 0)


def test_history_is_the_scans(scanned):
    collapsed = replace(scanned, step=250).record()
    for layer in collapsed["layers"]:
        layer["block_influence"] = 0.0
    gpt = sharpened_gpt()
    with torch.no_grad():
        for part in (gpt.blocks[1].attention.output, gpt.blocks[1].mlp.down):
            part.weight.zero_()
            part.bias.zero_()
    result = study(gpt, random_tokens(3, 60), step=300, history=[collapsed], with_ablation=False)
    assert "dead layer" in [alarm.label for alarm in result.scan.alarms if alarm.layer == 1]


def test_a_text_that_the_network_does_not_know_raises_suspicions_only():
    """A network of huge logits on random tokens: its loss is far above that of guessing."""
    gpt, tokens = sharpened_gpt(n_layer=2), random_tokens(3, 70)
    with torch.no_grad():
        for part in (gpt.blocks[1].attention.output, gpt.blocks[1].mlp.down):
            part.weight.zero_()
            part.bias.zero_()
    known = study(gpt, tokens, step=5, history=[depth_scan(gpt, tokens, 4).record()])
    assert not known.foreign
    assert "dead layer" in [alarm.label for alarm in known.scan.alarms]
    foreign = study(gpt, tokens, step=5, history=[depth_scan(gpt, tokens, 4).record()], known_text=False)
    assert foreign.probes[0].cross_entropy > foreign.probes[0].reference + 0.5
    assert foreign.foreign
    assert "foreign to the network" in foreign.caution
    assert "foreign to the network" in foreign.to_json()["caution"]
    assert "dead layer?" in [alarm.label for alarm in foreign.scan.alarms]


def test_two_tokens_are_enough():
    result = study(sharpened_gpt(), torch.tensor([[1, 2]]), step=5)
    assert result.similarity.isnan().all()
    assert "leave much open" in result.caution
    json.dumps(result.to_json(), allow_nan=False)
