"""Attention pictures: they draw any weights and texts, no larger than a screen."""

import math

import matplotlib
import numpy as np
import pytest
import torch

from gpt_lightning.interpret.draw.cached_figures import Frames, kept_frames, new_frame
from gpt_lightning.interpret.draw.galleries import (
    HeadPanel,
    attention_gallery,
    head_gallery,
    pooled_gallery,
)
from gpt_lightning.interpret.judge.verdicts import Verdict
from tests.interpret.draw.test_matrices import (
    MIXED,
    assert_fits_a_screen,
    assert_no_texts_overlap,
    figure_to_array,
    texts_of,
)

WEIRD = [
    "$\\frac{$",
    "$",
    "$x_1$",
    "$\\frac{$",  # not a formula, in case anything reads it as one
    "_",
    "^",
    "\\frac{",
    "{}",
    "%",
    "\x00",
    "\n",
    "\r\n",
    "\t",
    "😀",
    "漢字",
    "ไทย",
    "",
    "a" * 40,
    "W" * 40,
]


def causal(H: int, T: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(H, T, T).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -math.inf).softmax(-1)


def gallery(H: int, T: int, texts=("the", "␣cat"), frames: Frames = new_frame):
    labels = [texts[i % len(texts)] for i in range(T)]
    return attention_gallery(causal(H, T), labels, [MIXED] * H, layer=3, frames=frames)


@pytest.mark.parametrize(("H", "T"), [(1, 2), (2, 8), (4, 48), (5, 49), (12, 20), (25, 128)])
def test_galleries_of_every_size_fit(H, T):
    assert_fits_a_screen(gallery(H, T, ("a" * 40, "␣function", "W" * 40)))


def test_a_gallery_says_what_it_shows():
    verdicts = [Verdict("stripe", "stripe at '$x_1$'", "why"), MIXED, MIXED]
    figure = attention_gallery(causal(3, 5), ["a", "b", "c", "d", "e"], verdicts, layer=7)
    texts = texts_of(figure)
    assert any("Layer 7" in text for text in texts)
    assert any("√" in text for text in texts)
    assert any("key" in text for text in texts)
    assert any("query" in text for text in texts)
    assert "head 0 · stripe at '$x_1$'" in texts
    assert "head 2 · mixed" in texts
    assert texts.count("c") == 1 + 3  # three panels in a row: on the left once, under each


def test_a_gallery_shows_row_by_row_who_looks_at_whom():
    """Row 2 looks at token 0: the bright cell is in the lower left; later tokens are grey."""
    pattern = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]])
    colours = attention_gallery(pattern, list("abc"), [MIXED], 0).figure.axes[0].images[0].get_array()
    bright, dark = (np.array(matplotlib.colormaps["viridis"](x, bytes=True)) for x in (1.0, 0.0))
    assert (colours[2, 0] == bright).all()
    assert (colours[2, 1] == dark).all()
    assert (colours[0, 2] == np.array([0xE9, 0xEC, 0xEF, 255])).all()


def test_a_gallerys_colours_are_on_a_root_scale():
    pattern = torch.tensor([[[1.0, 0], [0.25, 0.75]]])
    colours = attention_gallery(pattern, list("ab"), [MIXED], 0).figure.axes[0].images[0].get_array()
    expected = np.array(matplotlib.colormaps["viridis"](0.5, bytes=True)).astype(int)
    assert abs(colours[1, 0].astype(int) - expected).max() <= 2


def test_labels_stand_at_their_tokens():
    axes = gallery(1, 48, [f"t{i}" for i in range(48)]).figure.axes[0]
    for text in axes.texts:
        i = int(text.get_text()[1:])
        box = text.get_window_extent()
        at = axes.transData.transform((i, i))
        if text.get_rotation() == 0:
            assert (box.y0 + box.y1) / 2 == pytest.approx(at[1], abs=3)  # pixels; a token is 9 of them
            assert box.x1 < axes.bbox.x0
        else:
            assert (box.x0 + box.x1) / 2 == pytest.approx(at[0], abs=3)
            assert box.y1 < axes.bbox.y0


def test_above_48_tokens_positions_are_numbered():
    texts = texts_of(gallery(1, 64, ["secret"]))
    assert "secret" not in texts
    assert texts.count("8") == 2


@pytest.mark.parametrize("T", [len(WEIRD), 60])
def test_weird_tokens_draw_without_a_warning(T):
    verdicts = [Verdict("stripe", f"stripe at '{text}'", "why") for text in WEIRD[:12]]
    figure_to_array(attention_gallery(causal(12, T), [WEIRD[i % len(WEIRD)] for i in range(T)], verdicts, layer=0))


def test_a_head_that_is_not_finite_draws():
    figure_to_array(attention_gallery(torch.full((1, 4, 4), math.nan), list("abcd"), [MIXED], 0))


