"""The report: complete, in order, and safe whatever a token contains."""

import math
import re
from html import escape

import torch

from gpt_lightning.interpret.judge.alarms import ALARMS, Alarm
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from gpt_lightning.interpret.measure.ablation import Ablation
from gpt_lightning.interpret.measure.logit_lens import LogitLens
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.study import Probe, Study
from gpt_lightning.interpret.write.report import KINDS_OF_PICTURE, Comparison, Picture, report_html

EVIL = "stripe at '<script>alert(1)</script>|{x}'"
PICTURES = [
    Picture("depth_scan.png", "overview", b"overview"),
    Picture("attention/heads_of_note.png", "heads of note", b"note"),
    Picture("attention/layer_00.png", "layer", b"first"),
    Picture("attention/layer_01.png", "layer", b"second"),
]


def made_up_scan(L: int = 2) -> DepthScanResult:
    heads = {name: torch.full((L, 2), 0.25) for name in HEAD_METRICS}
    heads["stripe"][1, 1] = math.nan
    verdicts = [[Verdict("mixed", "mixed", "no rule matches"), Verdict("stripe", EVIL, "0.40 < {1}")] for _ in range(L)]
    layers = {name: torch.ones(L) for name in LAYER_METRICS}
    return DepthScanResult(heads, layers, verdicts, 4, 64, 1200, [["'<b>'"] * 2] * L)


def made_up(with_ablation: bool = True) -> Study:
    probes = [Probe(name, 1.5, 0.5, torch.tensor([0.1, 0.2])) for name in ("natural", "random", "repeated")]
    lens = LogitLens(torch.tensor([3.0, 2.0, 1.5]), torch.zeros(3), torch.ones(3), torch.zeros(3, 4, dtype=torch.long))
    delta_n = torch.tensor([0.1234, 0.1234])
    ablation = Ablation(torch.ones(2), delta_n.expand(2, 2, -1), delta_n.expand(2, -1)) if with_ablation else None
    return Study(made_up_scan(), probes, lens, torch.eye(3), ablation)


def page(study: Study | None = None, **options) -> str:
    return report_html(study or made_up(), "runs/<x>&y.ckpt", "a file called <b>", PICTURES, **options)


def test_nothing_is_markup_that_came_from_outside():
    other = Comparison("<x>.ckpt", made_up_scan(), 1.0, same_tokens=True)
    study = made_up()
    study.scan.alarms = [Alarm("dead layer", 1, "<b>why</b>", 2, 1100, True)]
    text = page(study, comparison=other)
    for evil in ("<script", "<b>", "<x>"):
        assert evil not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|{x}" in text
    assert "0.40 &lt; {1}" in text


def test_nothing_is_loaded_from_elsewhere():
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>]+)""", page())
    assert len(links) == len(PICTURES)
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?:|@import|url\(|<link|<iframe", page())


def test_what_is_wrong_then_pictures_then_every_head():
    text = page()
    assert text.index("Healthy: no layer") < text.index("4 heads in 2 layers") < text.index("<img")
    assert text.index("<img") < text.rindex("<table")
    heads = text[text.rindex("<table") :]
    assert heads.count("<tr>") == 1 + 4
    assert "no rule matches" in heads
    assert "1,200 optimiser steps" in text
    assert "4 sequences of 64 tokens" in text
    assert "loss 1.500 nats" in text


def test_alarms_stand_on_top_with_what_to_try():
    study = made_up()
    assert "What is wrong, and what to try" not in page(study)
    study.scan.alarms = [
        Alarm("dead layer", 1, "block influence 0", 2, 1100, True),
        Alarm("rank collapse", 0, "rank 3", 1, 1200, False),
    ]
    text = page(study)
    assert 'class="summary sick"' in text
    assert text.index("Layer 1 is dead") < text.index("<img")
    table = text[text.index("What is wrong, and what to try") :]
    assert table.index("dead layer<") < table.index("rank collapse?<") < table.index("<img")
    assert ALARMS["rank collapse"].advice in table


def test_advice_is_that_of_the_verdicts_table():
    assert KINDS["stripe"].advice in page()
    assert KINDS["broken"].advice not in page()  # no head is


def test_pictures_of_a_kind_stand_under_one_heading_and_those_of_layers_are_folded():
    text = page()
    for kind in ("overview", "heads of note", "layer"):
        assert text.count(f"<h2>{escape(KINDS_OF_PICTURE[kind][0])}</h2>") == 1
    folded = text[text.index("<details>") : text.index("</details>")]
    assert folded.count("<img") == 2
    assert text.count("<img") == 4


def test_the_text_to_point_at_follows_the_heads_of_note():
    text = page(explorer="<div id='explorer'></div>")
    assert text.index("heads_of_note.png") < text.index("id='explorer'") < text.index("layer_00.png")


def test_what_ablation_found_is_in_the_tables_if_there_was_one():
    change = "+0.1234 (+0.1234 to +0.1234)"
    assert page().count(change) == 4 + 2
    without = page(made_up(with_ablation=False))
    assert change not in without
    assert "loss without" not in without


def test_another_checkpoint_of_another_depth_beside_this_one():
    text = page(comparison=Comparison("other.ckpt", made_up_scan(3), 1.25, same_tokens=False))
    table = text[text.index("Compared, layer by layer") : text.index("Every layer</h2>")]
    assert "other.ckpt" in table
    assert "1.25" in table
    assert "text of its own" in table
    assert table.count("<tr>") == (1 + 2) + (1 + 3)
    assert "0.25 | 0.25" in table
    assert "– | 0.25" in table  # this one has no third layer
    assert "very same tokens" in page(comparison=Comparison("other.ckpt", made_up_scan(3), 1.25, same_tokens=True))
