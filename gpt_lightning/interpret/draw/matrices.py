"""Pictures of depth scans: layer × head matrices, and layer × step.

What is drawn at every validation can reuse the caller's frames, see cached_figures.py.

Shapes: L layers, H heads, S scans over time.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import PcolorImage
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
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
    heads_across,
    layers_downwards,
    spread,
    to_array,
)
from gpt_lightning.interpret.draw.text_fitting import FONT
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from gpt_lightning.interpret.metrics import HEAD_METRICS, PICTURED
from gpt_lightning.interpret.result import DepthScanResult


def head_matrix(result: DepthScanResult, metric: str, frames: Frames = new_frame) -> Drawn:
    """One metric of heads as a layer × head matrix, layer 0 on top, with the verdict's letter in each cell."""
    L, H = result.heads[metric].shape
    norm, width = metric_norm(metric, result), clip(2.4 + 0.6 * H, 5.5, WIDTH)
    key, unit = key_of(result.verdicts, width), HEAD_METRICS[metric].unit
    frame, matrix = frames(matrix_frame, L, H, width, key.count("\n"), norm.vmin, norm.vmax, unit)
    matrix.show(result, metric)
    frame.figure.texts[0].set_text(key)
    return frame.draw()


def matrix_frame(
    L: int, H: int, width: float, key_breaks: int, low: float, high: float, unit: str
) -> tuple[Frame, "Matrix"]:
    """A figure with a matrix above room for a key, the figure's only text, of `key_breaks` + 1 lines."""
    height = clip(1.9 + 0.5 * L, 3.6, HEIGHT)
    figure = Figure((width, height), dpi=DPI)
    foot = write_key(figure, "\n" * key_breaks)
    matrix = Matrix(figure, (0, foot, width, height - foot), (L, H), Normalize(low, high), unit)
    return Frame(figure, matrix.changing, figure.texts), matrix


