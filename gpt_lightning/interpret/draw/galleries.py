"""Pictures of attention patterns, many heads side by side.

Shapes: H heads, T tokens, B bins of positions.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from gpt_lightning.interpret.draw.cached_figures import Drawn, Frame, Frames, new_frame
from gpt_lightning.interpret.draw.canvas import (
    COLOURS,
    DPI,
    HEIGHT,
    WIDTH,
    Box,
    add_axes,
    add_heading,
    add_scale,
    clip,
    spread,
    to_array,
)
from gpt_lightning.interpret.draw.text_fitting import drawable, fitted, known, shorten, text_width
from gpt_lightning.interpret.heads_of_note import choose_heads
from gpt_lightning.interpret.judge.verdicts import Verdict
from gpt_lightning.interpret.result import DepthScanResult

NOTE_TITLE = "Heads that stand out, and one of every other kind"
MOST_TOKENS = 128  # more would be thinner than a pixel where a dozen heads share a screen
LABELLED_TOKENS = 48  # up to here the axes show tokens, every one if there is room
LABEL_SIZES = (6.0, 8.0)  # points, smallest and largest
REASON_SIZE, REASON_LINES = 7.5, 2  # points; a line is 1.25 times as high
REASON_STYLE = {"fontsize": REASON_SIZE, "ha": "center", "va": "top", "color": "#5c6773", "linespacing": 1.2}
PAIR_GAP = 0.06  # inches between the two pictures of a head
LEAST_SIDE = 0.6  # inches, of a pooled picture
WEIGHTS = PowerNorm(0.5, 0, 1)


@dataclass(frozen=True)
class HeadPanel:
    """A head to show: its verdict in words, the reason in numbers, and its weights (T, T) on the text."""

    layer: int
    head: int
    label: str
    reason: str
    pattern_TT: Tensor


def panels_of_note(result: DepthScanResult, maps: Sequence[Tensor]) -> list[HeadPanel]:
    """The heads of `choose_heads` for `head_gallery`; `maps` are the weights per layer, (H, T, T) each."""
    noted = [(layer, head, result.verdicts[layer][head]) for layer, head in choose_heads(result)]
    return [HeadPanel(layer, head, verdict.label, verdict.reason, maps[layer][head]) for layer, head, verdict in noted]


def attention_gallery(
    pattern_HTT: Tensor,
    token_labels: Sequence[str],
    verdicts: Sequence[Verdict],
    layer: int,
    frames: Frames = new_frame,
) -> Drawn:
    """The attention of every head of one layer on one sequence: rows look at columns, colours on a √ scale.

    Args:
        pattern_HTT: Weights, (H, T, T), from `attention_maps`.
        token_labels: T visible texts of tokens, from `token_label`; shown if T ≤ 48.
        verdicts: H verdicts for the titles.
        layer: For the title.
        frames: The caller's.
    """
    titles = [f"head {head} · {verdict.label}" for head, verdict in enumerate(verdicts)]
    return _draw_panels(list(pattern_HTT), token_labels, titles, None, f"Layer {layer}: who looks at whom", frames)


def head_gallery(
    panels: Sequence[HeadPanel], token_labels: Sequence[str], title: str, frames: Frames = new_frame
) -> Drawn:
    """Heads of any layers on one sequence, each with its verdict and the reason; otherwise like `attention_gallery`.

    Args:
        panels: Up to 16 heads stay readable; the first 128 tokens of each are shown.
        token_labels: T visible texts of tokens, shown if T ≤ 48.
        title: Of the picture.
        frames: The caller's.
    """
    T = min(len(token_labels), MOST_TOKENS)
    patterns = [panel.pattern_TT[:T, :T] for panel in panels]
    titles = [f"layer {panel.layer} head {panel.head} · {panel.label}" for panel in panels]
    return _draw_panels(patterns, token_labels[:T], titles, [panel.reason for panel in panels], title, frames)


def _draw_panels(
    patterns: Sequence[Tensor],
    token_labels: Sequence[str],
    titles: Sequence[str],
    reasons: Sequence[str] | None,
    heading: str,
    frames: Frames,
) -> Drawn:
    future_TT = _future(len(token_labels))
    frame, panels, gap = frames(gallery_frame, len(patterns), tuple(token_labels), reasons is not None)
    figure = frame.figure
    for head, (axes, pattern_TT) in enumerate(zip(panels, patterns, strict=True)):
        axes.images[0].set_data(_colours(pattern_TT, future_TT))
        side, size = axes.bbox.width / DPI, axes.title.get_fontsize()
        title = shorten(known(titles[head]), int(72 * side / (0.6 * size)))
        axes.title.set_text(fitted(title, side + gap / 2, size))
        if reasons is not None:
            axes.texts[0].set_text(_wrapped(reasons[head], side))
    figure.texts[0].set_text(fitted(known(heading), figure.get_figwidth() - 0.2, 13))
    return frame.draw()


def gallery_frame(H: int, token_labels: tuple[str, ...], reasoned: bool) -> tuple[Frame, list[Axes], float]:
    """A figure with H empty panels and T labels on its sides; the panels; the inches between two panels.

    Its contents are each panel's image, title and, if `reasoned`, first text; and the heading, the figure's first text.
    """
    T = len(token_labels)
    named = T <= LABELLED_TOKENS
    labels = [drawable(text) for text in token_labels] if named else [str(i) for i in range(T)]
    right, top, gap = 1.0, 0.3, 0.12  # inches
    reason_room = REASON_LINES * 1.25 * REASON_SIZE / 72 if reasoned else 0
    head_room = 0.3 + reason_room  # for a panel's title and reason

    def room(size: float) -> tuple[float, float]:
        """Inches on the left and at the bottom: 0.35 for the axis's name, then labels and a margin or one line."""
        widest = max(text_width(text, size) for text in labels) + 0.1
        return 0.35 + widest, 0.35 + (widest if named else 0.2)

    left, bottom = room(LABEL_SIZES[1])
    columns, rows, side = _grid(H, WIDTH - left - right, HEIGHT - bottom - top, gap, head_room)
    pitch = 72 * side / T  # points from token to token
    size = clip(0.95 * pitch, *LABEL_SIZES)
    left, bottom = room(size)
    width, height = columns * (side + gap) - gap, rows * (side + head_room)
    figure = Figure((left + width + right, bottom + height + top), dpi=DPI)
    ticks = spread(T, int(side * 72 / size)) if named else spread(T, 8)
    # In tokens: 3 points, and half the height of a capital. Labels are placed by their baselines, to line up.
    gap_T, half_T = 3 / pitch, 0.36 * size / pitch
    query_style = {"fontsize": size, "ha": "right", "parse_math": False}
    if named:
        key_style, key_shift = query_style | {"rotation": 90, "rotation_mode": "anchor"}, half_T
    else:
        key_style, key_shift = {"fontsize": size, "ha": "center", "va": "top"}, 0
    title_size = clip(2.6 * side, 7, 11)
    panels, changing = [], []
    for head in range(H):
        row, column = divmod(head, columns)
        box = (left + column * (side + gap), bottom + (rows - 1 - row) * (side + head_room), side, side)
        axes = _image_axes(figure, box, np.zeros((T, T, 4), dtype=np.uint8))
        axes.set_title("", fontsize=title_size, pad=4 + 72 * reason_room, parse_math=False)
        if reasoned:
            place = (0.5, 1), (0, 2 + 72 * reason_room), "axes fraction", "offset points"
            axes.annotate("", *place, parse_math=False, **REASON_STYLE)
        panels.append(axes)
        changing += [axes.images[0], axes.title, *axes.texts, *axes.spines.values()]
        # Plain texts cost a fraction of tick labels, which are measured repeatedly.
        if column == 0:
            for i in ticks:
                axes.text(-0.5 - gap_T, i + half_T, labels[i], **query_style)
        if head + columns >= H:
            for i in ticks:
                axes.text(i + key_shift, T - 0.5 + gap_T, labels[i], **key_style)
    _add_surroundings(figure, "", (left, bottom, width, height), height - head_room, "attention weight (√ scale)")
    return Frame(figure, [*changing, figure.texts[0]]), panels, gap


