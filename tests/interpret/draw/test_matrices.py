"""Matrices: they draw whatever a scan holds, no larger than a screen, and the same twice."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
import torch

from gpt_lightning.interpret.draw.canvas import pixels_of, to_png
from gpt_lightning.interpret.draw.matrices import entropy_over_time, head_matrix, metric_norm, overview, round_up
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS, PICTURED
from gpt_lightning.interpret.result import DepthScanResult

MIXED = Verdict("mixed", "mixed", "no rule matches")


def made_up_result(L: int, H: int) -> DepthScanResult:
    """A result of any size, every kind of verdict in turn, without a network."""
    torch.manual_seed(0)
    names = list(KINDS)
    verdicts = [
        [Verdict(kind := names[(layer * H + h) % len(names)], kind, "why") for h in range(H)] for layer in range(L)
    ]
    heads = {name: torch.rand(L, H) for name in HEAD_METRICS}
    layers = {name: torch.rand(L) for name in LAYER_METRICS}
    places = [["position 5"] * H for _ in range(L)]
    return DepthScanResult(heads, layers, verdicts, sequences=2, tokens=64, step=300, stripe_places=places)


def figure_to_array(picture) -> np.ndarray:
    """A picture's colours, (3, height, width) uint8."""
    return pixels_of(picture)[..., :3].transpose(2, 0, 1).copy()


def texts_of(picture) -> list[str]:
    """The texts of a Figure, which is its own `figure`, or of the picture last Drawn in a frame."""
    return [text.get_text() for text in picture.figure.findobj(matplotlib.text.Text) if text.get_text()]


def assert_fits_a_screen(picture) -> None:
    """It is no larger, and has a margin of white pixels all around: anything clipped would leave ink there."""
    pixels = figure_to_array(picture)
    assert pixels.shape[1] <= 1200
    assert pixels.shape[2] <= 1600
    for edge in (pixels[:, :2], pixels[:, -2:], pixels[:, :, :2], pixels[:, :, -2:]):
        assert (edge == 255).all()


def assert_no_texts_overlap(picture) -> None:
    figure_to_array(picture)
    boxes = [
        (t.get_text(), t.get_window_extent())
        for t in picture.figure.findobj(matplotlib.text.Text)
        if t.get_text() and t.get_visible()
    ]
    words = [(text, box) for text, box in boxes if len(text) >= 6]
    for i, (one, a) in enumerate(words):
        for other, b in words[i + 1 :]:
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(overlap) < 1, (one, other)  # pixels


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        *[
            (lambda result: head_matrix(result, "max_logit"), size)
            for size in [(1, 1), (2, 3), (12, 12), (48, 25), (3, 100)]
        ],
        (overview, (1, 1)),
        (overview, (36, 20)),
    ],
)
def test_matrices_of_every_size_fit(draw, size):
    figure = draw(made_up_result(*size))
    assert figure_to_array(figure).dtype == np.uint8
    assert len(figure_to_array(figure)) == 3
    assert_fits_a_screen(figure)
    assert_no_texts_overlap(figure)


@pytest.mark.parametrize(("S", "L"), [(1, 1), (3, 4), (10, 4), (500, 48)])
def test_entropy_over_any_time_fits(S, L):
    figure = entropy_over_time(range(0, 100_000 * S, 100_000), torch.rand(S, L))
    assert_fits_a_screen(figure)
    assert_no_texts_overlap(figure)


@pytest.mark.parametrize("metric", list(HEAD_METRICS))
def test_a_matrix_says_what_it_shows(scanned, metric):
    texts = texts_of(head_matrix(scanned, metric))
    assert HEAD_METRICS[metric].title in texts
    assert HEAD_METRICS[metric].unit in texts
    assert {"layer", "head"} <= set(texts)


def test_a_matrix_has_a_key_of_the_verdicts_that_occur(scanned):
    everything = made_up_result(2, len(KINDS))
    key = " ".join(texts_of(head_matrix(everything, "entropy"))).replace("\u00a0", " ").replace("\n", " ")
    for name, kind in KINDS.items():
        assert f"{kind.letter} {name}" in key
    scanned.verdicts = [[MIXED] * 5] * 2
    key = " ".join(texts_of(head_matrix(scanned, "entropy"))).replace("\u00a0", " ")
    assert "M mixed" in key
    assert "sink" not in key


def ink(pixels: np.ndarray, value: float) -> int:
    return int((pixels == value).all(0).sum())


def test_every_cell_has_its_letter_in_a_readable_ink():
    result = made_up_result(1, 2)
    result.heads["entropy"] = torch.tensor([[0.0, math.log(64)]])  # the darkest and the brightest colour
    result.verdicts = [[MIXED, MIXED]]
    pixels = figure_to_array(head_matrix(result, "entropy"))
    middle = pixels[:, 40:-110]
    dark, bright = middle[:, :, 60:230], middle[:, :, 270:440]
    assert ink(dark, 255) > 5
    assert ink(bright, 0) > 5
    assert ink(dark, 0) == ink(bright, 255) == 0


