"""Layer × head matrices of a depth scan, and what every picture here is drawn with: numbers in, matplotlib Figures out.

Never larger than 1600 × 1200 pixels. Only the object-oriented Figure, never pyplot: pyplot keeps every figure alive,
and a callback draws thousands. Knows nothing of models, files or TensorBoard. What is drawn at every validation takes
its frame from a cache, see redraw.py.

Shapes: L layers, H heads, T tokens, S scans over time.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.image import PcolorImage, imsave
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from torch import Tensor

from gpt_lightning.interpret.metrics import HEAD_METRICS, PICTURED
from gpt_lightning.interpret.redraw import Drawn, Frame
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.verdicts import KINDS, Verdict

DPI = 100
FONT = "DejaVu Sans"  # comes with matplotlib
WIDTH, HEIGHT = 16.0, 12.0  # inches, the largest figure
COLOURS = colormaps["viridis"].with_extremes(bad="#e9ecef")
Box = tuple[float, float, float, float]  # left, bottom, width, height in inches


def head_matrix(result: DepthScanResult, metric: str) -> Drawn:
    """One metric of heads as a layer × head matrix, layer 0 on top, with the verdict's letter in each cell."""
    L, H = result.heads[metric].shape
    norm, width = metric_norm(metric, result), clip(2.4 + 0.6 * H, 5.5, WIDTH)
    key = key_of(result.verdicts, width)
    frame, matrix = matrix_frame(L, H, width, key.count("\n"), norm.vmin, norm.vmax, HEAD_METRICS[metric].unit)
    matrix.show(result, metric)
    frame.figure.texts[0].set_text(key)
    return frame.draw()


