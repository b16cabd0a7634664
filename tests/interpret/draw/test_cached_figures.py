"""Kept frames: they give the pictures that new frames give, whatever was drawn before; each owner keeps a few."""

import gc
import math
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gpt_lightning.interpret.draw.cached_figures import MOST_FRAMES, Drawn, Frames, kept_frames, new_frame
from gpt_lightning.interpret.draw.canvas import pixels_of, to_png
from gpt_lightning.interpret.draw.galleries import HeadPanel, attention_gallery, head_gallery
from gpt_lightning.interpret.draw.matrices import entropy_over_time, head_matrix
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from tests.interpret.draw.test_galleries import causal
from tests.interpret.draw.test_matrices import made_up_result, texts_of


def matrix(metric: str, turn: int, frames: Frames = new_frame) -> Drawn:
    """In every turn other values, some undefined, other verdicts, and one more kind in the key, of one line or two."""
    result = made_up_result(3, 5)
    values_LH = torch.rand(3, 5) * 4 + 15  # below 20: one scale for all turns
    values_LH[turn % 3] = math.nan
    result.heads[metric] = values_LH
    kinds = list(KINDS)[: 2 + turn]
    result.verdicts = [[Verdict(kinds[(3 * h + turn) % len(kinds)], "", "") for h in range(5)] for _ in range(3)]
    return head_matrix(result, metric, frames)


def weights(turn: int) -> torch.Tensor:
    pattern_HTT = causal(3, 20).roll(turn, 0)
    pattern_HTT[turn % 3, 4:8, 2] = math.nan
    return pattern_HTT


def layer(turn: int, frames: Frames = new_frame) -> Drawn:
    """In every turn another layer with other titles."""
    verdicts = [Verdict("stripe", f"stripe at 'jg{turn}'" * (1 + (head + turn) % 3), "") for head in range(3)]
    return attention_gallery(weights(turn), list("abcdefghijklmnopqrst"), verdicts, turn, frames)


def heads(turn: int, frames: Frames = new_frame) -> Drawn:
    """In every turn other heads with other reasons, of one line or two."""
    panels = [
        HeadPanel(turn, head, f"$kind_{turn}$", "a reason for it " * (1 + 3 * (head + turn)), pattern_TT)
        for head, pattern_TT in enumerate(weights(turn))
    ]
    return head_gallery(panels, list("abcdefghijklmnopqrst"), f"Heads {turn}", frames)


def over_time(turn: int, frames: Frames = new_frame) -> Drawn:
    """In every turn one more scan."""
    torch.manual_seed(turn)
    values_SL = torch.rand(3 + turn, 4)
    values_SL[turn, 1] = math.nan
    return entropy_over_time(range(0, 1000 * (3 + turn), 1000), values_SL, frames)


PICTURES = {
    "share": partial(matrix, "stripe"),
    "negative share": partial(matrix, "frequent_token_excess"),
    "free scale": partial(matrix, "max_logit"),
    "layer": layer,
    "heads of note": heads,
    "over time": over_time,
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_kept_frame_gives_the_picture_that_a_new_one_gives(draw):
    frames = kept_frames()
    first, second, third = draw(0, frames), draw(1, frames), draw(0, frames)
    assert frames.cache_info().misses == 1
    assert (first.pixels != second.pixels).any()
    np.testing.assert_array_equal(first.pixels, third.pixels)
    new = draw(1)
    np.testing.assert_array_equal(second.pixels, new.pixels)
    np.testing.assert_array_equal(second.pixels, pixels_of(new.figure))


def test_metrics_of_one_scale_share_a_frame_and_keep_their_titles():
    frames = kept_frames()
    shares = [matrix(metric, 0, frames) for metric in ("stripe", "induction", "local_mass")]
    assert frames.cache_info().misses == 1
    assert len({picture.pixels.tobytes() for picture in shares}) == 3
    assert "Mass on the last 8 tokens" in texts_of(shares[-1])
    matrix("frequent_token_excess", 0, frames)
    assert frames.cache_info().misses == 2


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_stays_as_it_is_while_the_next_one_is_drawn(draw):
    frames = kept_frames()
    first = draw(0, frames)
    pixels, png = first.pixels.copy(), to_png(first)
    draw(1, frames)
    assert np.array_equal(first.pixels, pixels)
    assert to_png(first) == png


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_two_owners_share_no_figure(draw):
    assert draw(0, kept_frames()).figure is not draw(0, kept_frames()).figure
    assert draw(0).figure is not draw(0).figure


def test_a_key_of_more_lines_gets_more_room():
    result = made_up_result(2, 8)
    tall = head_matrix(result, "stripe")
    result.verdicts = [[result.verdicts[0][0]] * 8] * 2
    assert head_matrix(result, "stripe").figure.axes[0].get_position().y0 < tall.figure.axes[0].get_position().y0


def test_only_a_few_frames_are_kept_and_none_without_their_owner():
    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Figure) for thing in gc.get_objects())

    before, frames = alive(), kept_frames()
    for i in range(1, 11):
        head_matrix(made_up_result(1, i), "stripe", frames)
        entropy_over_time(range(1), torch.rand(1, i), frames)
        attention_gallery(causal(1, 2), ["the", f"word{i}"], made_up_result(1, 1).verdicts[0], 0, frames)
        head_matrix(made_up_result(1, i), "stripe")
    assert alive() - before == frames.cache_info().currsize == MOST_FRAMES
    del frames
    assert alive() == before


def test_a_frame_is_kept_for_its_own_labels_only():
    frames = kept_frames()
    one, other = (attention_gallery(causal(1, 2), labels, [Verdict("", "", "")], 0, frames) for labels in ("ab", "ac"))
    assert texts_of(one).count("c") == 0
    assert texts_of(other).count("c") == 2