def pooled_gallery(mean_HBB: Tensor, max_HBB: Tensor, tokens: int, verdicts: Sequence[Verdict], layer: int) -> Figure:
    """The pooled attention of a layer's heads on one long sequence, two pictures a head, axes in token positions.

    If a layer has so many heads that they would be too small, only the first ones are shown.

    Args:
        mean_HBB, max_HBB: From `pooled_attention`: on the left the mass that a query puts on each bin of keys, on the
            right the largest single weight in each cell.
        tokens: T, the length of the sequence.
        verdicts: H verdicts for the titles.
        layer: For the title.
    """
    H, B, _ = mean_HBB.shape
    left, bottom, right, top, gap, head_room = 0.95, 0.6, 1.0, 0.3, 0.2, 0.3  # inches
    most = WIDTH - left - right, HEIGHT - bottom - top
    shown = H
    while (grid := _grid(shown, *most, gap, head_room, pictures=2))[2] < LEAST_SIDE:
        shown -= 1
    columns, rows, side = grid
    pair = 2 * side + PAIR_GAP
    width, height = columns * (pair + gap) - gap, rows * (side + head_room)
    figure = Figure((left + width + right, bottom + height + top), dpi=DPI)
    title_size = clip(5 * side, 6.5, 11)
    future_BB = _future(B)
    ends = [(0, "0", "left", "top"), (1, str(tokens), "right", "bottom")]
    for head in range(shown):
        row, column = divmod(head, columns)
        x, y = left + column * (pair + gap), bottom + (rows - 1 - row) * (side + head_room)
        for i, (name, values_HBB) in enumerate((("mean", mean_HBB), ("max", max_HBB))):
            box = (x + i * (side + PAIR_GAP), y, side, side)
            axes = _image_axes(figure, box, _colours(values_HBB[head], future_BB))
            axes.text(0.96, 0.96, name, fontsize=7, ha="right", va="top", transform=axes.transAxes)
            for at, text, across, along in ends:
                if column == i == 0:
                    place = (0, 1 - at), (-3, 0)
                    axes.annotate(text, *place, "axes fraction", "offset points", ha="right", va=along, fontsize=7)
                if head + columns >= shown:
                    place = (at, 0), (0, -3)
                    axes.annotate(text, *place, "axes fraction", "offset points", ha=across, va="top", fontsize=7)
        title = fitted(f"head {head} · {known(verdicts[head].label)}", pair, title_size)
        place = ((x + pair / 2) / figure.get_figwidth(), (y + side + 0.06) / figure.get_figheight())
        figure.text(*place, title, fontsize=title_size, ha="center", va="bottom", parse_math=False)
    cut = "" if shown == H else f", the first {shown} of {H} heads"
    heading = f"Layer {layer}: who looks at whom on {tokens} tokens{cut}"
    scale = "mean: mass on a bin of keys · max: largest weight (√ scale)"
    area = (left, bottom, width, height)
    _add_surroundings(figure, heading, area, height - head_room, scale, token="position of the token")
    return figure


