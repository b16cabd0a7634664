"""The report: complete, in order, and safe whatever a token holds."""

import math
import re

import torch

from gpt_lightning.interpret.report import report_html
from gpt_lightning.interpret.result import HEAD_UNITS, LAYER_UNITS, DepthScanResult
from gpt_lightning.interpret.verdicts import KINDS, Verdict

EVIL = "stripe at '<script>alert(1)</script>|{x}'"


def made_up() -> DepthScanResult:
    heads = {name: torch.full((2, 2), 0.25) for name in HEAD_UNITS}
    heads["stripe"][1, 1] = math.nan
    verdicts = [[Verdict("mixed", "mixed", "no rule matches"), Verdict("stripe", EVIL, "0.40 < {1}")] for _ in range(2)]
    return DepthScanResult(heads, {name: torch.ones(2) for name in LAYER_UNITS}, verdicts, 4, 64, 1200)


def page() -> str:
    return report_html(made_up(), "runs/<x>&y.ckpt", "a file called <b>", b"overview", [b"first", b"second"])


def test_nothing_is_markup_that_came_from_outside():
    for evil in ("<script", "<b>", "<x>"):
        assert evil not in page()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|{x}" in page()
    assert "0.40 &lt; {1}" in page()


def test_nothing_is_loaded_from_elsewhere():
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>]+)""", page())
    assert len(links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?:|@import|url\(|<link|<iframe", page())


def test_summary_then_pictures_then_every_head():
    text = page()
    assert text.index("4 heads in 2 layers") < text.index("<img") < text.rindex("<table")
    heads = text[text.rindex("<table") :]
    assert heads.count("<tr>") == 1 + 4
    assert "no rule matches" in heads
    assert "1,200 optimiser steps" in text
    assert "4 sequences of 64 tokens" in text


def test_advice_is_that_of_the_verdicts_table():
    assert KINDS["stripe"].advice in page()
    assert KINDS["broken"].advice not in page()  # none is
