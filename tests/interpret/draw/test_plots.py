"""Pictures of an analysis: they fit at every size, and show what they say."""

import math

import matplotlib
import numpy as np
import pytest
import torch

from gpt_lightning.interpret.draw.plots import (
    COMPARED,
    ablation_figure,
    compare_figure,
    logit_lens_figure,
    similarity_figure,
)
from gpt_lightning.interpret.metrics import HEAD_METRICS
from tests.interpret.draw.test_matrices import (
    assert_fits_a_screen,
    assert_no_texts_overlap,
    made_up_result,
    texts_of,
)

TEXTS = ["the", "␣function", "W" * 40, "$\\frac{$", "⏎"]


def assert_it_fits(figure) -> None:
    assert_fits_a_screen(figure)
    assert_no_texts_overlap(figure)


def lens(L: int, positions: int):
    curve = torch.linspace(9, 3, L + 1)
    guesses = [[TEXTS[(depth + n) % len(TEXTS)] for n in range(positions)] for depth in range(L + 1)]
    return logit_lens_figure(curve, curve - 3, curve / 9, guesses, [TEXTS[n % len(TEXTS)] for n in range(positions)])


def ablation(L: int, H: int):
    torch.manual_seed(0)
    heads, attention = torch.randn(2, L, max(L, H))
    return ablation_figure(heads[:, :H], heads[:, :H] > 0, attention[:, 0], attention[:, 0] - 1, attention[:, 0] + 2)


@pytest.mark.parametrize(("L", "positions"), [(1, 1), (4, 30), (48, 24)])
def test_a_logit_lens_of_every_size_fits(L, positions):
    assert_it_fits(lens(L, positions))


@pytest.mark.parametrize(("L", "H"), [(1, 1), (12, 12), (48, 25)])
def test_an_ablation_of_every_size_fits(L, H):
    assert_it_fits(ablation(L, H))


@pytest.mark.parametrize("L1", [2, 13, 49])
def test_a_similarity_of_every_size_fits(L1):
    assert_it_fits(similarity_figure(torch.rand(L1, L1)))


@pytest.mark.parametrize(("a", "b"), [((1, 1), (2, 3)), ((48, 25), (12, 12))])
def test_a_comparison_of_every_size_fits(a, b):
    assert_it_fits(compare_figure(made_up_result(*a), made_up_result(*b), ("runs/" + "long/" * 60, "$b_{")))


def cells_of(figure) -> list[list[str]]:
    """The table's texts, row by row, without the headers, which are the annotations above it."""
    table = figure.axes[2]
    columns = sum(isinstance(text, matplotlib.text.Annotation) for text in table.texts)
    cells = [text.get_text() for text in table.texts if not isinstance(text, matplotlib.text.Annotation)]
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def cell_colours(figure) -> np.ndarray:
    """RGBA of the table's cells, (rows, columns, 4)."""
    image = figure.axes[2].images[0]
    return image.to_rgba(image.get_array())


def test_a_logit_lens_shows_every_guess_and_whether_it_stays():
    curves = torch.tensor([5.0, 4.0, 3.0]), torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 0.5, 1.0])
    figure = logit_lens_figure(*curves, [["a", "b"], ["c", "b"], ["c", "d"]], ["x", "y"])
    upper, lower, table = figure.axes
    assert [line.get_ydata().tolist() for line in (*upper.lines, *lower.lines)] == [curve.tolist() for curve in curves]
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [
        "cross-entropy",
        "KL from the final prediction",
    ]
    assert "nats" in upper.get_ylabel()
    assert cells_of(figure) == [["a", "b"], ["c", "b"], ["c", "d"]]
    assert [label.get_text() for label in table.get_yticklabels()] == ["embedding", "0", "1"]
    assert {"x", "y"} <= set(texts_of(table))
    colours = cell_colours(figure)
    same = (colours == colours[-1, -1]).all(-1)
    assert same.tolist() == [[False, False], [True, False], [True, True]]


def test_a_deep_logit_lens_leaves_out_depths_between_the_first_and_the_last():
    names = [label.get_text() for label in lens(48, 2).axes[2].get_yticklabels()]
    assert len(names) == 25
    assert names[:2] == ["embedding", "1"]
    assert names[-1] == "47"
    assert any("first 24 of 30 positions" in text for text in texts_of(lens(1, 30)))


def test_guesses_that_look_alike_when_shortened_are_not_the_same():
    zeros = torch.zeros(2)
    figure = logit_lens_figure(zeros, zeros, zeros, [["a" * 30 + "b"], ["a" * 30 + "c"]], ["x"])
    colours = cell_colours(figure)
    assert (colours[0, 0] != colours[1, 0]).any()


def test_an_ablation_is_centred_at_0_and_marks_what_is_not_significant():
    heads = torch.tensor([[0.5, -0.1, math.nan], [0.0, 0.2, -0.3]])
    significant = torch.tensor([[True, False, False], [False, True, True]])
    figure = ablation_figure(heads, significant, *torch.tensor([[0.3, -0.2], [0.1, -0.3], [0.4, 0.1]]))
    matrix, scale, bars = figure.axes
    assert matrix.images[0].get_clim() == (-0.5, 0.5)
    assert scale.get_ylim() == pytest.approx((-0.5, 0.5))
    assert "nats per token" in scale.get_ylabel()
    assert matrix.lines[0].get_xydata().tolist() == [[1, 0], [0, 1]]  # head, layer; not the one never measured
    assert any("not significant" in text for text in texts_of(figure))
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.3, -0.2])
    ends = [segment[:, 0] for segment in bars.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0.1, 0.4], [-0.3, 0.1]], atol=1e-6)
    assert bars.get_ylim() == (1.5, -0.5) == matrix.get_ylim()


def test_a_mean_that_rounding_put_outside_its_interval_draws():
    zero = torch.zeros(1)
    figure = ablation_figure(zero[None], torch.zeros(1, 1).bool(), zero + 1e-9, zero, zero)
    ends = figure.axes[2].collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [0, 0], atol=1e-8)


def test_a_similarity_has_the_embedding_first_and_a_fixed_scale():
    axes, scale = similarity_figure(torch.tensor([[0.5, 0.1], [0.2, 0.4]])).axes
    assert axes.images[0].get_clim() == (0, 1) == scale.get_ylim()
    assert axes.images[0].get_array()[1, 0] == pytest.approx(0.2)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["embedding", "0"]


def test_a_comparison_has_one_scale_for_both():
    a, b = made_up_result(2, 2), made_up_result(3, 4)
    a.heads["max_logit"] *= 0
    b.heads["max_logit"][1, 2] = 50
    b.step = None
    figure = compare_figure(a, b, ("before", "after"))
    texts = texts_of(figure)
    assert "before, step 300: 2 sequences of 64 tokens" in texts
    assert "after: 2 sequences of 64 tokens" in texts
    for metric in COMPARED:
        assert texts.count(HEAD_METRICS[metric].title) == 2
    matrices, scales = figure.axes[::2], figure.axes[1::2]
    assert [axes.images[0].get_array().shape[:2] for axes in matrices] == [(2, 2)] * 4 + [(3, 4)] * 4
    logits = COMPARED.index("max_logit")
    assert scales[logits].get_ylim() == scales[logits + 4].get_ylim() == (0, 50)
    assert matrices[0].get_position().y0 > matrices[4].get_position().y1  # a above b
    assert len(matrices[0].collections) == 1  # letters
