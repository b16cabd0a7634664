"""A new metric, verdict or alarm takes one row (and a metric its function): everything that lists them then shows it.

Each is really added to a copy of the code, and then looked for where a user would look.
"""

import shutil
import subprocess
import sys

from tests.conftest import REPO

FOLDERS = ("gpt_lightning", "callbacks", "docs")
# File, what stands there, and what is put before it.
ADDED = [
    (
        "gpt_lightning/interpret/measure/attention.py",
        '        "output_norm": row',
        '        "reach": torch.full_like(max_logit_BH, 7),\n',
    ),
    (
        "gpt_lightning/interpret/metrics.py",
        '    "output_norm": Metric(',
        '    "reach": Metric("tokens", "Reach", "How far back it looks.", pictured=True, in_report=True, '
        'compared_as="far", charts=("layer", "worst")),\n',
    ),
    (
        "gpt_lightning/interpret/judge/verdicts.py",
        '    "induction": Kind(',
        '    "wide": Kind("W", "#123456", "is wide, as told", "Try nothing.", rule=lambda head: True, '
        'reason=lambda head: "wide indeed", stands_out=True),\n',
    ),
    (
        "gpt_lightning/interpret/judge/alarms.py",
        '    "broken": AlarmKind(',
        '    "two-headed": AlarmKind("has two heads", "it has two", "Add one.", '
        'lambda s: [n == 2 for n in s["heads"]], lambda r: f"{r[\'heads\']} of them"),\n',
    ),
]
SCAN = """
import torch

from callbacks.depth_scan import LAYOUT, write_scalars
from docs.write_tables import alarms, metrics, verdicts
from gpt_lightning.interpret.draw.matrices import key_of, overview
from gpt_lightning.interpret.heads_of_note import choose_heads
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.interpret.study import study
from gpt_lightning.interpret.write.attention_explorer import attention_explorer
from gpt_lightning.interpret.write.report import report_html
from gpt_lightning.interpret.write.tables import comparison_table, text_table, verdict_table, worst_of
from gpt_lightning.model import GPT, GPTConfig

torch.manual_seed(0)
gpt = GPT(GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=72, vocab_size=50))
tokens = torch.randint(50, (3, 72))
scan = depth_scan(gpt, tokens, step=100)
content = scan.to_json()
page = report_html(study(gpt, tokens, step=100, with_ablation=False), "x", "y", [])


class Page:
    tags = []
    def add_scalar(self, tag, value, step): self.tags.append(tag)
    add_histogram = add_scalar


write_scalars(Page(), scan, 100)
"""
METRIC = """
assert content["units"]["reach"] == "tokens"
assert content["layers"][1]["heads"][0]["reach"] == 7
assert worst_of(scan, "reach") == 7
assert "Reach (tokens)" in page
assert "Reach" in [axes.get_title() for axes in overview(scan).axes]
assert {"depth_scan/reach/layer_01", "depth_scan/reach/worst", "depth_scan/reach/heads"} <= set(Page.tags)
assert "reach" in LAYOUT["Depth scan: every layer"] and "reach" in LAYOUT["Depth scan: worst head"]
assert "far A" in comparison_table((scan, scan), ("a", "b"), (1.0, 1.0))
assert "| `reach` | tokens | How far back it looks. |" in metrics()
"""
VERDICT = """
verdict = scan.verdicts[0][0]
assert (verdict.kind, verdict.reason) == ("wide", "wide indeed")
assert "W\\u00a0wide" in key_of(scan.verdicts, 10)
assert len(choose_heads(scan)) == 4  # all of what stands out
assert "worth a look: layer 0 heads 0 and 1 are wide" in scan.summary
assert "wide indeed" in verdict_table(scan) and "Try nothing." in verdict_table(scan) and "wide" in text_table(scan)
assert "is wide, as told" in page and "#123456" in page
assert ">W<" in attention_explorer([torch.ones(2, 3, 3)] * 2, ["a", "b", "c"], scan.verdicts)
assert "| W | wide | is wide, as told | Try nothing. |" in verdicts()
"""
ALARM = """
assert [alarm.label for alarm in scan.alarms if alarm.layer == 0] == ["two-headed?"]
again = depth_scan(gpt, tokens, step=200, history=[scan.record()])
assert again.summary.startswith("Layer 0 has two heads (2 of them), since step 100. Try: Add one.")
assert "two-headed" in again.to_json()["layers"][0]["verdict"] and "Add one." in verdict_table(again)
assert "Add one." in page
assert "| two-headed | it has two | The layer has two heads. | Add one. |" in alarms()
"""


def test_a_function_and_a_row_are_all_that_a_new_one_takes(tmp_path):
    for folder in FOLDERS:
        shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "images"))
    for file, before, new in ADDED:
        text = (tmp_path / file).read_text()
        assert text.count(before) == 1, f"{before!r} is no longer in {file}"
        (tmp_path / file).write_text(text.replace(before, new + before))
    script = SCAN + METRIC + VERDICT + ALARM
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
