"""The rows of metrics: each is computed, each computed metric has one, and their scales hold what they say."""

import math

import pytest
import torch

from gpt_lightning.interpret import scan
from gpt_lightning.interpret.judge.verdicts import KINDS
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS, METRICS, PICTURED
from gpt_lightning.interpret.scan import depth_scan
from tests.interpret.conftest import random_tokens, sharpened_gpt


def test_a_metric_without_a_row_and_a_row_that_nothing_computes_are_noticed(monkeypatch):
    gpt, tokens, computed = sharpened_gpt(), random_tokens(2, 20), scan.attention_statistics

    def more(q, *args):
        return computed(q, *args) | {"reach": torch.zeros(q.shape[:2])}

    monkeypatch.setattr(scan, "attention_statistics", more)
    with pytest.raises(KeyError, match="reach"):
        depth_scan(gpt, tokens)
    monkeypatch.setattr(scan, "attention_statistics", computed)
    monkeypatch.setattr(scan, "HEAD_METRICS", HEAD_METRICS | {"reach": HEAD_METRICS["stripe"]})
    with pytest.raises(KeyError, match="reach"):
        depth_scan(gpt, tokens)


def test_values_lie_on_the_fixed_scales():
    result = depth_scan(sharpened_gpt(), random_tokens(2, 70))
    for name, row in HEAD_METRICS.items():
        low, high = row.limits(70)
        values = result.heads[name][result.heads[name].isfinite()]
        assert len(values) > 0
        assert (values >= low).all(), name
        assert high is None or (values <= high).all(), name
    assert HEAD_METRICS["entropy"].limits(70) == (0, math.log(70))
    assert HEAD_METRICS["frequent_token_excess"].limits(70) == (-1, 1)


def test_every_row_has_words_for_people():
    for name, row in METRICS.items():
        assert row.title[0].isupper(), name
        assert row.meaning[0].isupper(), name
        assert row.meaning.endswith("."), name
    assert HEAD_METRICS["stripe"].heading == "Strongest later column (stripe)"
    assert LAYER_METRICS["effective_rank"].heading == "Effective rank (directions)"


def test_every_kind_of_head_is_clearest_by_a_metric_that_is_drawn():
    assert {kind.clearest[0] for kind in KINDS.values() if kind.clearest} <= set(PICTURED)
    assert len({kind.letter for kind in KINDS.values()}) == len({kind.colour for kind in KINDS.values()}) == len(KINDS)