def test_different_verdicts_make_different_pictures(scanned):
    before = figure_to_array(head_matrix(scanned, "entropy"))
    scanned.verdicts[0][3], scanned.verdicts[0][4] = scanned.verdicts[0][4], scanned.verdicts[0][3]
    assert (figure_to_array(head_matrix(scanned, "entropy")) != before).any()


def test_layer_0_is_on_top_and_shares_have_a_fixed_scale():
    result = made_up_result(2, 1)
    result.heads["stripe"] = torch.tensor([[0.5], [0.0]])
    axes, scale = head_matrix(result, "stripe").figure.axes
    colours = axes.images[0].get_array()
    assert axes.get_ylim() == (1.5, -0.5)
    assert tuple(colours[0, 0]) == matplotlib.colormaps["viridis"](0.5, bytes=True)
    assert tuple(colours[1, 0]) == matplotlib.colormaps["viridis"](0.0, bytes=True)
    assert scale.get_ylim() == (0, 1)


def test_a_share_that_can_be_negative_has_0_in_the_middle():
    assert head_matrix(made_up_result(2, 1), "frequent_token_excess").figure.axes[1].get_ylim() == (-1, 1)


def test_the_scale_of_several_scans_holds_them_all():
    short, long = made_up_result(1, 2), made_up_result(1, 2)
    long.tokens = 1024
    for pair in ((short, long), (long, short)):
        assert metric_norm("entropy", *pair).vmax == pytest.approx(math.log(1024))


def test_a_free_scale_ends_at_a_round_number_that_neighbouring_scans_share():
    result = made_up_result(1, 2)
    tops = []
    for largest in (10.4, 14.9):
        result.heads["max_logit"] = torch.tensor([[1.0, largest]])
        tops.append(metric_norm("max_logit", result).vmax)
    assert tops == [15, 15]
    rounded = {0: 1e-9, 1: 1, 1.01: 1.5, 1.5: 1.5, 2.5: 3, 5: 5, 7.1: 10, 1000: 1000, 3e38: 3e38}
    assert {value: round_up(value) for value in rounded} == rounded
    for value in np.geomspace(1e-8, 1e8, 500):
        assert value <= round_up(value) <= 1.7 * value


def test_undefined_and_infinite_values_are_grey():
    result = made_up_result(1, 3)
    for name in HEAD_METRICS:
        result.heads[name] = torch.tensor([[math.nan, math.inf, 0.5]])
        colours = head_matrix(result, name).figure.axes[0].images[0].get_array()
        grey = [0xE9, 0xEC, 0xEF, 255]
        assert (colours[0, :2] == grey).all()
        assert (colours[0, 2] != grey).any()
    figure_to_array(overview(result))
    result.heads = {name: torch.full((1, 3), math.nan) for name in HEAD_METRICS}
    figure_to_array(overview(result))


def test_the_overview_shows_its_metrics_and_the_scan(scanned):
    texts = texts_of(overview(scanned))
    assert "Depth scan: step 300, 2 sequences of 70 tokens" in texts
    assert {HEAD_METRICS[metric].title for metric in PICTURED} <= set(texts)
    scanned.step = None
    assert "Depth scan: 2 sequences of 70 tokens" in texts_of(overview(scanned))


def test_pictures_are_deterministic(scanned):
    assert np.array_equal(
        figure_to_array(head_matrix(scanned, "entropy")), figure_to_array(head_matrix(scanned, "entropy"))
    )
    assert to_png(head_matrix(scanned, "entropy")) == to_png(head_matrix(scanned, "entropy"))


def test_a_png_is_the_same_picture_as_the_array(scanned):
    drawn = head_matrix(scanned, "entropy")
    for picture in (drawn, drawn.figure):
        decoded = matplotlib.image.imread(io.BytesIO(to_png(picture)))
        np.testing.assert_allclose(decoded[..., :3].transpose(2, 0, 1) * 255, figure_to_array(picture), atol=0.5)


def test_pyplot_keeps_no_figure(scanned):
    import matplotlib.pyplot as plt

    figure_to_array(head_matrix(scanned, "entropy"))
    to_png(entropy_over_time([0], torch.rand(1, 2)))
    assert plt.get_fignums() == []


def test_drawing_twice_is_not_needed(scanned, monkeypatch):
    """Laying out by drawing made the overview take 4 to 9 seconds."""
    draws = []
    original = matplotlib.figure.Figure.draw
    monkeypatch.setattr(matplotlib.figure.Figure, "draw", lambda self, *args: draws.append(1) or original(self, *args))
    figure_to_array(overview(scanned))
    assert len(draws) == 1
    assert overview(scanned).get_layout_engine() is None
