"""The tables: how TensorBoard renders the Markdown, what a terminal shows, and which value is the worst."""

import math
import re

import pytest
import torch
from tensorboard.plugin_util import markdown_to_safe_html

from gpt_lightning.interpret.judge.alarms import ALARMS, Alarm
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from gpt_lightning.interpret.metrics import METRICS
from gpt_lightning.interpret.write.tables import text_table, verdict_table, worst_of


def html_rows(markdown: str) -> list[list[str]]:
    """The rows of cells that TensorBoard shows."""
    html = markdown_to_safe_html(markdown)
    unescaped = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
    rows = []
    for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL):
        cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
        for entity, character in unescaped:
            cells = [cell.replace(entity, character) for cell in cells]
        rows.append(cells)
    return rows


def test_the_verdict_table_in_tensorboard(scanned):
    rows = html_rows(verdict_table(scanned))
    assert rows[0] == ["layer", "head", "verdict", "why", "what to look at or try"]
    assert len(rows) == 1 + 15
    for i, (kind, row) in enumerate(zip(KINDS, rows[1:], strict=True)):
        assert row == [str(i // 5), str(i % 5), kind, "why", KINDS[kind].advice]


def test_the_verdict_table_begins_with_the_summary(scanned):
    assert verdict_table(scanned).startswith("Healthy: no layer raises an alarm. 15 heads in 3 layers: ")
    scanned.verdicts = [[Verdict("stripe", "stripe at '<b>|*x*'", "why")]]
    first_paragraph = re.search(r"<p>(.*?)</p>", markdown_to_safe_html(verdict_table(scanned)), re.DOTALL)[1]
    assert first_paragraph == scanned.summary.replace("<", "&lt;").replace(">", "&gt;")


def test_alarms_come_before_the_heads(scanned):
    scanned.alarms = [Alarm("dead heads", 1, "head 2: under 0.001", scans=2, since_step=250, confirmed=True)]
    rows = html_rows(verdict_table(scanned))
    assert rows[0] == ["layer", "alarm", "why", "since", "what to try"]
    assert rows[1] == ["1", "dead heads", "head 2: under 0.001", "step 250", ALARMS["dead heads"].advice]
    assert rows[2] == ["layer", "head", "verdict", "why", "what to look at or try"]


def test_what_an_ablation_measured_is_part_of_why(scanned):
    scanned.verdicts[0][1] = Verdict("mixed", "mixed", "no rule matches", "without it nothing changes")
    assert html_rows(verdict_table(scanned))[2][3] == "no rule matches; without it nothing changes"
    assert text_table(scanned).splitlines()[2].endswith("no rule matches; without it nothing changes")


@pytest.mark.parametrize(
    "token",
    [
        "|",
        "\\|",
        "\\\\|",
        "a|b",
        "*",
        "**a**",
        "_x_",
        "`",
        "``",
        "<b>",
        "</td>",
        "&lt;",
        "[a](b)",
        "$",
        "\\",
        "#",
        "~~a~~",
    ],
)
def test_tokens_that_are_markdown_are_shown_as_they_are(scanned, token):
    label = f"stripe at '{token}'"
    scanned.verdicts[0][0] = Verdict("stripe", label, "why")
    scanned.verdicts[0][1] = Verdict("stripe", label, "why")  # two in one document, as opening and closing signs
    rows = html_rows(verdict_table(scanned))
    assert [row[2] for row in rows[1:3]] == [label, label]
    assert {len(row) for row in rows} == {5}


def test_the_text_table_is_aligned(scanned):
    lines = text_table(scanned).splitlines()
    assert len(lines) == 1 + 15
    assert [line.split()[:2] for line in lines[1:]] == [
        [str(layer), str(head)] for layer in range(3) for head in range(5)
    ]
    assert len({line.index("why") for line in lines}) == 1


def test_the_worst_value_is_the_lowest_of_what_should_be_high(scanned):
    for name in ("entropy", "normalized_entropy", "output_norm_relative_to_residual", "block_influence"):
        values = scanned.heads[name] if name in scanned.heads else scanned.layers[name]
        assert worst_of(scanned, name) == values.min().item() < values.max().item()
    for name in ("first_position_mass", "stripe", "max_logit", "massive_activation_ratio", "residual_norm"):
        values = scanned.heads[name] if name in scanned.heads else scanned.layers[name]
        assert worst_of(scanned, name) == values.max().item() > values.min().item()


def test_undefined_values_are_never_the_worst(scanned):
    scanned.heads["stripe"][0, 0] = math.nan
    assert math.isfinite(worst_of(scanned, "stripe"))
    scanned.heads["stripe"] = torch.full_like(scanned.heads["stripe"], math.nan)
    assert math.isnan(worst_of(scanned, "stripe"))


def test_every_metric_has_a_worst_value(scanned):
    assert all(math.isfinite(worst_of(scanned, name)) for name in METRICS)