def panels(
    n: int, T: int, label: str = "stripe at 'W'", reason: str = "0.43 of the mass goes there"
) -> list[HeadPanel]:
    return [HeadPanel(i, 7, label, reason, pattern) for i, pattern in enumerate(causal(n, T))]


@pytest.mark.parametrize(("n", "T"), [(1, 2), (6, 10), (16, 150)])
def test_chosen_heads_of_every_number_fit(n, T):
    wide = panels(n, T, f"stripe at '{'W' * 30}'", "W" * 50 + " and a reason that is far too long for two lines " * 3)
    figure = head_gallery(wide, ["the"] * T, "W" * 90)
    assert_fits_a_screen(figure)
    assert_no_texts_overlap(figure)


def test_a_chosen_head_says_which_and_why():
    texts = texts_of(head_gallery(panels(2, 5), list("abcde"), "The heads of $note$"))
    assert {"The heads of $note$", "layer 1 head 7 · stripe at 'W'", "0.43 of the mass goes there"} <= set(texts)
    assert any("√" in text for text in texts)
    long = panels(1, 5, reason="output is 0.04 of the layer's mean head; without it nothing changes " * 3)
    reason = next(text for text in texts_of(head_gallery(long, list("abcde"), "")) if "layer's mean" in text)
    assert reason.count("\n") == 1
    assert reason.endswith("…")


def test_chosen_heads_show_their_own_weights_of_at_most_128_tokens():
    first, second = causal(2, 150)
    picture = head_gallery([HeadPanel(0, 0, "", "", first), HeadPanel(1, 0, "", "", second)], ["a"] * 150, "")
    images = [axes.images[0].get_array() for axes in picture.figure.axes[:2]]
    assert images[0].shape == (128, 128, 4)
    assert (images[0] != images[1]).any()


def pooled(H: int, B: int) -> torch.Tensor:
    return causal(H, B).masked_fill(torch.ones(B, B, dtype=torch.bool).triu(1), math.nan)


@pytest.mark.parametrize(("H", "B", "T"), [(1, 2, 2), (2, 16, 16), (25, 8, 1024)])
def test_pooled_pictures_of_every_size_fit(H, B, T):
    verdict = Verdict("stripe", f"stripe at '{'W' * 30}'", "why")
    figure = pooled_gallery(pooled(H, B), pooled(H, B), T, [verdict] * H, layer=3)
    assert_fits_a_screen(figure)
    assert_no_texts_overlap(figure)
    assert len(figure.axes) == 2 * H + 1
    assert f"Layer 3: who looks at whom on {T} tokens" in texts_of(figure)


def test_pooled_pictures_of_too_many_heads_are_of_the_first():
    figure = pooled_gallery(pooled(140, 2), pooled(140, 2), 131072, [MIXED] * 140, layer=3)
    shown = (len(figure.axes) - 1) // 2
    assert 100 <= shown < 140
    assert min(axes.bbox.height for axes in figure.axes[:-1]) >= 60  # pixels
    assert figure.bbox.width < 1601
    assert figure.bbox.height < 1201
    assert f"Layer 3: who looks at whom on 131072 tokens, the first {shown} of 140 heads" in texts_of(figure)


def test_a_pooled_picture_shows_mean_and_max_on_a_root_scale():
    mean, largest = torch.tensor([[[1.0, math.nan], [0.25, 0.75]]]), torch.tensor([[[1.0, math.nan], [0.04, 0.36]]])
    figure = pooled_gallery(mean, largest, 10, [MIXED], layer=0)
    for axes, name, root in zip(figure.axes, ("mean", "max"), (0.5, 0.2), strict=False):
        colours = axes.images[0].get_array().astype(int)
        assert abs(colours[1, 0] - np.array(matplotlib.colormaps["viridis"](root, bytes=True))).max() <= 4
        assert (colours[0, 1] == np.array([0xE9, 0xEC, 0xEF, 255])).all()
        assert axes.texts[0].get_text() == name
    texts = texts_of(figure)
    assert {"head 0 · mixed", "0", "10", "key: position of the token looked at"} <= set(texts)
    assert any("√" in text and "mean: mass" in text for text in texts)


def test_pyplot_keeps_no_figure():
    import matplotlib.pyplot as plt

    figure_to_array(gallery(1, 4))
    assert plt.get_fignums() == []


def test_a_gallery_is_drawn_once_and_twice_the_same(monkeypatch):
    draws = []
    original = matplotlib.figure.Figure.draw
    monkeypatch.setattr(matplotlib.figure.Figure, "draw", lambda self, *args: draws.append(1) or original(self, *args))
    one, other = (gallery(2, 12, frames=frames) for frames in [kept_frames()] * 2)
    assert np.array_equal(one.pixels, other.pixels)
    assert len(draws) == 1