# A scan's twelve metrics need five frames, one for each scale.
@lru_cache(maxsize=8)
def matrix_frame(
    L: int, H: int, width: float, key_breaks: int, low: float, high: float, unit: str
) -> tuple[Frame, "Matrix"]:
    """A matrix that fills a figure, above room for a key with so many line breaks; the key is the figure's text."""
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
    title = f"Depth scan: {step}{result.sequences} sequences of {result.tokens} tokens"
    figure.suptitle(title, fontsize=14, y=from_top(figure, 0.08))
    key_height = add_key(figure, result.verdicts)
    width, height = WIDTH / columns, (figure.get_figheight() - key_height - 0.35) / rows
    for i, metric in enumerate(PICTURED):
        box = (i % columns * width, key_height + (rows - 1 - i // columns) * height, width, height)
        draw_matrix(figure, box, result, metric)
    return figure


def entropy_over_time(steps: Sequence[int], normalized_entropy_SL: Tensor) -> Drawn:
    """Layer × step: the median normalised entropy of each layer's heads at each scan, the best picture of a collapse.

    Args:
        steps: Optimiser step of each scan.
        normalized_entropy_SL: (S, L), shares from 0 to 1; the medians over heads in a `DepthScanResult.record`.
    """
    S, L = normalized_entropy_SL.shape
    # Wider every ten scans only, so that a frame lasts for ten.
    frame, axes = entropy_frame(clip(3 + 3 * math.ceil(S / 10), 6, WIDTH), L)
    axes.images[0].set(data=to_array(normalized_entropy_SL.T), extent=(-0.5, S - 0.5, L - 0.5, -0.5))
    shown = spread(S, int(axes.bbox.width / DPI / 0.75))  # 0.75 inches: eight digits
    axes.set_xticks(shown, [str(steps[i]) for i in shown])
    return frame.draw()


@lru_cache(maxsize=1)
def entropy_frame(width: float, L: int) -> tuple[Frame, Axes]:
    """The empty axes of a figure with its scale; the image and the steps are contents."""
    height, norm = clip(1.6 + 0.4 * L, 3.2, HEIGHT), Normalize(0, 1)
    figure = Figure((width, height), dpi=DPI)
    axes = add_axes(figure, (0.65, 0.55, width - 1.75, height - 0.9))
    axes.imshow(np.zeros((L, 1)), cmap=COLOURS, norm=norm, aspect="auto")
    axes.set_yticks(spread(L, 24))
    axes.set(xlabel="step", ylabel="layer")
    axes.set_title("Entropy over time, relative to uniform", fontsize=12)
    add_scale(figure, (width - 0.95, 0.55, 0.17, height - 0.9), norm, HEAD_METRICS["normalized_entropy"].unit, 9)
    return Frame(figure, [axes.images[0], axes.xaxis, *axes.spines.values()]), axes


def figure_to_png(figure: Figure | Drawn) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    # The lowest compression: a tenth of the time, for files a third larger.
    imsave(buffer, _pixels(figure), format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def figure_to_array(figure: Figure | Drawn) -> np.ndarray:
    """The picture as (3, height, width) uint8, what TensorBoard's `add_image` takes."""
    return _pixels(figure)[..., :3].transpose(2, 0, 1).copy()


def _pixels(figure: Figure | Drawn) -> np.ndarray:
    """RGBA, (height, width, 4) uint8."""
    if isinstance(figure, Drawn):
        return figure.pixels
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def metric_norm(metric: str, *results: DepthScanResult) -> Normalize:
    """The scale of a metric that suits every one of the results."""
    low, high = HEAD_METRICS[metric].limits(max(result.tokens for result in results))
    if high is not None:
        return Normalize(low, high)
    values = np.concatenate([to_array(result.heads[metric]).ravel() for result in results])
    # Free, but in steps: pictures of neighbouring scans compare, and share a frame.
    return Normalize(low, round_up(float(values[np.isfinite(values)].max(initial=0))))


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7 × 10^k that is not below `value`, at least 1e-9."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    # Multiplied again, 1.5 × 10^k may be a rounding error below itself.
    return next(top for top in (step * power for step in (1, 1.5, 2, 3, 5, 7, 10)) if top >= value * (1 - 1e-9))


def draw_matrix(figure: Figure, box: Box, result: DepthScanResult, metric: str, norm: Normalize | None = None) -> None:
    """A layer × head matrix with its letters, title and scale in a part of a figure; `norm` None means the metric's."""
    norm = norm or metric_norm(metric, result)
    Matrix(figure, box, result.heads[metric].shape, norm, HEAD_METRICS[metric].unit).show(result, metric)


class Matrix:
    """A layer × head matrix and its scale in a part of a figure, empty until it is shown something.

    Attributes:
        changing: The artists that differ from one content to another, as Frame takes them.
    """

    def __init__(self, figure: Figure, box: Box, shape: tuple[int, int], norm: Normalize, unit: str) -> None:
        (L, H), self.norm = shape, norm
        left, bottom, width, height = box[0] + 0.5, box[1] + 0.45, box[2] - 1.5, box[3] - 0.8  # room for the words
        self.axes = axes = add_axes(figure, (left, bottom, width, height))
        # As imshow without interpolation, in a fifth of the time.
        self.edges = np.arange(H + 1) - 0.5, np.arange(L + 1) - 0.5
        self.image = PcolorImage(axes, *self.edges, np.zeros((L, H, 4), dtype=np.uint8))
        axes.add_image(self.image)
        axes.set(xlim=(-0.5, H - 0.5), ylim=(L - 0.5, -0.5))
        axes.set_xticks(spread(H, 16))
        axes.set_yticks(spread(L, 24))
        axes.tick_params(labelsize=8, length=2)
        axes.set(xlabel="head", ylabel="layer")
        add_scale(figure, (left + width + 0.12, bottom, 0.14, height), norm, unit, 8)
        self.letter_size = min(12, 0.6 * 72 * min(width / H, height / L))  # points
        # One collection of outlines: a Text for every cell takes longer than all the rest of the picture.
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
        """Put a metric's values, its name and the verdicts' letters in place of what is shown."""
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


def add_scale(figure: Figure, box: Box, norm: Normalize, label: str, size: float, colours: Colormap = COLOURS) -> None:
    """A colour scale and its unit, with room for both on the right of the box."""
    axes = add_axes(figure, box)
    figure.colorbar(ScalarMappable(norm, colours), cax=axes).set_label(label, fontsize=size)
    axes.tick_params(labelsize=size, length=2)


def add_key(figure: Figure, verdicts: Sequence[Sequence[Verdict]]) -> float:
    """What the letters mean, of the kinds that occur, at the bottom; returns the inches that it takes."""
    return write_key(figure, key_of(verdicts, figure.get_figwidth()))


def key_of(verdicts: Sequence[Sequence[Verdict]], width: float) -> str:
    """What the letters mean, of the kinds that occur, in as many lines as it takes at a width in inches."""
    found = {verdict.kind for row in verdicts for verdict in row}
    key = "   ".join(f"{kind.letter} {name}".replace(" ", "\u00a0") for name, kind in KINDS.items() if name in found)
    return "\n".join(textwrap.wrap(key, int(13 * width)))  # characters: about 13 to the inch at 9 points


def write_key(figure: Figure, key: str) -> float:
    """Put a key at the bottom of a figure; returns the inches that it takes."""
    figure.supxlabel(key, fontsize=9, y=0.06 / figure.get_figheight())
    return 0.26 + 0.16 * key.count("\n")


def add_axes(figure: Figure, box: Box) -> Axes:
    """Axes at a place in inches. The places are known, so nothing needs to be drawn twice to lay it out."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def from_top(figure: Figure, inches: float) -> float:
    """A height as matplotlib counts it, a share of the figure from its bottom."""
    return 1 - inches / figure.get_figheight()


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices below `count`, from 0."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def drawable(text: str) -> str:
    """At most 12 characters, those that the font lacks as boxes instead of warnings."""
    return shorten(known(text), 12)


def known(text: str) -> str:
    """The text with the characters that the font lacks as boxes."""
    font = _font()
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in text)


def shorten(text: str, most: int) -> str:
    """The first `most` characters, an ellipsis the last of them if any are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def fitted(text: str, width: float, size: float) -> str:
    """As much of a line of `known` characters as fits into `width` inches at `size` points."""
    most = len(text)
    while most > 1 and text_width(shorten(text, most), size) > width:
        most -= 1
    return shorten(text, most)


def text_width(text: str, size: float) -> float:
    """Inches that a line takes at `size` points."""
    font = _font()
    font.set_size(size, DPI)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / DPI  # it counts in 64ths of a pixel


def _font() -> FT2Font:
    return get_font(findfont(FONT))


def to_array(values: Tensor) -> np.ndarray:
    """float32, from any device."""
    return values.detach().float().cpu().numpy()


def clip(value: float, low: float, high: float) -> float:
    """The number between two others that is nearest to `value`."""
    return min(max(value, low), high)