def _image_axes(figure: Figure, box: Box, colours: np.ndarray) -> Axes:
    axes = add_axes(figure, box)
    axes.imshow(colours)
    axes.set(xticks=[], yticks=[])
    return axes


def _colours(weights: Tensor, future: np.ndarray) -> np.ndarray:
    """Weights as RGBA, grey where a query cannot look."""
    return COLOURS(WEIGHTS(np.ma.array(to_array(weights), mask=future)), bytes=True)


def _future(n: int) -> np.ndarray:
    """Which of n keys come after each of n queries, (n, n) bool."""
    return np.triu(np.ones((n, n), dtype=bool), 1)


def _add_surroundings(figure: Figure, heading: str, box: Box, tall: float, unit: str, token: str = "the token") -> None:
    """Add heading, names of the axes and a scale around the panels, which fill a box."""
    left, bottom, width, height = box
    add_heading(figure, fitted(known(heading), figure.get_figwidth() - 0.2, 13), 13)
    middle = (left + width / 2) / figure.get_figwidth(), (bottom + height / 2) / figure.get_figheight()
    figure.supxlabel(f"key: {token} looked at", fontsize=10, x=middle[0], y=0.08 / figure.get_figheight())
    figure.supylabel(f"query: {token} that looks", fontsize=10, x=0.08 / figure.get_figwidth(), y=middle[1])
    scale = min(5.0, tall)
    add_scale(figure, (left + width + 0.2, bottom + (tall - scale) / 2, 0.17, scale), WEIGHTS, unit, 9)


def _grid(
    panels: int, width: float, height: float, gap: float, head_room: float, pictures: int = 1
) -> tuple[int, int, float]:
    """The columns, rows and side in inches at which panels of square pictures fill width × height inches best."""
    grids = []
    for columns in range(1, panels + 1):
        rows = math.ceil(panels / columns)
        across = (width + gap) / columns - gap - (pictures - 1) * PAIR_GAP
        grids.append((columns, rows, min(across / pictures, height / rows - head_room, 4.5)))
    # Of two grids with equal sides, the one with fewer gaps, then the wider one: screens are wide.
    return max(grids, key=lambda grid: (grid[2], -grid[0] * grid[1], grid[0]))


def _wrapped(text: str, width: float) -> str:
    """A reason, in as many lines as there is room for."""
    text = known(text)
    characters = int(len(text) * width / max(text_width(text, REASON_SIZE), width))
    lines = textwrap.wrap(text, max(characters, 1), max_lines=REASON_LINES, placeholder="…")
    return "\n".join(fitted(line, width, REASON_SIZE) for line in lines)