def overview(result: DepthScanResult) -> Figure:
    """The main metrics side by side, for a first look at a model."""
    L, _ = result.heads["entropy"].shape
    columns, rows = 4, math.ceil(len(PICTURED) / 4)
    figure = Figure((WIDTH, clip(1.2 + rows * (1.2 + 0.3 * L), 7.3, HEIGHT)), dpi=DPI)
    step = "" if result.step is None else f"step {result.step}, "
    add_heading(figure, f"Depth scan: {step}{result.sequences} sequences of {result.tokens} tokens", 14)
    key_height = write_key(figure, key_of(result.verdicts, WIDTH))
    width, height = WIDTH / columns, (figure.get_figheight() - key_height - 0.35) / rows
    for i, metric in enumerate(PICTURED):
        box = (i % columns * width, key_height + (rows - 1 - i // columns) * height, width, height)
        draw_matrix(figure, box, result, metric, metric_norm(metric, result))
    return figure


def entropy_of_records(records: Sequence[Mapping], frames: Frames = new_frame) -> Drawn:
    """`entropy_over_time` of the scans of a run, given as `DepthScanResult.record`, oldest first."""
    entropy_SL = torch.tensor([[layer["normalized_entropy"] for layer in record["layers"]] for record in records])
    return entropy_over_time([record["step"] for record in records], entropy_SL, frames)


def entropy_over_time(steps: Sequence[int], normalized_entropy_SL: Tensor, frames: Frames = new_frame) -> Drawn:
    """Layer × step: the median normalised entropy of each layer's heads at each scan. Nothing shows a collapse better.

    Args:
        steps: Optimiser step of each scan.
        normalized_entropy_SL: (S, L), shares from 0 to 1; the medians over heads in a `DepthScanResult.record`.
        frames: The caller's.
    """
    S, L = normalized_entropy_SL.shape
    # Widened at every tenth scan only, so that a frame lasts for ten.
    frame, axes = frames(entropy_frame, clip(3 + 3 * math.ceil(S / 10), 6, WIDTH), L)
    axes.images[0].set(data=to_array(normalized_entropy_SL.T), extent=(-0.5, S - 0.5, L - 0.5, -0.5))
    shown = spread(S, int(axes.bbox.width / DPI / 0.75))  # 0.75 inches: eight digits
    axes.set_xticks(shown, [str(steps[i]) for i in shown])
    return frame.draw()


def entropy_frame(width: float, L: int) -> tuple[Frame, Axes]:
    """A figure with empty axes and a scale; its contents are the image and the steps."""
    height, norm = clip(1.6 + 0.4 * L, 3.2, HEIGHT), Normalize(0, 1)
    figure = Figure((width, height), dpi=DPI)
    axes = add_axes(figure, (0.65, 0.55, width - 1.75, height - 0.9))
    axes.imshow(np.zeros((L, 1)), cmap=COLOURS, norm=norm, aspect="auto")
    layers_downwards(axes, L)
    axes.set_xlabel("step")
    axes.set_title("Entropy over time, relative to uniform", fontsize=12)
    add_scale(figure, (width - 0.95, 0.55, 0.17, height - 0.9), norm, HEAD_METRICS["normalized_entropy"].unit, 9)
    return Frame(figure, [axes.images[0], axes.xaxis, *axes.spines.values()]), axes


def metric_norm(metric: str, *results: DepthScanResult) -> Normalize:
    """A metric's scale, which suits all of the results."""
    low, high = HEAD_METRICS[metric].limits(max(result.tokens for result in results))
    if high is not None:
        return Normalize(low, high)
    values = np.concatenate([to_array(result.heads[metric]).ravel() for result in results])
    # As far as the values reach, but in steps, so that pictures of neighbouring scans compare and share a frame.
    return Normalize(low, round_up(float(values[np.isfinite(values)].max(initial=0))))


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7 × 10^k that is not below `value`, at least 1e-9."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    # 1.5 × 10^k may come out a rounding error smaller than the value it was made from.
    return next(top for top in (step * power for step in (1, 1.5, 2, 3, 5, 7, 10)) if top >= value * (1 - 1e-9))


def draw_matrix(figure: Figure, box: Box, result: DepthScanResult, metric: str, norm: Normalize) -> None:
    """Draw a layer × head matrix with its letters, title and scale into a part of a figure."""
    Matrix(figure, box, result.heads[metric].shape, norm, HEAD_METRICS[metric].unit).show(result, metric)


class Matrix:
    """A layer × head matrix and its scale in a part of a figure, empty until `show`.

    Attributes:
        changing: The artists that `show` changes, for `Frame`.
    """

    def __init__(self, figure: Figure, box: Box, shape: tuple[int, int], norm: Normalize, unit: str) -> None:
        (L, H), self.norm = shape, norm
        left, bottom, width, height = box[0] + 0.5, box[1] + 0.45, box[2] - 1.5, box[3] - 0.8  # room for the words
        self.axes = axes = add_axes(figure, (left, bottom, width, height))
        # Like imshow without interpolation, but in a fifth of the time.
        self.edges = np.arange(H + 1) - 0.5, np.arange(L + 1) - 0.5
        self.image = PcolorImage(axes, *self.edges, np.zeros((L, H, 4), dtype=np.uint8))
        axes.add_image(self.image)
        heads_across(axes, H)
        layers_downwards(axes, L)
        axes.tick_params(labelsize=8, length=2)
        add_scale(figure, (left + width + 0.12, bottom, 0.14, height), norm, unit, 8)
        self.letter_size = min(12, 0.6 * 72 * min(width / H, height / L))  # points
        # One collection of outlines: a Text in every cell would take longer than the rest of the picture.
        self.letters = PathCollection(
            [],
            linewidths=0,
            offsets=[(head, layer) for layer in range(L) for head in range(H)],
            offset_transform=axes.transData,
            transform=Affine2D().scale(DPI / 72),
        )
        self.letters.set_snap(False)  # snapped to pixels, a T's strokes are thin in one cell and fat in the next
        axes.add_collection(self.letters, autolim=False)
        self.changing = [self.image, self.letters, axes.title, *axes.spines.values()]

    def show(self, result: DepthScanResult, metric: str) -> None:
        """Show a metric's values and title, and the verdicts' letters."""
        colours_LH4 = COLOURS(self.norm(np.ma.masked_invalid(to_array(result.heads[metric]))), bytes=True)
        self.image.set_data(*self.edges, colours_LH4)
        self.axes.set_title(HEAD_METRICS[metric].title, fontsize=11)
        if self.letter_size < 6:  # unreadable
            return
        luminance_LH = colours_LH4[..., :3] / 255 @ (0.2126, 0.7152, 0.0722)  # relative luminance, ITU-R BT.709
        paths = {name: _centred_letter(kind.letter, self.letter_size) for name, kind in KINDS.items()}
        self.letters.set_paths([paths[verdict.kind] for row in result.verdicts for verdict in row])
        self.letters.set_facecolor(["white" if luminance < 0.45 else "black" for luminance in luminance_LH.flat])


@lru_cache(maxsize=256)
def _centred_letter(letter: str, size: float) -> Path:
    """A letter's outline in points, its capital height and its own width centred on the origin."""
    outline = TextPath((0, 0), letter, size=size, prop=FontProperties(FONT))
    box, capital = outline.get_extents(), TextPath((0, 0), "B", size=size, prop=FontProperties(FONT)).get_extents()
    middle = (box.x0 + box.x1) / 2, (capital.y0 + capital.y1) / 2
    return Path(outline.vertices - middle, outline.codes)


def key_of(verdicts: Sequence[Sequence[Verdict]], width: float) -> str:
    """The key to the letters of those kinds of verdict that occur, wrapped to a width in inches."""
    occurring = {verdict.kind for row in verdicts for verdict in row}
    words = [f"{kind.letter} {name}".replace(" ", "\u00a0") for name, kind in KINDS.items() if name in occurring]
    return "\n".join(textwrap.wrap("   ".join(words), int(13 * width)))  # about 13 characters to the inch at 9 points


def write_key(figure: Figure, key: str) -> float:
    """Put a key at the bottom of a figure; returns the height that it takes, in inches."""
    figure.supxlabel(key, fontsize=9, y=0.06 / figure.get_figheight())
    return 0.26 + 0.16 * key.count("\n")
